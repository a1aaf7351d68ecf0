"""The tree viewer in real browsers, opened from disk."""

import json
from dataclasses import replace
from typing import Any

import pytest

from helpers.browser import chromium_only, printed
from helpers.trees import BUILDERS
from helpers.view_pages import PHONE, WIDE, evil_tree, example_trees, wide_tree, write_run
from ibtpo.tree import ReasoningTree, write_trees
from ibtpo.viewer.page import tree_key, write_viewer

pytestmark = pytest.mark.browser
WIDTHS = "[...document.querySelectorAll('.plane path')].map(p => parseFloat(getComputedStyle(p).strokeWidth))"
BOXES = """[...document.querySelectorAll('.card')].map(card => {
    const r = card.getBoundingClientRect();
    return [r.x, r.y, r.right, r.bottom];
})"""


def rescued_tree() -> ReasoningTree:
    tree = ReasoningTree("saved: a/b & c", [1], "Saved by a branch.")
    s = BUILDERS["fractional"]().nodes
    tree.add(0, [s[1].step, s[3].step], 0.0, "eos")
    tree.add(1, [s[4].step], 1.0, "eos", round=1, score=0.25)
    return tree


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """`trees`: a file of seven, `run`: a run folder with a line cut, `evil`: injections, `many`: 1000 trees, `given`: a
    tree with given steps."""
    folder = tmp_path_factory.mktemp("pages")
    write_trees(folder / "trees.jsonl", [wide_tree(), *example_trees(), rescued_tree()])
    write_trees(folder / "evil.jsonl", [evil_tree()])
    write_trees(folder / "given.jsonl", [BUILDERS["replies"]()])
    many = [BUILDERS["three_leaf"]() for _ in range(1000)]
    for i, tree in enumerate(many):
        tree.id = f"tree-{i:04d}"
    write_trees(folder / "many.jsonl", many)
    write_run(folder / "run", [*example_trees(), rescued_tree()])
    cut = write_run(folder / "run", [rescued_tree()], at=20)
    cut.write_bytes(cut.read_bytes()[:-30])
    write_run(folder / "run", [rescued_tree()], at=30)
    out = {n: write_viewer(folder / f"{n}.jsonl").output.as_uri() for n in ("trees", "evil", "many", "given")}
    return {**out, "run": write_viewer(folder / "run").output.as_uri()}


def selected(page: Any) -> int:
    page.wait_for_selector('.card[aria-selected="true"]')
    return int(page.get_attribute('.card[aria-selected="true"]', "data-node"))


def ids(page: Any) -> list[str]:
    return page.locator(".rows .c-id").all_inner_texts()


# --- the list ------------------------------------------------------------------------------------------------------


def test_the_list_shows_filters_sorts_and_says_when_nothing_is_there(open_page, pages) -> None:
    page = open_page(pages["trees"])
    assert ids(page) == ["wide", "three_leaf", "merged", "all_wrong", "inner_leaf", "fractional", "saved: a/b & c"]
    page.click("[data-filter=rescued]")
    assert ids(page) == ["saved: a/b & c"]
    assert page.url.endswith("#filter=rescued")
    page.click("[data-filter=wrong]")
    assert ids(page) == ["all_wrong"]
    page.click("[data-filter=right]")
    assert "No tree here is “all right”" in page.inner_text(".empty")
    page.click(".empty button")
    assert len(ids(page)) == 7
    page.click(".c-reward button")  # scores start with the highest
    assert ids(page)[0] == "inner_leaf"
    page.click(".c-reward button")
    assert ids(page)[0] == "all_wrong"
    assert page.get_attribute(".header .c-reward", "aria-sort") == "ascending"
    page.click(".c-reward button")
    assert ids(page)[0] == "wide"
    row = page.locator(".rows .row").nth(1).inner_text().split("\n")
    assert [v for v in row if v] == ["three_leaf", "What is 1 + 1?", "3", "0.33", "−0.075", "+0.109", "effective"]


