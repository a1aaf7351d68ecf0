"""Whole answers in real browsers: Markdown and mathematics, raw text, tokens, and what tries to get out of them."""

import math
from typing import Any

import pytest

from helpers.browser import chromium_only, printed
from helpers.trees import BUILDERS
from helpers.view_pages import EVIL, PHONE, WIDE
from ibtpo.tree import ReasoningTree, Step, write_trees
from ibtpo.viewer.page import write_viewer

pytestmark = pytest.mark.browser
STEPS = (
    "## The *sum*\n\nLet $x_1 < x_2$ solve \\(x^2 - 5x + 6 = 0\\).\n\n",
    "$$x = \\frac{5 \\pm \\sqrt{25 - 24}}{2}$$\n\n| root | value |\n|---|--:|\n| $x_1$ | 2 |\n\n"
    "1. **two**\n2. `three`\n\n",
    "\\[\\begin{aligned} x_1 + x_2 &= 2 + 3 \\\\ &= 5 \\end{aligned}\\]\n\nIt costs $5 or $6: \\boxed{5}",
)
# Each would fetch, run or lead somewhere if a page took it for more than text.
ATTACKS = (
    "<img src=https://evil.example/a.png onerror='window.pwned=1'> <script>window.pwned=2</script>",
    "[click](javascript:window.pwned=3) <https://evil.example/auto> https://evil.example/bare",
    "![picture](https://evil.example/b.png) [ref]\n\n[ref]: https://evil.example/ref",
    "$\\href{javascript:window.pwned=4}{x}$ $\\url{https://evil.example}$ $\\includegraphics{https://evil.example/c.png}$",
    "$\\style{background:url(https://evil.example/d)}{y}$ $\\class{card}{z}$ $\\label{n1}\\ref{n1} k$",
    "$\\text{<img src=x onerror=window.pwned=5>}$ $\\def\\f{\\f\\f}\\f$ $\\rule{9999em}{9999em}$",
    "<iframe src='https://evil.example'></iframe> <style>*{display:none}</style> <a href='//evil.example'>a</a>",
    EVIL,
)


def tree_of(id: str, *texts: str) -> ReasoningTree:
    """A tree of one answer; each step has two tokens, of probability 0.5 and 0.125."""
    tree = ReasoningTree(id, [1], f"Question of {id}: $x^2$?", "5")
    steps = [
        Step((10 * i + 1, 10 * i + 2), t, (math.log(0.5), math.log(0.125)), (0.7, 0.1)) for i, t in enumerate(texts)
    ]
    tree.add(0, steps, 1.0, "eos")
    return tree


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("r")
    quotes = ">" * 3000 + " deep"
    trees = [
        tree_of("maths", *STEPS), tree_of("attacks", *(a + "\n\n" for a in ATTACKS)),
        tree_of("odd", quotes, "$" * 5000, "$x^{$ and \\(\\frac{1\\)", "word " * 100), tree_of("long", "x" * 70_000),
        BUILDERS["replies"](),
    ]  # fmt: skip
    write_trees(folder / "t.jsonl", trees)
    return write_viewer(folder / "t.jsonl").output.as_uri()


def read(page: Any) -> None:
    page.click("text=Read the whole answer")
    page.wait_for_selector("#reader[open] .reading > *")


def test_an_answer_is_shown_as_it_is_meant_to_look(open_page, url) -> None:
    page = open_page(f"{url}#tree=maths&node=3")
    read(page)
    assert page.inner_text("#reader h2") == "Answer 1 of 1"
    assert "✓ right" in page.inner_text("#reader .answers")
    assert page.inner_text(".reading .heading") == "The sum"
    assert page.inner_text(".reading .heading em") == "sum"
    assert page.locator(".reading math").count() == 6
    assert page.locator(".reading math mfrac, .reading math msqrt, .reading math mtable").count() == 3
    assert page.inner_text(".reading td:last-child") == "2"
    assert page.locator(".reading ol li").all_inner_texts() == ["two", "three"]
    assert page.inner_text(".reading p:last-child").startswith("It costs $5 or $6: ")  # prices are no mathematics
    assert page.locator(".reading .math[title='\\\\boxed{5}'] math").count() == 1
    page.click("#reader summary")
    assert page.inner_text("#reader .question .step-text") == "Question of maths: $x^2$?"
    page.click("#reader [aria-label=Close]")
    assert page.evaluate("document.activeElement.className") == "read"  # back where one was


def test_raw_text_tokens_borders_and_probabilities_are_a_key_away(open_page, url) -> None:
    page = open_page(f"{url}#tree=maths&node=3")
    page.keyboard.press("r")
    page.wait_for_selector("#reader[open] math")
    page.keyboard.press("2")
    assert page.evaluate("document.querySelector('.reading').textContent") == "".join(STEPS)
    page.keyboard.press("s")
    assert page.locator(".reading .step").count() == 3
    assert page.locator(".step-facts").nth(1).inner_text() == "step 2 p̂ 1.00 · π 0.25 · advantage −0.005"
    page.keyboard.press("1")
    page.wait_for_selector(".reading .step math")
    assert page.locator(".reading .step").count() == 3
    page.keyboard.press("3")
    assert page.locator(".tok").all_inner_texts() == ["1", "2", "11", "12", "21", "22"]  # ids: no tokenizer is known
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    told = "token 2 of 6 · id 2 · step 1 · probability 0.125 · log-prob −2.079 · entropy 0.100 nats"
    assert page.inner_text("#reader .told") == told
    page.hover(".tok >> nth=2")
    assert page.inner_text("#reader .told").startswith("token 3 of 6 · id 11 · step 2 · probability 0.500")
    shown = "getComputedStyle(document.querySelector('.tok'), '::after').content"
    assert page.evaluate(shown) == "none"
    page.click("button:has-text('Probabilities')")
    assert page.evaluate(shown) in ('"0.50"', "attr(data-p)")  # Chromium says what it comes to
    assert page.get_attribute(".tok", "data-p") == "0.50"
    page.keyboard.press("p")
    assert page.evaluate(shown) == "none"
    page.click(".step-facts button >> nth=1")
    assert page.locator("#reader[open]").count() == 0
    assert page.get_attribute("#n2", "aria-selected") == "true"


