"""The former place of `write_viewer`. It stays for one release; import it from `ibtpo.viewer.page` instead."""

from ..viewer.page import write_viewer as write_viewer
