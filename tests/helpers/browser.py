"""The browsers that the tests of HTML pages drive, headless: Chromium, and Firefox as Debian or Mozilla ship it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

NAMES = {
    "chromium": ("chromium", "chromium-browser", "google-chrome", "chrome"),
    "firefox": ("firefox-esr", "firefox"),
}
CHROMIUM_ARGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
CHROMIUM_ARGS += ["--disable-background-networking", "--disable-component-update"]

# For what Playwright cannot do in Firefox as it is shipped: emulate paper, switch scripts off, measure memory.
chromium_only = pytest.mark.parametrize("browser", ["chromium"], indirect=True)


@pytest.fixture(scope="module", params=list(NAMES))
def browser(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The running browser, one after the other. The test is skipped where it is not installed."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
    name = request.param
    path = os.environ.get(name.upper()) or next(filter(None, map(shutil.which, NAMES[name])), None)
    if path is None:
        pytest.skip(f"needs {name} on the PATH, or its path in {name.upper()}")
    with sync_api.sync_playwright() as p:
        if name == "chromium":
            running = p.chromium.launch(executable_path=path, args=CHROMIUM_ARGS)
        else:
            relay = tmp_path_factory.mktemp("firefox") / "firefox"
            relay.write_text(
                f'#!/bin/sh\nexec "{sys.executable}" "{Path(__file__).with_name("firefox.py")}" "{path}" "$@"\n'
            )
            relay.chmod(0o755)
            running = p.firefox.launch(channel="moz-firefox", executable_path=relay)
        yield running
        running.close()


def printed(page: Any, folder: Path) -> str:
    """The text of a page on paper, really printed. The test is skipped without pdftotext.

    page: the page.
    folder: where the PDF file goes, as `page.pdf`.
    """
    if not shutil.which("pdftotext"):
        pytest.skip("needs pdftotext, of poppler-utils")
    page.pdf(path=folder / "page.pdf")
    command = ["pdftotext", "-layout", folder / "page.pdf", "-"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
