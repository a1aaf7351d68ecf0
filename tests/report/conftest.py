"""The browsers for the tests of this folder."""

from helpers.browser import browser

__all__ = ["browser"]
