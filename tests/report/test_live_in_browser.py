"""A run in progress in real browsers: its pages follow it, keep what the reader does, and stay small."""

import contextlib
import json
import socket
import threading
import time

import pytest

from helpers.browser import chromium_only
from helpers.report_runs import make_run, result, rows, tree
from ibtpo.tree import write_trees

pytestmark = pytest.mark.browser
pytest.importorskip("starlette", reason="needs the extra `live`")

EVIL = "</summary></script><script>window.pwned = 1</script><img src=x onerror='window.pwned = 2'>"
SECONDS = 25  # the machine may be busy


@contextlib.contextmanager
def serving(folder):
    """The address of a server of a run folder."""
    import uvicorn

    from ibtpo.report.live import make_app

    app, token = make_app(folder)
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        place.listen()
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [place]})
        thread.start()
        yield f"http://127.0.0.1:{place.getsockname()[1]}/{token}/"
        server.should_exit = True
        thread.join()


@pytest.fixture
def watch(browser, tmp_path, monkeypatch):
    """A growing run, its address, and a page that may ask for nothing but that address and complain of nothing."""
    monkeypatch.setattr("ibtpo.report.follow.SHARE", 10)
    folder = make_run(tmp_path / "run", rows(30), evals={"before": result(0.2)}, trees={})
    with serving(folder) as address:
        context = browser.new_context(viewport={"width": 1200, "height": 900})
        page = context.new_page()
        complaints, requests = [], []
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(address)
        page.evaluate("live.every = 100; live.soon(0)")
        show(page, "cov")
        yield folder, address, page
        asked = list(requests)
        context.close()
    assert complaints == []
    assert {url.partition("#")[0] for url in asked} <= {address, address + "trees.html"}


