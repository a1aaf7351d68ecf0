"""A real browser for the tests of the viewer's pages: headless Chromium, which opens them from disk."""

import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from helpers.view_pages import WIDE

CHROMIUM = os.environ.get("CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None
)
ARGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
ARGS += ["--disable-background-networking", "--disable-component-update"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """The running browser. The test is skipped where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
    if CHROMIUM is None:
        pytest.skip("needs chromium on the PATH, or its path in CHROMIUM")
    with sync_api.sync_playwright() as p:
        running = p.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        yield running
        running.close()


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
