"""The report in real browsers: from disk, with no request, no error, and nothing an accessibility check minds."""

import base64
import json

import pytest

from helpers.browser import chromium_only, printed
from helpers.report_runs import make_run, result, rows, tree

pytestmark = pytest.mark.browser

SCREENS = {"light": (1200, "light"), "dark": (1200, "dark"), "phone": (390, "light"), "dark phone": (390, "dark")}


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A report and a comparison, with a right-to-left question among the trees."""
    from ibtpo.report.checkpoints import write_diagnosis
    from ibtpo.report.run import write_comparison, write_report

    folder = tmp_path_factory.mktemp("browser")
    (folder / "d").mkdir()
    trees = {1: [tree("a", [0, 0, 1], prompt="كم يساوي ٢ + ٣؟"), tree("</details>b", [1, 1, 1], text="long " * 400)]}
    more = {f"rewards/{name}/mean": [0.1 * i] * 40 for i, name in enumerate(["walk", "</style><b>"])}
    one = make_run(folder / "one", rows(40, **more, **{"clip_ratio/region_mean": [0.01] * 40}), trees=trees)
    two = make_run(folder / "two", rows(20), config={"method": "<i>grpo</i> & $x$"})
    for run, last, gain in ((one, 40, 0.5), (two, 20, 0.25)):
        grades = [{"step": at, **result(0.2), "grades": {"a": x, "b": 0.25 + x}} for at, x in ((0, 0.0), (last, gain))]
        (run / "evals.jsonl").write_text("".join(json.dumps(row) + "\n" for row in grades))
    values = ("eff_rate", "cov_eta", "ib_score", "entropy", "avg_rate", "policy_rate")
    of = lambda i: {name: {"mean": 0.1 * i, "low": 0.1 * i - 0.05, "high": 0.1 * i + 0.05} for name in values}  # noqa: E731
    curve = [{"label": f"out/checkpoint-{50 * i}", "step": 50 * i, **of(i)} for i in range(1, 4)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ibtpo.report.figures.save_chart", lambda *args: None)  # files that no browser opens
        comparison = write_comparison([one, two], folder / "both.html")
    return {
        "diagnosis": write_diagnosis(curve, ["Cov fell"], [("data", "walk:test")], folder / "d" / "diagnosis.html"),
        "report": write_report(one),
        "comparison": comparison,
    }


@pytest.fixture
def look(browser, pages):
    """Opens a page on a screen; at the end it must have asked for nothing and complained of nothing."""
    opened = []

    def open_page(which, screen, more=(), script=True):
        width, scheme = SCREENS[screen]
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, java_script_enabled=script
        )
        page = context.new_page()
        complaints, requests = [], []
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(pages[which].as_uri())
        opened.append((context, complaints, requests, [pages[which].as_uri(), *more]))
        return page

    yield open_page
    for context, complaints, requests, own in opened:
        context.close()
        assert complaints == []
        assert {url.partition("#")[0] for url in requests} <= set(own)


@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("which", ["report", "comparison", "diagnosis"])
def test_no_accessibility_violation_and_no_sideways_scrolling(look, which, screen):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs the package axe-playwright-python")
    page = look(which, screen)
    page.evaluate("document.querySelectorAll('details').forEach((d) => (d.open = true))")
    assert page.evaluate("document.documentElement.scrollWidth") <= SCREENS[screen][0]
    found = axe.Axe().run(page).response["violations"]
    assert [(v["id"], [n["html"][:200] for n in v["nodes"]][:3]) for v in found] == []


@chromium_only
def test_the_curves_are_legible_in_the_dark(look):
    colours = {}
    for screen in ("light", "dark"):
        page = look("report", screen, script=False)  # with scripts, charts take the pictures' place
        ask = "(q) => { const e = document.querySelector(q), s = getComputedStyle(e); return [s.fill, s.stroke] }"
        colours[screen] = [
            page.evaluate(ask, "figure svg text")[0],
            page.evaluate("getComputedStyle(document.body).color"),
        ]
        assert colours[screen][0] == colours[screen][1]  # the pictures' text has the page's colour
        height = page.evaluate("document.querySelector('figure > svg').getBoundingClientRect().height")
        assert 200 < height < 600
    assert colours["light"] != colours["dark"]


def test_the_drawn_points_can_be_saved_from_the_page_alone(look):
    page = look("report", "light")
    with page.expect_download() as download:
        page.click("#cov a[download]")
    saved = download.value.path().read_bytes()
    assert saved.decode().startswith('curve,step,covariance,running mean\r\n"Cov(η1, η2)",1.0,')
    address = page.get_attribute("#cov a[download]", "href")
    assert base64.b64decode(address.partition("base64,")[2]) == saved


def test_a_rescued_tree_is_two_clicks_away_without_a_script(look):
    page = look("report", "phone")
    page.click("nav a[href='#trees']")
    page.click("#rescued ~ details summary")
    assert page.is_visible("details[open] mark")
    assert page.inner_text("details[open] mark").startswith("step 2 ends")


def test_three_clicks_lead_from_the_report_into_the_branch_that_rescued_a_tree(look, pages):
    page = look("report", "light", more=[pages["report"].with_name("trees.html").as_uri()])
    page.click("text=Open a rescued tree")  # the viewer, at the end of the branch
    page.wait_for_selector("#n5[aria-selected='true']")
    assert page.inner_text("#tree h2") == "a"
    assert "✓ right" in page.inner_text(".panel .answers")
    page.click("[aria-label='Play the growth']")
    page.click("[aria-label='One round on']")
    assert page.inner_text(".caption").startswith("Round 1 of 1. Branched after step 1")


def test_on_paper_what_is_folded_on_the_screen_is_open(look, tmp_path):
    page = look("report", "light")
    folded = "long long long"  # a step of a tree
    assert folded not in page.inner_text("body")
    assert folded in printed(page, tmp_path)


@chromium_only
def test_on_paper_no_heading_is_left_alone(look):
    page = look("report", "light")
    folded = "[...document.querySelectorAll('details:not([open]) > :not(summary)')]"
    seen = f"{folded}.map((e) => e.checkVisibility({{ contentVisibilityAuto: true }}))"
    assert page.evaluate(seen)
    assert not any(page.evaluate(seen))
    page.emulate_media(media="print")
    page.wait_for_function(f"{seen}.every((e) => e)")  # content-visibility takes effect with a frame
    assert page.evaluate("getComputedStyle(document.querySelector('#curves')).breakAfter") == "avoid"
