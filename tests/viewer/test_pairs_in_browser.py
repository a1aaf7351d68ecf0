"""Two checkpoints side by side in real browsers: which problems changed, and how the two trees of one differ."""

import json
from typing import Any

import pytest

from helpers.browser import chromium_only, printed
from helpers.view_pages import PHONE, WIDE, pair_of_trees, short_tree, write_diagnosis_trees
from ibtpo.tree import write_trees
from ibtpo.viewer.page import write_viewer

pytestmark = pytest.mark.browser
CARDS = "#pair .side:nth-child({}) .card"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of a diagnosis of three checkpoints and four problems."""
    before, after = pair_of_trees()
    rest = [("q2", [0.0], [1.0]), ("q3", [1.0, 1.0], [1.0, 0.0]), ("q4", [1.0], [1.0])]
    folder = tmp_path_factory.mktemp("d")
    write_diagnosis_trees(
        folder,
        start=[before, *(short_tree(id, *a) for id, a, _ in rest)],
        middle=[after, *(short_tree(id, *a) for id, a, _ in rest[:2])],
        end=[after, *(short_tree(id, *b) for id, _, b in rest)],
    )
    return write_viewer(folder).output.as_uri()


def ids(page: Any) -> list[str]:
    return page.locator(".rows .c-id").all_inner_texts()


def cells(page: Any, row: int) -> list[str]:
    return [t for t in page.locator(".rows .row").nth(row).inner_text().split("\n") if t.strip()]


def test_which_problems_did_training_break_takes_three_clicks(open_page, url) -> None:
    page = open_page(url)
    assert page.inner_text("#greeting p:first-child").startswith("From start to end, over 4 problems in both: 66.7 % →")
    assert ids(page) == ["q2", "q3", "q1", "q4"]  # the largest change first
    page.click("[data-filter=fell]")  # one
    assert ids(page) == ["q3", "q1"]
    assert page.url.endswith("#filter=fell")
    assert cells(page, 1) == ["q1", "Which way?", "0.67", "0.33", "−0.33", "−0.17", "+1.125"]
    page.click(".rows a:has-text('q1')")  # two
    page.wait_for_selector("#pair .card")
    assert page.locator(".facts:visible .fact").all_inner_texts() == [
        "right answers 0.67 → 0.33 (−0.33)", "steps 3 in both, 1 gone, 1 new",
        "branch places 0 in both, 1 gone, 0 new", "confidence moved in 1 of 3 same steps",
    ]  # fmt: skip
    page.click(CARDS.format(2) + ":has-text('40')")  # three: the new, wrong answer
    assert "✗ wrong" in page.inner_text(".both section:nth-child(2) .answers")
    assert page.locator(".both section").first.inner_text().startswith("start: this step was not there\n")
    assert page.url.endswith("#pair=q1&node=3&side=after")


def test_differences_are_marked_on_both_sides(open_page, url) -> None:
    page = open_page(f"{url}#pair=q1", "#pair .card")
    marks = [
        {c.get_attribute("id"): c.locator(".mark").all_inner_texts() for c in page.locator(CARDS.format(side)).all()}
        for side in (1, 2)
    ]
    assert marks == [
        {"a0": [], "a1": ["π +0.25", "−branch"], "a2": [], "a4": ["gone"], "a3": []},
        {"b0": [], "b1": ["π +0.25"], "b2": [], "b3": ["new"], "b4": []},
    ]
    page.click("#a1")
    assert page.get_attribute("#b1", "aria-selected") == "true"  # the same step on the other side
    rows = [r.split("\t") for r in page.locator(".both .numbers tbody tr").all_inner_texts()]
    assert [[v.strip() for v in r] for r in rows] == [
        ["right answers p̂", "1.000", "1.000", "0.000"], ["confidence π", "0.500", "0.750", "+0.250"],
        ["IB-Score", "−0.600", "−0.600", "0.000"], ["advantage", "+0.592", "+1.290", "+0.697"],
        ["draws", "1", "1", "0"],
    ]  # fmt: skip
    page.click("#a4")
    assert page.get_attribute("#b1", "aria-selected") == "true"  # what came before it
    assert "After step 1, the last one in both, it has:" in page.inner_text(".both section:nth-child(2)")
    page.click(".there button")
    assert page.get_attribute("#b2", "aria-selected") == "true"


def test_two_trees_are_walked_with_the_keyboard(open_page, url) -> None:
    page = open_page(url)
    for key in ("ArrowDown", "ArrowDown", "ArrowDown", "Enter"):
        page.keyboard.press(key)
    page.wait_for_selector("#pair .card")
    focused = lambda: page.evaluate("document.activeElement.id")  # noqa: E731
    seen = [focused()]
    for key in ("d", "d", "d", "D", "x", "ArrowRight", "ArrowLeft", "x"):
        page.keyboard.press(key)
        seen.append(focused())
    assert seen == ["a0", "a4", "b1", "b3", "b1", "a1", "a2", "a1", "b1"]
    page.keyboard.press("c")
    assert page.is_checked("#pair input[value=ib_score]")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.className") == "panel both"
    page.keyboard.press("r")
    page.wait_for_selector("#reader[open]")
    page.keyboard.press("Escape")
    page.keyboard.press("n")
    page.wait_for_function("() => document.querySelector('#pair h2').textContent === 'q4'")
    page.keyboard.press("d")
    assert page.inner_text("#found") == "No step of the two trees differs."
    page.keyboard.press("Escape")
    page.wait_for_selector(".rows a:visible")
    assert page.evaluate("document.activeElement.textContent") == "q4"


def test_any_two_sets_can_be_chosen_and_linked_and_the_trees_listed(open_page, url) -> None:
    page = open_page(url)
    page.click("text=Begin with the problem that changed most")
    page.wait_for_selector("#pair .card")
    assert page.inner_text("#pair h2") == "q2"
    page.click("#to-list")
    page.select_option("[aria-label='to which set']", label="middle")
    assert page.inner_text("#greeting p:first-child").startswith("From start to middle, over 3 problems in both:")
    assert ids(page) == ["q1", "q2", "q3"]
    page.click(".rows a:has-text('q1')")
    page.wait_for_selector("#pair .card")
    assert page.url.endswith("#pair=q1&from=start&to=middle")
    page = open_page(page.url, "#pair .card")
    assert page.locator(".side h3").all_inner_texts()[1].startswith("middle 3 answers, 33 % right")
    page.click(".side:nth-child(2) h3 a")
    page.wait_for_selector("#tree .card")
    assert page.url.partition("#")[2].startswith("tree=middle%3Aq1")
    page.click("#to-list")
    page.wait_for_selector(".rows a:visible")
    page.click("[aria-label='What to list'] label:has-text('Trees')")
    assert ids(page) == ["q1", "q2", "q3", "q4", "q1", "q2", "q3", "q1", "q2", "q3", "q4"]
    assert page.locator(".rows .c-from").all_inner_texts() == ["start"] * 4 + ["middle"] * 3 + ["end"] * 4
    page.click("[data-filter=wrong]")
    assert ids(page) == ["q2", "q2"]
    page = open_page(f"{url}#pair=nothing")
    assert "No problem here that both have is named “nothing”" in page.inner_text("#found")


def test_two_sets_without_a_problem_in_common_say_so(open_page, tmp_path) -> None:
    for name in ("a", "b"):
        write_trees(tmp_path / f"{name}.jsonl", [short_tree(name, 1.0)])
    page = open_page(
        write_viewer([tmp_path / "a.jsonl", tmp_path / "b.jsonl"], tmp_path / "p.html").output.as_uri(), "#list"
    )
    assert (
        page.inner_text("#greeting p:first-child") == "a and b have no problem in common, so nothing can be compared."
    )
    assert "No problem here is “all” (every problem that both have a tree of)." in page.inner_text(".empty")


def test_two_checkpoints_of_a_thousand_problems(open_page, tmp_path) -> None:
    for name, tree in zip(("start", "end"), pair_of_trees(), strict=True):
        trees = []
        for i in range(1000):
            tree.id = f"q{i:04d}"
            trees.append(tree.to_dict())
        with open(tmp_path / f"{name}.jsonl", "w", encoding="utf-8") as f:
            f.writelines(json.dumps(t) + "\n" for t in trees)
    url = write_viewer([tmp_path / "start.jsonl", tmp_path / "end.jsonl"], tmp_path / "p.html").output.as_uri()
    page = open_page(url)
    assert page.inner_text("#found") == "1\u202f000 problems"
    assert page.locator(".rows .row").count() < 60


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_two_trees_have_no_accessibility_violation(open_page, url, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs the package axe-playwright-python")
    for link, viewport in (("", WIDE), ("#pair=q1&node=1", WIDE), ("#pair=q1&node=4", PHONE), ("", PHONE)):
        page = open_page(url + link, color_scheme=scheme, viewport=viewport, bypass_csp=True)
        found = axe.Axe().run(page).response["violations"]
        assert [(v["id"], v["impact"], [n["html"][:120] for n in v["nodes"][:3]]) for v in found] == []
        assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]


def test_paper_shows_both_trees(open_page, url, tmp_path) -> None:
    text = printed(open_page(f"{url}#pair=q1", "#pair .card"), tmp_path)
    assert "q1 · start" in text
    assert "q1 · end" in text


@chromium_only
def test_print_shows_both_trees_or_the_changes(open_page, url) -> None:
    page = open_page(f"{url}#pair=q1", "#pair .card")
    page.emulate_media(media="print")
    page.wait_for_selector("#paper h1")
    assert page.locator("#paper h1").all_inner_texts() == ["q1 · start", "q1 · end"]
    assert page.locator("#paper li .step-text").count() == 8
    page = open_page(url)
    page.emulate_media(media="print")
    page.wait_for_selector("#paper h1")
    assert "From start to end, over 4 problems" in page.inner_text("#paper")
    assert page.locator("#paper tbody tr").first.inner_text().split("\t")[:3] == ["q2", "Question q2.", "0.00"]
