"""The site's tools: docstrings become lists, dead links and foreign hosts are found; every public name is on a page."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

import ibtpo

REPOSITORY = Path(__file__).parents[1]
LINK = re.compile(r"\]\((?!#)([^)\s]+)\)")


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, REPOSITORY / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def site(folder: Path, **pages: str) -> Path:
    for name, body in pages.items():
        (folder / f"{name}.html").write_text(f"<html><body>{body}</body></html>")
    return folder


@pytest.mark.parametrize(
    ("body", "finding"),
    [
        ('<a href="other.html">', "other.html: no such page"),
        ('<a href="#below">', "#below: the page has no anchor 'below'"),
        ('<a href="page.html#here">', None),
        ('<a href="./#here">', "no such page"),
        ('<a href="http://example.org/x">', "not the form of a link to another host"),
        ('<a href="https://example.org/x">', None),
        ('<a href="https://github.com/ibtpo/ibtpo/blob/main/README.md#two-commands">', None),
        ('<a href="https://github.com/ibtpo/ibtpo/blob/main/docs">', "the repository has no such file or folder"),
        ('<a href="https://github.com/ibtpo/ibtpo/tree/main/docs">', None),
        ('<script src="https://example.org/x.js">', "is fetched from another host"),
        ('<link rel="stylesheet" href="//example.org/x.css">', "is fetched from another host"),
        ('<img src="picture.png">', "picture.png: no such file"),
        ('<img src="data:image/png;base64,AA==">', None),
    ],
)
def test_the_link_check_finds_what_is_dead_or_foreign(tmp_path: Path, body: str, finding: str | None) -> None:
    problems = script("check_site").problems_of(site(tmp_path, page=f'<h2 id="here">{body}'), REPOSITORY)
    if finding is None:
        assert problems == []
    else:
        assert len(problems) == 1
        assert finding in problems[0]


def test_the_link_check_reads_style_sheets_and_an_empty_site_is_no_success(tmp_path: Path) -> None:
    check = script("check_site").problems_of
    assert len(check(tmp_path, REPOSITORY)) == 1
    site(tmp_path, page="")
    (tmp_path / "a.css").write_text("@import 'https://example.org/font.css'; a{background:url(x.png)}")
    assert check(tmp_path, REPOSITORY) == ["a.css: https://example.org/font.css: is fetched from another host"]


def test_lines_that_say_what_an_argument_means_become_a_list() -> None:
    pytest.importorskip("griffe", reason="of the extra docs")
    tools = script("site_docstrings")
    text = "What it does.\n\nrows, names: (R,) of each,\n    and more.\nseed: of the run.\nNote: no argument."
    expected = (
        "What it does.\n\n- `rows`, `names`: (R,) of each,\n    and more.\n- `seed`: of the run.\n\nNote: no argument."
    )
    assert tools.as_list(text, {"rows", "names", "seed"}) == expected
    assert tools.escaped("p̂(a*|s) of `a*` and <id>\n\n    a * b") == "p̂(a\\*|s) of `a*` and \\<id>\n\n    a * b"


def test_every_public_name_is_on_the_page_of_the_api_once() -> None:
    page = (REPOSITORY / "docs" / "api.md").read_text()
    listed = re.findall(r"^::: ibtpo\.(?:\w+\.)*(\w+)$", page, flags=re.MULTILINE)
    assert len(listed) == len(set(listed))
    assert set(listed) >= set(ibtpo.__all__)


def test_the_readme_is_short_and_its_links_work_from_anywhere() -> None:
    text = (REPOSITORY / "README.md").read_text()
    assert len(text.splitlines()) <= 120
    for link in LINK.findall(text):
        assert link.startswith("https://github.com/ibtpo/ibtpo/"), link
        kind, _, path = link.removeprefix("https://github.com/ibtpo/ibtpo/").partition("/main/")
        assert {"blob": (REPOSITORY / path).is_file(), "tree": (REPOSITORY / path).is_dir()}[kind], link


def test_every_page_is_in_the_navigation() -> None:
    named = re.findall(r"[\w-]+\.md", (REPOSITORY / "mkdocs.yml").read_text())
    assert sorted(named) == sorted(p.name for p in (REPOSITORY / "docs").glob("*.md"))