def test_the_list_is_walked_and_a_tree_opened_and_left_with_the_keyboard(open_page, pages) -> None:
    page = open_page(pages["trees"])
    for key in ("ArrowDown", "ArrowDown", "ArrowDown", "ArrowUp", "Enter"):
        page.keyboard.press(key)
    page.wait_for_selector(".card")
    assert "#tree=three_leaf" in page.url
    page.keyboard.press("n")
    page.wait_for_function("() => document.querySelector('#tree h2').textContent === 'merged'")
    page.keyboard.press("p")
    page.wait_for_function("() => document.querySelector('#tree h2').textContent === 'three_leaf'")
    page.keyboard.press("Escape")
    page.wait_for_selector(".rows a")
    assert page.evaluate("document.activeElement.textContent") == "three_leaf"
    page.go_back()
    page.wait_for_selector(".card")


def test_a_thousand_trees_are_walked_with_a_few_rows_in_the_document(open_page, pages) -> None:
    page = open_page(pages["many"])
    assert page.inner_text("#found") == "1\u202f000 trees"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("End")
    assert page.evaluate("document.activeElement.textContent") == "tree-0999"
    assert page.locator(".rows .row").count() < 60
    page.evaluate("document.querySelector('.scroller').scrollTop = 44 * 500")
    page.wait_for_selector("text=tree-0505")
    page.fill("#search", "tree-0042")
    page.wait_for_function("() => document.querySelector('#found').textContent.startsWith('1 of')")
    assert ids(page) == ["tree-0042"]


def test_of_ten_thousand_trees_only_those_in_sight_are_drawn(open_page, tmp_path) -> None:
    lines = [json.dumps({**make().to_dict(), "prompt": "long " * 40}) for make in BUILDERS.values()]
    with open(tmp_path / "t.jsonl", "w", encoding="utf-8") as f:
        for i in range(10_000):
            line = json.loads(lines[i % len(lines)])
            f.write(json.dumps({**line, "id": f"tree-{i:05d}"}) + "\n")
    page = open_page(write_viewer(tmp_path / "t.jsonl").output.as_uri())
    page.wait_for_load_state()
    page.evaluate("""() => {
        for (let i = 1; i <= 100; i++) {
            list.scroller.scrollTop = 120 * i; // a notch of the wheel
            list.draw();
        }
    }""")
    shown = [int(i.removeprefix("tree-")) for i in ids(page)]
    assert shown == list(range(shown[0], shown[0] + len(shown)))  # in order, without gaps
    assert shown[0] <= 12_000 // 44 < shown[-1]
    page.evaluate("list.scroller.scrollTop = list.scroller.scrollHeight")
    page.wait_for_selector("text=tree-09999")
    assert page.locator(".rows .row").count() < 60


def test_a_run_shows_steps_its_notes_and_keys_of_step_and_id(open_page, pages) -> None:
    page = open_page(f"{pages['run']}#tree={tree_key('saved: a/b & c', 30)}&node=3")
    assert page.inner_text("#tree h2") == "saved: a/b & c"
    assert "step 30" in page.inner_text(".facts")
    assert selected(page) == 3
    page.click("#to-list")
    page.wait_for_selector(".rows a")
    assert page.locator(".rows .c-step").all_inner_texts() == ["1"] * 6 + ["30"]
    page.click(".notes summary")
    assert "step_000020.jsonl.gz:1" in page.inner_text(".notes li")


# --- a tree --------------------------------------------------------------------------------------------------------


def test_a_tree_of_64_answers_is_drawn_with_edges_as_wide_as_its_draws(open_page, pages) -> None:
    page = open_page(f"{pages['trees']}#tree=wide")
    tree = wide_tree()
    assert page.locator(".card").count() == len(tree.nodes)
    assert page.locator(".plane path").count() == len(tree.nodes) - 1
    assert page.locator(".card .verdict.right").count() == 22
    assert page.locator(".card .verdict.wrong").count() == 42
    boxes = page.evaluate(BOXES)
    boxes.sort()
    overlaps = [
        (a, b) for i, a in enumerate(boxes) for b in boxes[i + 1 :] if b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
    ]
    assert overlaps == []
    page = open_page(f"{pages['trees']}#tree=merged")
    widths = page.evaluate(WIDTHS)
    assert widths[0] > widths[1] > widths[2] == widths[3]  # drawn 3, 2, 1 and 1 times
    assert "×3" in page.inner_text("#n1")


