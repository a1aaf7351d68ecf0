"""The charts of a report, by mouse and by keyboard; without a script, and on paper, the static pictures."""

import contextlib
import csv
import json

import pytest

from helpers.browser import chromium_only, printed
from helpers.report_runs import make_run, result, rows

pytestmark = pytest.mark.browser

CLIP = {f"clip_ratio/{name}_mean": [0.02 * (i + 1)] * 40 for i, name in enumerate(["region", "low", "high"])}
MORE = {"rewards/walk/mean": [0.25] * 40, "rewards/</b><i>form</i>/mean": [1.0] * 40, **CLIP}


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A report, and the rows of its metrics.jsonl; time and share of observations among its charts."""
    from ibtpo.report.run import write_report

    folder = tmp_path_factory.mktemp("charts") / "run"
    metrics = [{**row, "grad_norm": 0.5, "ibtpo/given_tokens": 250.0} for row in rows(40, **MORE)]
    held_out = [
        {"step": s, "generated_tokens": 1000 * s, "seconds": 5 * s, **result(0.2 + s / 100)} for s in (0, 20, 40)
    ]
    make_run(folder, metrics, trees={})
    (folder / "evals.jsonl").write_text("".join(json.dumps(row) + "\n" for row in held_out))
    return write_report(folder), metrics


@pytest.fixture
def page(browser, report):
    """The report, which at the end must have asked for nothing but itself and complained of nothing."""
    with opened(browser, report[0]) as page:
        yield page


@contextlib.contextmanager
def opened(browser, path, **options):
    context = browser.new_context(viewport={"width": 1200, "height": 900}, **options)
    page = context.new_page()
    complaints, requests = [], []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(path.as_uri())
    yield page
    context.close()
    assert complaints == []
    assert {url.partition("#")[0] for url in requests} <= {path.as_uri()}  # Firefox does not tell of files


def show(page, key):
    """Scrolls to a chart and returns where its plotting area is, as left, top, width, height."""
    page.evaluate(f"document.getElementById('{key}').scrollIntoView({{ behavior: 'instant', block: 'center' }})")
    page.wait_for_selector(f"#{key}.drawn .u-over")
    box = page.query_selector(f"#{key} .u-over").bounding_box()
    return box["x"], box["y"], box["width"], box["height"]


def window(page, key):
    return page.evaluate(f"charts.drawn.get(document.getElementById('{key}')).window")


def values(page, key):
    """What the legend says, by curve."""
    text = lambda part: f"[...document.querySelectorAll('#{key} .legend {part}')].map((e) => e.textContent)"  # noqa: E731
    return dict(zip(page.evaluate(text("bdi")), page.evaluate(text(".value")), strict=True))


def settled(page):
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def test_pointing_at_a_chart_gives_the_values_of_that_step_there_and_in_the_others(page, report):
    x, y, width, height = show(page, "signal")
    low, high = window(page, "signal")
    page.mouse.move(x + width * (17 - low) / (high - low), y + height / 2)
    settled(page)
    assert page.inner_text("#signal .where") == "step 17"
    rate = float(f"{100 * report[1][16]['ibtpo/eff_rate']:.4g}")
    assert values(page, "signal")["Eff-Rate"].startswith(f"{rate:g} % (mean ")
    assert values(page, "signal")["rescued"] == "20 % (mean 20 %)"
    assert page.inner_text("#cov .where") == "step 17"
    page.mouse.move(5, 5)
    settled(page)
    assert page.inner_text("#signal .where") == "step 40, the last"


def test_the_keyboard_goes_from_step_to_step_and_is_told_the_values(page, report):
    show(page, "cov")
    page.focus("#cov .chart")
    heard = lambda name: page.get_attribute("#cov .chart", f"aria-{name}")  # noqa: E731
    assert (heard("valuemin"), heard("valuemax"), heard("label")) == ("1", "40", "Cov(η1, η2) against step")
    for key, step in [("Home", 1), ("ArrowRight", 2), ("ArrowUp", 3), ("Shift+ArrowRight", 13), ("ArrowLeft", 12),
                      ("PageUp", 22), ("PageDown", 12), ("End", 40), ("ArrowRight", 40)]:  # fmt: skip
        page.keyboard.press(key)
        settled(page)
        value = float(f"{report[1][step - 1]['ibtpo/cov_eta']:.4g}")
        assert heard("valuenow") == str(step), key
        assert heard("valuetext").startswith(f"step {step}: Cov(η1, η2) {value:g}".replace("e-05", "e-5")), key
    page.keyboard.press("Escape")
    settled(page)
    assert page.inner_text("#cov .where") == "step 40, the last"


def test_zoom_by_keys_buttons_dragging_and_back(page):
    x, y, width, height = show(page, "entropy")
    whole = window(page, "entropy")
    page.focus("#entropy .chart")
    page.keyboard.press("Home")
    page.keyboard.press("+")
    settled(page)
    low, high = window(page, "entropy")
    assert high - low == pytest.approx((whole[1] - whole[0]) / 2)
    assert low == pytest.approx(whole[0])  # around the cursor, as far as there is something
    page.keyboard.press("End")  # the window goes with the cursor
    assert window(page, "entropy")[0] < 40 < window(page, "entropy")[1]
    page.keyboard.press("-")
    settled(page)
    assert window(page, "entropy") == pytest.approx(whole)
    page.keyboard.press("+")
    page.keyboard.press("0")
    settled(page)
    assert window(page, "entropy") == pytest.approx(whole)
    page.click("#entropy [aria-label='Zoom in: Entropy']")
    assert window(page, "entropy")[1] - window(page, "entropy")[0] == pytest.approx((whole[1] - whole[0]) / 2)
    page.click("#entropy [aria-label='Zoom out: Entropy']")
    assert window(page, "entropy") == pytest.approx(whole)
    x, y, width, height = show(page, "entropy")  # a click may have scrolled
    page.mouse.move(x + width / 4, y + height / 2)
    page.mouse.down()
    page.mouse.move(x + width / 2, y + height / 2, steps=4)
    page.mouse.up()
    settled(page)
    part = (whole[1] - whole[0]) / 4
    assert window(page, "entropy") == pytest.approx([whole[0] + part, whole[0] + 2 * part], abs=0.5)
    assert window(page, "cov") == window(page, "entropy")  # charts of one axis zoom together, also those drawn later
    show(page, "time")
    assert window(page, "time") == window(page, "entropy")
    x, y, width, height = show(page, "entropy")
    page.mouse.dblclick(x + width / 2, y + height / 2)
    if page.context.browser.browser_type.name == "firefox":  # where two clicks by BiDi are not yet a double click
        page.dispatch_event("#entropy .u-over", "dblclick")
    settled(page)
    assert window(page, "entropy") == pytest.approx(whole)
    page.click("#entropy [aria-label='Zoom in: Entropy']")
    page.click("#entropy [aria-label='Show all: Entropy']")
    assert window(page, "entropy") == pytest.approx(whole)


@pytest.mark.parametrize("how", ["mouse", "keyboard"])
def test_a_curve_is_hidden_and_shown_by_its_name(page, how):
    show(page, "branches")
    button = "#branches .legend li:nth-child(1) button"
    top = "charts.drawn.get(document.getElementById('branches')).plot.scales.y.max"
    act = (lambda: page.click(button)) if how == "mouse" else (lambda: page.press(button, "Enter"))
    assert page.evaluate(top) > 0.5  # costs are 0.5, depths 0.4
    act()
    settled(page)
    assert page.get_attribute(button, "aria-pressed") == "false"
    assert 0.4 < page.evaluate(top) < 0.5
    act()
    settled(page)
    assert page.get_attribute(button, "aria-pressed") == "true"
    assert page.evaluate(top) > 0.5


def test_a_hidden_layer_leaves_the_stack(page):
    show(page, "time")
    top = "Math.max(...charts.drawn.get(document.getElementById('time')).plot.data[9])"
    assert page.evaluate(top) == pytest.approx(5.0)
    page.click("#time .legend li:nth-child(1) button")  # sampling, 3 s
    assert page.evaluate(top) == pytest.approx(2.0)
    assert values(page, "time")["update 30 %"] == "1.5"


def test_held_out_points_and_means_are_where_the_run_has_them(page):
    show(page, "accuracy-tokens")
    held = page.evaluate("charts.data.charts['accuracy-tokens'].held")
    assert [h[:2] for h in held] == [[0, 0.2], [20000, 0.4], [40000, 0.4]]
    low, high = window(page, "accuracy-tokens")
    assert low < 0
    assert high > 40000


def test_loss_norms_clips_rewards_and_observations_have_panels_and_what_is_empty_has_none(page, report):
    shown = page.evaluate("[...document.querySelectorAll('figure')].map((f) => f.id)")
    assert {"grad-norm", "clip", "rewards", "given"} <= set(shown)
    assert not {"loss", "rate"} & set(shown)
    show(page, "rewards")
    assert values(page, "rewards") == {"walk": "0.25 (mean 0.25)", "</b><i>form</i>": "1 (mean 1)"}
    show(page, "given")
    assert values(page, "given") == {"given by the environment": "20 % (mean 20 %)"}
    with (report[0].parent / "report_data" / "clip.csv").open(newline="") as f:
        assert [row["clip_ratio/region_mean"] for row in csv.DictReader(f)] == ["0.02"] * 40


def test_dark_mode_draws_the_charts_anew(page):
    show(page, "cov")
    colour = "charts.drawn.get(document.getElementById('cov')).plot.series[1].stroke()"
    light = page.evaluate(colour)
    page.emulate_media(color_scheme="dark")
    settled(page)
    assert [light, page.evaluate(colour)] == ["#0072b2", "#56b4e9"]


def test_on_paper_the_static_pictures_take_the_place_of_the_charts(page, tmp_path):
    show(page, "cov")
    text = printed(page, tmp_path)
    assert "Show or hide" not in text
    assert text.count("Cov(η1, η2)") >= 2  # the heading, and the picture's axis
    assert page.is_visible("#cov .chart canvas")


@chromium_only
def test_without_a_script_and_on_paper_the_static_pictures_are_there(browser, report, page):
    seen = "[...document.querySelectorAll('#cov svg[role=img], #cov .chart')].map((e) => e.checkVisibility())"
    show(page, "cov")
    assert page.evaluate(seen) == [True, False] or page.evaluate(seen) == [False, True]
    assert page.is_visible("#cov .chart canvas")
    page.emulate_media(media="print")
    assert page.is_visible("#cov > svg")
    assert not page.is_visible("#cov .chart")
    assert not page.is_visible("#cov .tools")
    assert not page.is_visible("#cov .legend")
    with opened(browser, report[0], java_script_enabled=False) as plain:
        assert plain.is_visible("#cov > svg")
        assert plain.query_selector(".chart") is None
        assert not plain.is_visible(".scripted")