def until(page, expression):
    """Waits until an expression holds; the page's policy forbids the evaluation that Playwright's own waiting needs."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        with contextlib.suppress(Exception):  # the page may just be loading anew
            if page.evaluate(expression):
                return
        page.wait_for_timeout(50)
    raise AssertionError(f"never came true: {expression}")


def show(page, key):
    """Scrolls to a chart, which is drawn when it comes into sight."""
    page.evaluate(f"document.getElementById('{key}').scrollIntoView({{ behavior: 'instant', block: 'center' }})")
    page.wait_for_selector(f"#{key}.drawn .u-over")


def add_steps(folder, begin, end):
    with (folder / "metrics.jsonl").open("a") as f:
        f.write("".join(json.dumps(row) + "\n" for row in rows(end)[begin:]))


def at_step(n):
    return f"document.querySelector('#live').textContent.includes('step {n}.')"


def test_curves_verdict_and_trees_follow_without_reloading(watch):
    folder, _, page = watch
    page.evaluate("window.marked = true")
    assert page.get_attribute("#cov .chart", "aria-valuenow") == "30"
    assert not page.query_selector("#loss")
    add_steps(folder, 30, 33)
    with (folder / "metrics.jsonl").open("a") as f:
        f.write(json.dumps({**rows(34)[33], "loss": 0.5}) + "\n")
    write_trees(folder / "trees" / "step_000030.jsonl.gz", [tree(EVIL, [0, 0, 1], prompt=EVIL, text=EVIL)])
    until(page, at_step(34))
    until(page, "document.querySelector('#cov .chart').getAttribute('aria-valuenow') === '34'")
    until(page, "document.querySelector('#rescued ~ details')")
    show(page, "loss")  # a metric that was not there before
    assert page.inner_text("nav").split("\n") == ["Verdict", "Curves", "Trees", "Configuration", "Versions"]
    assert "34" in page.inner_text(".facts")
    assert page.inner_text("#rescued ~ details .id") == EVIL
    assert page.evaluate("[window.marked, window.pwned ?? null]") == [True, None]


def test_what_the_reader_does_stays(watch):
    folder, _, page = watch
    page.focus("#cov .chart")
    for key in ("Home", "ArrowRight", "+"):
        page.keyboard.press(key)
    zoomed = page.evaluate("charts.drawn.get(document.getElementById('cov')).window")
    page.click("#accuracy-tokens .legend button")
    page.evaluate("document.querySelector('section[data-part] details').open = true")
    add_steps(folder, 30, 36)
    until(page, at_step(36))
    assert page.evaluate("charts.drawn.get(document.getElementById('cov')).window") == pytest.approx(zoomed)
    assert page.get_attribute("#accuracy-tokens .legend button", "aria-pressed") == "false"
    assert page.evaluate("document.querySelector('section[data-part] details').open")


def test_what_holds_a_selection_waits_until_it_is_gone(watch):
    folder, _, page = watch
    page.evaluate("getSelection().selectAllChildren(document.querySelector('.facts'))")
    add_steps(folder, 30, 31)
    until(page, at_step(31))
    assert "\n30\n" in page.inner_text(".facts")
    page.evaluate("getSelection().removeAllRanges()")
    until(page, "document.querySelector('.facts').innerText.includes('\\n31\\n')")


def test_the_list_of_trees_follows_and_an_open_tree_stays(watch):
    folder, address, page = watch
    write_trees(folder / "trees" / "step_000001.jsonl.gz", [tree("first", [0, 0, 1])])
    page.goto(address + "trees.html")
    until(page, "document.querySelector('#list').textContent.includes('first')")
    write_trees(folder / "trees" / "step_000002.jsonl.gz", [tree("second", [0, 1])])
    until(page, "document.querySelector('#list').textContent.includes('second')")
    page.evaluate("location.hash = '#tree=1:first'")
    until(page, "!document.querySelector('#tree').hidden")
    write_trees(folder / "trees" / "step_000003.jsonl.gz", [tree("third", [0, 1])])
    until(page, "document.querySelector('#newer')")
    assert page.evaluate("location.hash").startswith("#tree=1")
    page.click("#newer")
    until(page, "!document.querySelector('#newer') && !document.querySelector('#tree').hidden")
    page.evaluate("location.hash = '#'")
    until(page, "document.querySelector('#list').textContent.includes('third')")


def test_a_server_that_is_gone_is_said(browser, tmp_path):
    folder = make_run(tmp_path / "run", rows(3), trees={})
    page = browser.new_page()
    with serving(folder) as address:
        page.goto(address)
        show(page, "cov")
    page.evaluate("live.every = 100; live.soon(0)")
    until(page, "document.querySelector('#live [role=status]').textContent.startsWith('The server does not answer')")
    assert page.is_visible("#cov .chart canvas")
    page.close()


def test_a_live_page_has_no_accessibility_violation(watch):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs the package axe-playwright-python")
    _, _, page = watch
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        found = axe.Axe().run(page).response["violations"]
        assert [(v["id"], [n["html"][:200] for n in v["nodes"]][:3]) for v in found] == []


@chromium_only
@pytest.mark.slow
def test_ten_thousand_steps_take_under_a_hundred_megabytes(watch, tmp_path):
    """JavaScript's heap with every chart drawn, at its largest while steps arrive: 24 MB when last measured."""
    folder, _, page = watch
    more = {"loss": [0.1] * 10_000, "grad_norm": [0.5] * 10_000, "learning_rate": [1e-3] * 10_000}
    long = [{**row, **{name: v[0] for name, v in more.items()}} for row in rows(10_010)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in long[:10_000]))
    until(page, at_step(10_000))
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")

    def megabytes():
        metrics = {m["name"]: m["value"] for m in session.send("Performance.getMetrics")["metrics"]}
        return metrics["JSHeapTotalSize"] / 1e6

    for figure in page.query_selector_all("figure"):
        figure.scroll_into_view_if_needed()
        page.wait_for_timeout(20)
    until(page, "document.querySelectorAll('.drawn').length === document.querySelectorAll('figure').length")
    largest = megabytes()
    for step in range(10_000, 10_010):
        with (folder / "metrics.jsonl").open("a") as f:
            f.write(json.dumps(long[step]) + "\n")
        until(page, at_step(step + 1))
        largest = max(largest, megabytes())
    assert largest < 100
    points = page.evaluate("charts.data.runs[0].y['ibtpo/cov_eta'].length")
    assert points <= 1000