def test_cards_and_panel_show_the_hand_made_numbers(open_page, pages) -> None:
    page = open_page(f"{pages['trees']}#tree=three_leaf&node=1")
    assert page.inner_text("#n2 .value") == "1.00▲"
    assert page.inner_text("#n1 .value") == "0.50="
    tints = [page.evaluate(f"getComputedStyle(document.querySelector('#n{i}')).backgroundColor") for i in (1, 2, 3, 4)]
    assert "rgba(0, 0, 0, 0)" not in tints
    assert tints[2] == tints[3]
    assert len(set(tints)) == 3  # by value: 0.5, 1, 0, 0
    assert "none" not in page.get_attribute("#n3", "class").split()  # zero is not none
    page.click("#tree .segments label:has-text('IB-Score')")
    assert page.inner_text("#n1 .value") == "+0.300▲"
    assert page.inner_text("#n0 .value") == "−0.450▲"  # above the median of this file's steps
    assert page.inner_text("#n3 .value") == "–"
    assert "none" in page.get_attribute("#n3", "class").split()
    assert page.inner_text("#n3 .verdict") == "✗ wrong"
    numbers = {
        r.split("\t")[0].strip(): r.split("\t")[1].strip() for r in page.locator(".numbers tr").all_inner_texts()
    }
    assert numbers == {
        "p̂": "0.500", "IB-Score": "+0.300", "advantage": "+0.304", "A_GL": "+0.289", "A_IB": "+0.150", "η1": "+0.300",
        "π = η2": "0.500", "draws": "1", "tokens": "2",
    }  # fmt: skip
    assert "Came in round 0. Branched in round 1 (saw −0.600)." in page.inner_text(".born")
    assert [r.split() for r in page.locator(".tokens tbody tr").all_inner_texts()] == [
        ["10", "0.500", "−0.693", "1.000"], ["11", "0.500", "−0.693", "0.500"]
    ]  # fmt: skip
    page.keyboard.press("c")
    assert page.inner_text("#n0 .value") == "–"
    page.click(".path button:first-child")
    assert selected(page) == 0
    assert "reference answer" in page.inner_text(".made")


def test_what_the_environment_gave_says_so_and_has_no_probability(open_page, pages) -> None:
    page = open_page(f"{pages['given']}#tree=replies&node=6")
    assert page.locator(".card.given .by").all_inner_texts() == ["↩"] * 4
    page.keyboard.press("c")
    assert page.inner_text("#n2 .value") == "+0.900▲"  # branches start after it
    assert page.inner_text("#n1 .value") == "–"  # and not before
    assert "↩ given by the environment" in page.inner_text(".legend")
    assert page.inner_text(".panel h3") == "Observation 6 · given by the environment at depth 1, 1 step below"
    rows = [r.split("\t")[:2] for r in page.locator(".numbers tr").all_inner_texts()]
    assert [[a.strip(), b.strip()] for a, b in rows] == [
        ["p̂", "1.000"], ["IB-Score", "−0.600"], ["draws", "1"], ["tokens", "2"]
    ]  # fmt: skip
    assert [r.split() for r in page.locator(".tokens tr").all_inner_texts()] == [["id"], ["52"], ["53"]]
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert selected(page) == 1
    assert page.inner_text(".panel h3").startswith("Step 1 · depth 1")
    assert "none: the environment answers here" in page.inner_text(".numbers")
    page.keyboard.press("c")
    assert page.inner_text("#n2 .value") == "–"  # no advantage


