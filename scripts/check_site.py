"""Checks the built site: no dead link, no dead anchor, nothing fetched from another host.

    python scripts/check_site.py build/site

There is no network here: a link to another host is checked by its form, and one into this repository on GitHub by the
file that it names. Exit code 1 and a line a finding when something is wrong.
"""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

REPOSITORY = "https://github.com/ibtpo/ibtpo"
FETCHED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href", "object": "data"}
_IN_STYLE = re.compile(r"""(?:url\(|@import)\s*["']?\s*((?:https?:)?//[^"')\s]+)""", re.IGNORECASE)


class _Page(HTMLParser):
    """The ids of a page, where it links to, and what it fetches by itself."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.ids |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        names_a_page = tag == "link" and values.get("rel") in ("canonical", "next", "prev")
        if FETCHED.get(tag) in values and not names_a_page:
            self.fetched.append(values[FETCHED[tag]])


def problems_of(site: Path, repository: Path) -> list[str]:
    """A line for everything that is wrong with the site. repository: the root of a checkout."""
    pages = {path.resolve(): _Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    if not pages:
        return [f"{site} holds no page; build it with: make docs"]
    found = []
    for path, page in pages.items():
        name = path.relative_to(site.resolve())
        for target in page.links:
            if reason := _wrong_link(target, path, pages, site.resolve(), repository):
                found.append(f"{name}: {target}: {reason}")
        for target in page.fetched:
            parts = urlsplit(target)
            if parts.netloc or parts.scheme not in ("", "data"):
                found.append(f"{name}: {target}: is fetched from another host")
            elif not parts.scheme and not _file(parts.path, path, site.resolve()).is_file():
                found.append(f"{name}: {target}: no such file")
    for style in sorted(site.rglob("*.css")):
        for target in _IN_STYLE.findall(style.read_text(encoding="utf-8")):
            found.append(f"{style.relative_to(site)}: {target}: is fetched from another host")
    return found


def _file(address: str, page: Path, site: Path) -> Path:
    """The file that an address on a page stands for."""
    if not address:
        return page
    start = site if address.startswith("/") else page.parent
    file = (start / unquote(address).lstrip("/")).resolve()
    return file / "index.html" if file.is_dir() else file


def _wrong_link(target: str, page: Path, pages: dict[Path, _Page], site: Path, repository: Path) -> str | None:
    """Why a link is wrong, or None."""
    parts = urlsplit(target)
    if parts.scheme == "mailto":
        return None
    if parts.scheme or parts.netloc:
        if parts.scheme != "https" or "." not in parts.netloc or " " in target:
            return "not the form of a link to another host: https://host/path"
        return _wrong_source(target, repository)
    file = _file(parts.path, page, site)
    if not file.is_file() or not file.is_relative_to(site):
        return "no such page"
    if parts.fragment and file in pages and unquote(parts.fragment) not in pages[file].ids:
        return f"the page has no anchor {parts.fragment!r}"
    return None


def _wrong_source(target: str, repository: Path) -> str | None:
    for kind in ("blob", "tree"):
        prefix = f"{REPOSITORY}/{kind}/main/"
        if target.startswith(prefix):
            file = repository / unquote(urlsplit(target.removeprefix(prefix)).path)
            there = file.is_file() if kind == "blob" else file.is_dir()
            return None if there else "the repository has no such file or folder"
    return None


if __name__ == "__main__":
    wrong = problems_of(Path(sys.argv[1]), Path(__file__).resolve().parents[1])
    print("\n".join(wrong) if wrong else "every link and every anchor is there; nothing comes from other hosts")
    sys.exit(1 if wrong else 0)