def test_nothing_gets_out_of_an_answer(open_page, url) -> None:
    page = open_page(f"{url}#tree=attacks&node={len(ATTACKS)}")
    before = page.url
    read(page)  # that nothing is asked for and nothing goes wrong, `open_page` checks
    for key in ("s", "2", "3", "1"):
        page.keyboard.press(key)
        page.wait_for_timeout(60)
    inside = page.locator(".reading")
    bad = "a, img, iframe, script, style, object, embed, link, form, input, svg, [href], [src], [id], [onerror], .card"
    assert inside.locator(bad).count() == 0
    assert page.evaluate("window.pwned === undefined")
    text = inside.inner_text().replace("\xa0", " ")
    for words in (
        "<img src=https://evil.example/a.png onerror='window.pwned=1'>", "<script>window.pwned=2</script>",
        "click (javascript:window.pwned=3)", "![picture](https://evil.example/b.png)",
        "\\href{javascript:window.pwned=4}{x}",
        "\\includegraphics{https://evil.example/c.png}", "\\style{background:url(https://evil.example/d)}{y}",
        "<img src=x onerror=window.pwned=5>", "<iframe src='https://evil.example'></iframe>", "[U+202E]live",
    ):  # fmt: skip
        assert words in text
    sizes = page.evaluate("[...document.querySelectorAll('.reading math *')].map(e => e.getBoundingClientRect().width)")
    assert max(sizes) < 1000
    assert page.evaluate(
        "[...document.querySelectorAll('.reading [style]')].every(e => !/url|position/.test(e.style.cssText))"
    )
    for part in ("p[dir]", ".math", ".address"):
        for element in inside.locator(part).all()[:20]:
            element.click(force=True, position={"x": 1, "y": 1})
    assert page.url == before


def test_what_cannot_be_rendered_is_shown_as_it_is(open_page, url) -> None:
    page = open_page(f"{url}#tree=odd&node=4")
    read(page)
    assert page.inner_text(".reading").rstrip().endswith("word word")
    assert "$x^{$" in page.inner_text(".reading")
    page = open_page(f"{url}#tree=long&node=1")
    read(page)
    assert "This answer has 70\u202f000 characters, which is too long to render" in page.inner_text(".reading")
    assert page.evaluate("document.querySelector('.reading .step-text').textContent.length") == 70_000


def test_what_the_environment_gave_stands_apart(open_page, url) -> None:
    page = open_page(f"{url}#tree=replies&node=6")
    page.keyboard.press("r")
    page.wait_for_selector("#reader[open] .reading .step")
    assert page.inner_text("#reader h2") == "The text up to observation 6"
    assert page.locator(".reading .given").last.inner_text() == "↩ given by the environment\n\n<52 53>"
    page.keyboard.press("3")
    page.hover(".tok.given >> nth=1")
    assert page.inner_text("#reader .told").endswith(" · step 6 · given by the environment")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_reading_has_no_accessibility_violation(open_page, url, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs the package axe-playwright-python")
    for viewport, keys in ((WIDE, ("1", "s", "3", "p", "2")), (PHONE, ("1", "3"))):
        page = open_page(f"{url}#tree=maths&node=3", color_scheme=scheme, viewport=viewport, bypass_csp=True)
        read(page)
        for key in keys:
            page.keyboard.press(key)
            page.wait_for_timeout(60)
            found = axe.Axe().run(page).response["violations"]
            assert [(v["id"], v["impact"], [n["html"][:120] for n in v["nodes"][:3]]) for v in found] == [], key
        assert page.evaluate("document.querySelector('#reader').getBoundingClientRect().right") <= viewport["width"]


def test_paper_shows_the_answer_that_is_read(open_page, url, tmp_path) -> None:
    page = open_page(f"{url}#tree=maths&node=3")
    read(page)
    text = printed(page, tmp_path)
    assert "maths · Answer 1 of 1" in text
    assert "It costs $5 or $6: " in text
    assert "\\boxed" not in text


@chromium_only
def test_print_shows_the_answer_that_is_read(open_page, url) -> None:
    page = open_page(f"{url}#tree=maths&node=3")
    read(page)
    page.emulate_media(media="print")
    page.wait_for_selector("#paper math")
    assert page.inner_text("#paper h1") == "maths · Answer 1 of 1"
    assert page.locator("#paper math").count() == 6


def test_a_tree_opens_with_text_that_can_be_read_and_as_much_of_it_as_fits(open_page, url) -> None:
    page = open_page(f"{url}#tree=maths&node=0", viewport={"width": 1000, "height": 700})
    zoom = page.evaluate("view.zoom")
    assert 0.7 <= zoom <= 1
    assert page.evaluate("view.canvas.scrollWidth <= view.canvas.clientWidth + 1")
    assert page.is_checked("#tree input[value=p_hat]")
    assert page.evaluate("document.querySelector('#greeting').hidden")