def test_verdicts_are_told_apart_by_sign_and_words(open_page, pages) -> None:
    page = open_page(f"{pages['trees']}#tree=inner_leaf")
    assert page.inner_text("#n1 .verdict") == "✗✂ cut short"
    assert page.get_attribute("#n1 .verdict", "title") == "wrong, cut short"
    assert page.inner_text("#n2 .verdict") == "✓ right"
    assert page.inner_text("#n3 .verdict") == "⚠ verifier error"
    page = open_page(f"{pages['trees']}#tree=fractional")
    assert page.inner_text("#n1 .verdict") == "◐ 0.25"


def test_arrows_walk_space_folds_and_w_finds_wrong_answers(open_page, pages) -> None:
    page = open_page(f"{pages['trees']}#tree=three_leaf")

    def press(key: str) -> int:
        page.keyboard.press(key)
        return selected(page)

    assert [press("ArrowRight"), press("ArrowRight"), press("ArrowDown"), press("ArrowUp")] == [1, 2, 4, 2]
    assert page.url.endswith("#tree=three_leaf&node=2")
    assert [press("ArrowLeft"), press("ArrowDown"), press("Home")] == [1, 3, 0]
    press("ArrowRight")
    press(" ")
    assert page.locator(".card").count() == 3
    assert page.get_attribute("#n1", "aria-expanded") == "false"
    assert page.inner_text("#n1 .fold") == "+2"
    assert press("ArrowRight") == 1  # unfolds
    assert page.locator(".card").count() == 5
    assert [press("w"), press("w"), press("w"), press("W")] == [4, 3, 4, 3]
    page.click("[aria-label='Next wrong answer']")
    assert selected(page) == 4
    page.click("#n1")
    page.click("#n1 .fold")
    assert page.locator(".card").count() == 3
    page.click("#n1 .fold")
    assert page.locator(".card").count() == 5
    page.click("#n1 .fold")
    page.click("text=Unfold")
    assert page.locator(".card").count() == 5
    page.locator("#n4").focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.className") == "panel"


def test_growth_shows_round_by_round_what_was_branched_and_why(open_page, pages) -> None:
    page = open_page(f"{pages['trees']}#tree=three_leaf")
    seen = lambda: page.evaluate("[...document.querySelectorAll('.card:not(.unborn)')].map(c => +c.dataset.node)")  # noqa: E731
    page.keyboard.press("g")
    page.keyboard.press("g")
    assert sorted(seen()) == [0, 1, 2, 3]
    assert page.inner_text(".caption") == "Round 0 of 1. 2 answers from the prompt; 5 new tokens: 1 right, 1 wrong."
    page.click("[aria-label='One round on']")
    assert sorted(seen()) == [0, 1, 2, 3, 4]
    assert page.inner_text(".caption") == (
        "Round 1 of 1. Branched after step 1: the branching rule saw −0.600 there; 1 new token: 1 wrong."
    )
    assert "started" in page.get_attribute("#n1", "class")
    assert "fresh" in page.get_attribute("#n4", "class")
    page.keyboard.press("[")
    assert 4 not in seen()
    page.locator(".growth input").focus()
    page.keyboard.press("ArrowRight")
    assert 4 in seen()
    page.click("[aria-label='Play the growth']")
    assert 4 not in seen()
    page.wait_for_selector("#n4:not(.unborn)")  # it plays on by itself
    page = open_page(f"{pages['trees']}#tree=wide")
    page.keyboard.press("[")
    assert "Round 48 of 48" in page.inner_text(".caption")
    assert ": its IB-Score, +0.130, was the highest of the tree then; " in page.inner_text(".caption")


