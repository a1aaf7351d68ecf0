"""The former place of `write_viewer`, kept for one release: import it from `ibtpo.viewer.page`."""

from ..viewer.page import write_viewer as write_viewer
