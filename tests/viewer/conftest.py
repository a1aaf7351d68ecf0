"""Real browsers for the tests of the viewer's pages, which open them from disk."""

from collections.abc import Iterator
from typing import Any

import pytest

from helpers.browser import browser
from helpers.view_pages import WIDE

__all__ = ["browser", "open_page"]


@pytest.fixture
def open_page(browser: Any) -> Iterator[Any]:
    """Opens an address; at the end nothing may have gone wrong and nothing but the file been asked for."""
    contexts = []
    wrong: list[str] = []

    def open_(url: str, wait: str = ".rows a:visible, .card:visible", **options: Any) -> Any:
        context = browser.new_context(**{"viewport": WIDE, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(8000)
        page.on("console", lambda m: wrong.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda e: wrong.append(str(e)))
        page.on("dialog", lambda d: wrong.append(f"dialog {d.message}") or d.dismiss())
        page.on(
            "request",
            lambda r: wrong.append(f"request {r.url}") if r.url.partition("#")[0] != url.partition("#")[0] else None,
        )
        page.goto(url)
        if wait:
            page.wait_for_selector(wait)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert wrong == []