@pytest.mark.parametrize(
    ("rule", "score", "words"),
    [
        ("ib", None, ", chosen at random;"),
        ("random", None, ", chosen at random;"),
        ("entropy", 2.5, ": a token there surprised the model, its −log π of 2.50 was the highest of the tree then;"),
        (
            "eptree",
            2.5,
            ": a token there, with a −log π of 2.50, surprised the model most in the answers that were branched least;",
        ),
        ("fixed_width", -1.0, ": of the depths that had room for another path the nearest to the prompt;"),
        ("mine.rule", 0.5, ": the rule “mine.rule” saw +0.500 there;"),
    ],
)
def test_growth_says_why_each_rule_branched_there(open_page, tmp_path, rule, score, words) -> None:
    tree = BUILDERS["three_leaf"]()
    tree.meta["search"] = {"branching": rule}
    tree.rollouts[-1] = replace(tree.rollouts[-1], score=score)
    write_trees(tmp_path / "t.jsonl", [tree])
    page = open_page(f"{write_viewer(tmp_path / 't.jsonl').output.as_uri()}#tree=three_leaf")
    page.keyboard.press("[")
    assert f"Branched after step 1{words}" in page.inner_text(".caption")


def test_zoom_by_keys_and_buttons(open_page, pages) -> None:
    page = open_page(f"{pages['trees']}#tree=wide")
    size = lambda: page.inner_text("[aria-label='Original size']")  # noqa: E731
    assert size() == "70 %"  # 64 answers do not fit, but can be read
    page.keyboard.press("0")
    page.keyboard.press("+")
    assert size() == "125 %"
    page.click("[aria-label=Smaller]")
    page.click("[aria-label=Smaller]")
    assert size() == "80 %"
    page.keyboard.press("f")
    fits = "(() => { const c = document.querySelector('.canvas'); return c.scrollHeight <= c.clientHeight + 1 })()"
    assert page.evaluate(fits)
    zoom = page.evaluate("view.zoom")
    assert zoom < 0.2
    assert min(page.evaluate(WIDTHS)) * zoom > 0.8  # the lines can still be seen
    page.keyboard.press("0")
    assert size() == "100 %"


# --- search, links, help, theme ------------------------------------------------------------------------------------


def test_search_finds_text_in_this_tree_and_in_all_trees(open_page, pages) -> None:
    page = open_page(f"{pages['trees']}#tree=three_leaf")
    page.keyboard.press("/")
    page.keyboard.type("1 ")  # "10 11", "20 21" and "1 + 1"
    page.wait_for_function("() => document.querySelectorAll('.card.hit').length > 0")
    page.fill("#search", "20 21")
    page.wait_for_function("() => document.querySelector('#found').textContent === '1 of 1 step'")
    assert selected(page) == 3
    assert page.inner_text("#n3 mark") == "20 21"
    page.fill("#search", "1")
    page.wait_for_function("() => document.querySelector('#found').textContent.endsWith('5 steps')")
    first = selected(page)
    page.keyboard.press("Enter")
    assert selected(page) != first
    page.keyboard.press("Shift+Enter")
    assert selected(page) == first
    page.fill("#search", "22")
    page.wait_for_function("() => document.querySelector('#found').textContent === 'no step'")
    page.select_option("#scope", "all")
    page.wait_for_function("() => document.querySelector('#found').textContent.includes('trees')")
    page.wait_for_function("() => [...document.querySelectorAll('.rows a')].some(a => a.textContent === 'fractional')")
    assert "three_leaf" not in ids(page)
    page.fill("#search", "nowhere to be found")
    page.wait_for_selector("text=No tree holds “nowhere to be found”")
    page.keyboard.press("Escape")
    assert len(ids(page)) == 7


def test_links_open_the_tree_the_step_and_the_filter_and_wrong_ones_say_so(open_page, pages) -> None:
    page = open_page(f"{pages['trees']}#tree={tree_key('saved: a/b & c')}&node=2")
    assert selected(page) == 2
    page.evaluate("location.hash = '#filter=rescued'")
    page.wait_for_selector(".rows a")
    assert ids(page) == ["saved: a/b & c"]
    page.evaluate("location.hash = '#tree=nothing%zz'")
    page.wait_for_function("() => document.querySelector('#found').textContent.includes('No tree here is named')")
    page.evaluate("location.hash = '#tree=merged&node=999'")
    page.wait_for_selector(".card")
    assert selected(page) == 0
    page = open_page(f"{pages['trees']}#filter=constructor", "#list")  # no filter, but a property all objects have
    page.wait_for_selector(".rows a")
    assert len(ids(page)) == 7


def test_the_second_tree_of_a_name_does_not_take_the_key_of_another(open_page, tmp_path) -> None:
    trees = [BUILDERS["three_leaf"]() for _ in range(4)]
    for tree, id in zip(trees, ("dup", "dup", "dup~2", "dup"), strict=True):
        tree.id = id
    write_trees(tmp_path / "dup.jsonl", trees)
    page = open_page(write_viewer(tmp_path / "dup.jsonl").output.as_uri())
    assert page.evaluate("app.rows.map(r => r.key)") == ["dup", "dup~2~2", "dup~2", "dup~2~2~2"]


def test_help_opens_and_closes_and_the_theme_follows_the_system_and_the_button(open_page, pages) -> None:
    page = open_page(pages["trees"], color_scheme="dark")
    paper = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(paper)
    page.click("#theme")
    light = page.evaluate(paper)
    assert sum(map(int, dark[4:-1].split(","))) < 150 < 600 < sum(map(int, light[4:-1].split(",")))
    page.keyboard.press("t")
    assert page.evaluate(paper) == dark
    page.keyboard.press("?")
    page.wait_for_selector("#help[open]")
    assert "next, previous wrong answer" in page.inner_text("#help")
    page.keyboard.press("Escape")
    assert page.locator("#help[open]").count() == 0
    page.click("#help-button")
    page.click("#help [aria-label=Close]")
    assert page.locator("#help[open]").count() == 0


# --- paper, no JavaScript, phones, injections, accessibility -------------------------------------------------------


def test_paper_shows_every_step_and_no_controls(open_page, pages, tmp_path) -> None:
    page = open_page(f"{pages['trees']}#tree=three_leaf")
    text = printed(page, tmp_path)
    for told in ("three_leaf", "What is 1 + 1?", "10 11", "20 21", "advantage +0.304"):
        assert told in text
    assert "IB-Score  Advantage" not in text  # the choice of colours
    assert page.is_visible("#n1")


@chromium_only
def test_print_shows_every_step_and_no_controls(open_page, pages) -> None:
    page = open_page(f"{pages['trees']}#tree=three_leaf")
    page.emulate_media(media="print")
    page.wait_for_selector("#paper h1")
    assert page.locator("#paper li .step-text").count() == 4
    assert "advantage +0.304" in page.inner_text("#paper")
    assert not page.is_visible(".controls")


@chromium_only
def test_without_javascript_the_trees_are_lists(open_page, pages) -> None:
    page = open_page(pages["run"], wait="details", java_script_enabled=False)
    assert page.locator("details").count() == 7
    assert page.is_visible("small:has-text('1: p̂ 0.50, IB-Score +0.300')")
    assert page.is_visible("p:has-text('step_000020.jsonl.gz:1')")
    assert not page.is_visible("#search")


def test_nothing_sticks_out_on_a_phone(open_page, pages) -> None:
    for link in ("", "#tree=wide&node=3"):
        page = open_page(pages["trees"] + link, viewport=PHONE)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390  # Firefox takes a scrollbar off
        parts = "[...document.querySelectorAll('.top *, .filters *, .controls *')]"
        assert max(page.evaluate(f"{parts}.map(e => e.getBoundingClientRect().right)")) <= 390.5


def test_injected_texts_run_nothing_and_are_shown_as_they_are(open_page, pages) -> None:
    page = open_page(pages["evil"])
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_selector(".card")
    for i in range(5):
        page.click(f"#n{i}")
    assert "[U+001B][31mred" in page.inner_text(".panel .step-text")
    page.click("#n2")
    assert len(page.inner_text(".panel .step-text")) < 30_000
    page.click("text=Show more (980\u202f005 characters)")
    page.wait_for_selector("text=Show more (880\u202f005 characters)")
    assert page.evaluate("document.querySelector('.panel .step-text').textContent").startswith("long " + "x" * 119_995)
    page.keyboard.press("g")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("#paper h1").count() == 1
    assert page.evaluate("window.pwned === undefined")
    assert page.locator("img, svg svg, iframe, object, embed").count() == 0


@chromium_only
def test_injected_texts_are_nothing_else_without_javascript(open_page, pages) -> None:
    page = open_page(pages["evil"], wait="details", java_script_enabled=False)
    assert page.locator("img, iframe").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_serious_accessibility_violation(open_page, pages, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs the package axe-playwright-python")
    for link, viewport in (("", WIDE), ("#tree=three_leaf&node=1", WIDE), ("#tree=inner_leaf", PHONE), ("", PHONE)):
        page = open_page(
            pages["run" if not link else "trees"] + link, color_scheme=scheme, viewport=viewport, bypass_csp=True
        )
        for keys in ("", "[", "?") if "node=1" in link else ("",):
            if keys:
                page.keyboard.press(keys)
            found = axe.Axe().run(page).response["violations"]
            bad = [(v["id"], v["impact"], [n["html"][:120] for n in v["nodes"][:3]]) for v in found]
            assert [b for b in bad if b[1] in ("serious", "critical")] == []


def test_the_page_says_which_advantage_it_shows(open_page, tmp_path) -> None:
    trees = []
    for advantage in ("treepo", "gone_xyz:f", "ibtpo"):
        trees.append(BUILDERS["three_leaf"]())
        trees[-1].id = advantage.partition(":")[0]
        trees[-1].meta["credit"] = {"advantage": advantage}
    write_run(tmp_path, trees)
    url = write_viewer(tmp_path).output.as_uri()
    page = open_page(url)
    assert page.inner_text(".notes") == (
        "Trees that were trained with 'gone_xyz:f' are shown with IB-TPO's advantages: cannot load advantage "
        "'gone_xyz:f': ModuleNotFoundError: No module named 'gone_xyz'"
    )
    shown = {}
    for name in ("treepo", "gone_xyz", "ibtpo"):
        page = open_page(f"{url}#tree=1%3A{name}&node=1")
        assert "advantage of" not in page.inner_text(".legend")
        page.click(".segments label:has-text('Advantage')")
        fact = page.locator(".facts .fact").all_inner_texts()[-1]
        legend = page.inner_text(".legend").splitlines()[0]
        row = page.locator(".numbers tr", has_text="advantage").inner_text().split("\t")
        page.click(".path button:first-child")
        told = "trained with “gone_xyz:f” advantages; those shown here are “ibtpo”" in page.inner_text(".made")
        shown[name] = (fact, legend, page.inner_text("#n1 .value"), row[1].strip(), row[2].strip(), told)
    about = "mean over the answers through the step, before the batch is divided by its scale"
    ibtpo = ("advantage ibtpo", "advantage of ibtpo: A_GL + λ·A_IB", "+0.304▲", "+0.304", "A_GL + λ·A_IB")
    assert shown == {
        "treepo": ("advantage treepo", f"advantage of treepo: {about}", "+0.083▲", "+0.083", f"treepo: {about}", False),
        "gone_xyz": (*ibtpo, True),
        "ibtpo": (*ibtpo, False),
    }


def test_the_lists_search_is_there_again_after_another_one_in_a_tree(open_page, pages) -> None:
    page = open_page(f"{pages['trees']}#filter=effective")
    page.fill("#search", "merged")
    page.wait_for_selector("text=1 of 7 trees")
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    page.wait_for_selector(".card:visible")
    page.fill("#search", "12")
    page.wait_for_selector("#n3.hit")
    page.click("#to-list")
    page.wait_for_selector(".rows a:visible")
    assert page.input_value("#search") == "merged"
    assert ids(page) == ["merged"]
    assert page.url.endswith("#filter=effective")
