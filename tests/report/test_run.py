"""The run report: its numbers are the run's, its page is whole and lets nothing in, its files tell what is missing."""

import base64
import csv
import hashlib
import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from urllib.parse import unquote

import pytest

from helpers.report_runs import make_run, result, rows, tree
from ibtpo.cli import main
from ibtpo.errors import CheckpointError, ConfigError, DataError
from ibtpo.report.charts import COLOURS
from ibtpo.report.plots import MOST_DRAWN
from ibtpo.report.run import write_comparison, write_report

VOID = {"meta", "br", "img", "link", "input", "hr"}
EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\" onmouseover='x' \u202etxt.exe <!-- {{ 7 * 7 }}"


class Page(HTMLParser):
    """A page as a parser sees it: tags balanced, attributes, text, ids."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.open, self.text = [], [], [], ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        self.text += " " * (tag in ("td", "th", "dt", "dd"))

    def handle_data(self, data):
        self.text += data

    def all(self, name):
        return [a[name] for _, a in self.attributes if name in a]


def read_csv(path):
    with path.open(newline="", encoding="utf-8") as f:
        return list(csv.DictReader(f))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A run folder with its report, and the page."""
    folder = make_run(tmp_path_factory.mktemp("report") / "first run")
    path = write_report(folder)
    return folder, Page(path.read_text(encoding="utf-8")), path.read_text(encoding="utf-8")


@pytest.fixture
def undrawn(monkeypatch):
    """For tests of what is around the pictures: they take most of the time."""
    monkeypatch.setattr("ibtpo.report.figures.draw_chart", lambda *args: "<svg role='img' aria-label='from'></svg>")
    monkeypatch.setattr("ibtpo.report.figures.save_chart", lambda *args: None)


# --- numbers ----------------------------------------------------------------------------------------------------


def test_the_csv_files_hold_the_metrics_as_logged(written):
    folder, _, _ = written
    logged = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()][:-1]
    for name in (
        "signal",
        "cov",
        "ib-score",
        "entropy",
        "length",
        "kl",
        "truncated",
        "branches",
        "bought",
        "gap",
        "time",
    ):
        table = read_csv(folder / "report_data" / f"{name}.csv")
        assert [int(row["step"]) for row in table] == list(range(1, 41))
        metrics = set(table[0]) - {"step", "generated_tokens_total", "seconds_total"}
        assert metrics
        for row, source in zip(table, logged, strict=True):
            assert {m: float(row[m]) for m in metrics} == {m: source[m] for m in metrics}
            assert float(row["generated_tokens_total"]) == 1000 * source["step"]
            assert float(row["seconds_total"]) == pytest.approx(5 * source["step"])


def test_the_held_out_table_shows_both_intervals_and_that_of_the_change(written):
    folder, page, _ = written
    assert "20.0 % [16.0, 24.0]" in page.text
    assert "+20.0 points [+14.3, +25.7]" in page.text  # ± 4·√2
    table = read_csv(folder / "report_data" / "held-out.csv")
    assert [(r["when"], r["measure"], float(r["value"])) for r in table[:2]] == [
        ("before", "avg@4", 0.2), ("before", "pass@4", 0.4)
    ]  # fmt: skip


def test_a_metric_logged_every_fifth_step_counts_for_five(undrawn, tmp_path):
    every_fifth = [{**row, "step": 5 * row["step"]} for row in rows(12)]
    for row in every_fifth:
        del row["ibtpo/generated_tokens_total"]
    write_report(make_run(tmp_path / "run", every_fifth))
    last = read_csv(tmp_path / "run/report_data/cov.csv")[-1]
    assert (float(last["generated_tokens_total"]), float(last["seconds_total"])) == (60_000, pytest.approx(300))


def test_long_curves_are_thinned_in_the_page_and_whole_in_the_csv(undrawn, tmp_path):
    write_report(make_run(tmp_path / "run", rows(1000), trees={}))
    text = (tmp_path / "run/report.html").read_text()
    assert len(read_csv(tmp_path / "run/report_data/cov.csv")) == 1000
    assert "Thin line: means of 4 steps." in text
    drawn = [base64.b64decode(d.partition(",")[2]).decode() for d in Page(text).all("href") if d.startswith("data:")]
    assert all(len(d.splitlines()) <= 1 + 5 * MOST_DRAWN for d in drawn)
    cov = next(
        list(csv.DictReader(d.splitlines())) for d in drawn if d.startswith("curve,step,covariance,running mean")
    )
    first = [float(r["ibtpo/cov_eta"]) for r in read_csv(tmp_path / "run/report_data/cov.csv")[:4]]
    assert float(cov[0]["covariance"]) == pytest.approx(sum(first) / 4, rel=1e-5)


def test_the_same_run_gives_the_same_bytes(tmp_path):
    folder = make_run(tmp_path / "run")
    first = write_report(folder).read_bytes()
    assert write_report(folder).read_bytes() == first


# --- the page ---------------------------------------------------------------------------------------------------


def test_the_content_policy_lets_only_the_pages_own_style_in(written):
    _, page, text = written
    policy = next(a["content"] for t, a in page.attributes if a.get("http-equiv") == "Content-Security-Policy")
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert policy == (
        f"default-src 'none'; style-src 'sha256-{digest}'; script-src 'sha256-{hashes[0]}' 'sha256-{hashes[1]}'; "
        "base-uri 'none'; form-action 'none'"
    )
    assert [a for t, a in page.attributes if t == "script"] == [{"type": "application/json", "id": "numbers"}, {}, {}]
    assert "Copyright (c) 2022 Leon Sorokin" in text
    assert not set(page.tags) & {"img", "link", "iframe", "object", "embed", "form", "image", "base"}
    assert page.tags.count("style") == 1
    assert not [a for _, a in page.attributes if any(k.startswith("on") or k == "style" for k in a)]
    assert not [a for t, a in page.attributes if t == "a" and re.match(r"(?!data:text/csv)[a-z]+:", a["href"])]
    assert "url(" not in style.replace("url(#", "")


def test_links_lead_somewhere(written):
    folder, page, _ = written
    ids = page.all("id")
    assert len(ids) == len(set(ids))
    for href in page.all("href"):
        file, hash, fragment = href.partition("#")
        if href.startswith("data:"):
            continue
        assert (folder / unquote(file)).exists(), href
        if hash and not file:
            assert fragment in ids, href


def test_headings_landmarks_and_table_headers_are_there(written):
    _, page, _ = written
    levels = [int(t[1]) for t in page.tags if re.fullmatch(r"h[1-6]", t)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))
    assert {"header", "nav", "main", "footer", "section", "caption"} <= set(page.tags)
    assert all(a.get("scope") in ("col", "row") for t, a in page.attributes if t == "th")
    assert {"lang": "en"} in [a for t, a in page.attributes if t == "html"]


def test_every_picture_says_in_words_what_it_shows(written):
    _, page, _ = written
    pictures = [a for t, a in page.attributes if t == "svg"]
    assert len(pictures) == page.tags.count("figure") == 15
    assert all(a["role"] == "img" and " from " in a["aria-label"] for a in pictures)
    accuracy = pictures[0]["aria-label"]
    assert accuracy.startswith("Accuracy. Accuracy against generated tokens. in training")
    assert "held out before 20.0 %; held out after 40.0 %" in accuracy


def test_the_pictures_take_their_colours_from_the_page(written):
    _, _, text = written
    body = text.partition("</style>")[2]
    style = text.partition("<style>")[2].partition("</style>")[0].partition("@media print")[2]
    assert not [c for c in (*COLOURS, "#010203", "#040506", "#000000", "#ffffff") if c in body + style]
    assert "var(--ink)" in style
    assert "var(--c0)" in style


def test_rescued_best_and_worst_trees_link_into_the_viewer(written):
    folder, page, text = written
    assert (folder / "trees.html").exists()
    assert "Branching rescued 1 of the 3 stored trees read" in page.text
    assert "All 2 first answers were wrong. Round 1 branched after step 1 (node 1)" in page.text
    links = [h for h in page.all("href") if h.startswith("trees.html#")]
    assert links[0] == "trees.html#tree=10%3Asaved&node=5"  # the leaf of the branch that was right
    assert "trees.html#tree=10%3Asaved" in links
    assert "trees.html#filter=rescued" in links
    assert re.search(r"step 0 begins\.\n\n<mark>step 2 ends</mark>", text)
    order = [page.text.index(word) for word in ("Rescued by branching", "Best", "Worst")]
    assert order == sorted(order)


def test_configuration_and_versions_are_tabled(written):
    _, page, _ = written
    cells = re.sub(r"\s+", " ", page.text)
    assert "walk:train" in cells
    assert "torch 2.6" in cells
    assert "vllm –" in cells


def test_text_of_a_run_is_shown_and_never_obeyed(tmp_path):
    evil = tree(EVIL, [0, 0, 1], prompt=EVIL, text=EVIL, answer=EVIL)
    folder = make_run(
        tmp_path / "a$b <i>&", trees={1: [evil]}, config={"system_prompt": EVIL, "data": EVIL, "x<y": EVIL}
    )
    text = write_report(folder).read_text(encoding="utf-8")
    page = Page(text)
    assert "img" not in page.tags
    assert page.tags.count("script") == 3
    assert not [a for _, a in page.attributes if any(k.startswith("on") for k in a)]
    assert "\u202e" not in text
    assert "[U+202E]" in text
    assert page.text.count("{{ 7 * 7 }}") >= 6
    assert page.text.count("</script>") >= 6
    link = next(h for h in page.all("href") if h.startswith("trees.html#tree=") and "&node" not in h)
    assert unquote(link.partition("#tree=")[2]) == f"1:{EVIL}"
    few = [{k: row[k] for k in ("step", "ibtpo/generated_tokens", "ibtpo/avg_rate")} for row in rows(15)]
    plain = make_run(tmp_path / "c$d <i>&", few, trees={}, config={"method": EVIL, "data": EVIL})
    write_comparison([plain, plain], tmp_path / "both.html")
    both = Page((tmp_path / "both.html").read_text())
    assert not set(both.tags) & {"img", "i"}
    assert both.tags.count("script") == 3


def test_a_very_long_answer_is_cut_and_says_so(undrawn, tmp_path):
    write_report(make_run(tmp_path / "run", trees={1: [tree("long", [0, 0, 1], text="word " * 2000)]}))
    page = Page((tmp_path / "run/report.html").read_text())
    assert re.search(r"\d{4,} more characters; the viewer has them", page.text)


# --- what is missing or broken ------------------------------------------------------------------------------------


def test_a_run_that_has_only_begun_gets_a_report_that_says_what_is_missing(undrawn, tmp_path):
    folder = make_run(tmp_path / "run", [], evals={}, trees={})
    (folder / "env.json").unlink()
    text = Page(write_report(folder).read_text()).text
    for words in ("holds no step", "Held-out accuracy was not measured", "No trees are stored", "env.json is missing"):
        assert words in text
    (folder / "metrics.jsonl").unlink()
    assert "metrics.jsonl is missing" in Page(write_report(folder).read_text()).text


def test_half_a_last_line_is_left_out_and_said(undrawn, tmp_path):
    folder = make_run(tmp_path / "run", rows(20))
    metrics = folder / "metrics.jsonl"
    metrics.write_text("".join(json.dumps(row) + "\n" for row in rows(20)) + '{"step": 21, "ibtpo/gen')
    assert "line 21) is cut off" in Page(write_report(folder).read_text()).text
    assert len(read_csv(folder / "report_data/cov.csv")) == 20


@pytest.mark.parametrize("n", [1, 2, 11])
def test_a_very_short_run_has_curves_but_no_trends(tmp_path, n):
    page = Page(write_report(make_run(tmp_path / "run", rows(n))).read_text())
    assert page.tags.count("figure") == 15
    assert f"{n} of the 12 steps" in page.text


def test_values_that_are_no_numbers_leave_gaps(tmp_path):
    metrics = rows(20)
    for i, value in enumerate([None, 1e300, float("nan"), float("inf"), 10**400]):
        metrics[i]["ibtpo/cov_eta"] = value
        metrics[i]["ibtpo/ib_score"] = None
    write_report(make_run(tmp_path / "run", metrics))
    assert [r["ibtpo/cov_eta"] for r in read_csv(tmp_path / "run/report_data/cov.csv")[:5]] == [""] * 5


def test_a_metric_that_was_never_logged_has_no_picture(undrawn, tmp_path):
    metrics = [{k: v for k, v in row.items() if "cov" not in k and "time" not in k and k != "kl"} for row in rows(20)]
    page = Page(write_report(make_run(tmp_path / "run", metrics)).read_text())
    assert not {"cov", "time", "accuracy-time", "kl"} & set(page.all("id"))
    assert "accuracy-tokens" in page.all("id")


BROKEN = [
    ("metrics.jsonl", '{"step": 1}\nnot json\n{"step": 2}\n', r"metrics\.jsonl:2: not valid JSON"),
    ("metrics.jsonl", '{"step": 1}\nnot json\n', r"metrics\.jsonl:2: not valid JSON"),
    ("metrics.jsonl", "[1]\n", r"metrics\.jsonl:1: expected an object with a step"),
    ("metrics.jsonl", '{"step": -1}\n', r"metrics\.jsonl:1: expected an object with a step"),
    ("metrics.jsonl", '{"step": 1, "ibtpo/generated_tokens": "x"}\n', r"metrics\.jsonl:1: ibtpo/generated_tokens must"),
    ("metrics.jsonl", b'{"step": 1}\n\xff\xfe\n{}\n', r"metrics\.jsonl:2: not valid JSON"),
    ("env.json", "{\n\n oops", r"env\.json:3: not valid JSON"),
    ("env.json", "[]", r"env\.json:1: expected a JSON object"),
    ("eval.json", "{", r"eval\.json: not valid JSON"),
    ("eval.json", '{"before": {"avg": "high", "k": 1, "n": 2}}', r"eval\.json: before\.avg and before\.avg_ci"),
    ("eval.json", '{"before": {"avg": 0.5, "k": 1, "n": 2}}', r"eval\.json: before\.avg and before\.avg_ci"),
    ("config.yaml", "a: 1\na: 2\n", r"config\.yaml, line 2"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "message"), BROKEN)
def test_a_broken_file_is_named_with_its_line(undrawn, tmp_path, name, content, message):
    folder = make_run(tmp_path / "run")
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises((DataError, CheckpointError), match=message):
        write_report(folder)
    assert not (folder / "report.html").exists()


def test_a_tree_that_cannot_be_read_is_left_out_and_said(undrawn, tmp_path):
    folder = make_run(tmp_path / "run")
    (folder / "trees" / "step_000003.jsonl").write_text('{"id": "x"}\n')
    cut = folder / "trees" / "step_000001.jsonl.gz"
    cut.write_bytes(cut.read_bytes()[:-30])
    page = write_report(folder).read_text("utf-8")
    assert "step_000003.jsonl:1: tree has no" in page
    assert "step_000001.jsonl.gz:1: cannot be read" in page
    assert "of the 2 stored trees read" in page
    for file in (folder / "trees").glob("*.gz"):
        file.unlink()
    page = write_report(folder).read_text("utf-8")
    assert "step_000003.jsonl:1: tree has no" in page
    assert "stored trees read" not in page


def test_of_trees_without_branches_nothing_is_said_of_rescue(undrawn, tmp_path):
    folder = make_run(tmp_path / "flat", trees={1: [tree("a", [0, 1])]})
    page = write_report(folder).read_text("utf-8")
    assert "have no branches" in page
    assert "Branching rescued" not in page
    folder = make_run(tmp_path / "branched", trees={1: [tree("a", [0, 1, 0])]})
    assert "Branching rescued none of the 1 stored trees" in write_report(folder).read_text("utf-8")


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="is no folder"):
        write_report(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"no run folder: it has no config\.yaml"):
        write_report(tmp_path)


def test_only_a_report_of_ours_is_overwritten(undrawn, tmp_path):
    folder = make_run(tmp_path / "run")
    (tmp_path / "mine.html").write_text("<p>dear diary")
    with pytest.raises(ConfigError, match="no report of ours"):
        write_report(folder, tmp_path / "mine.html")
    assert (tmp_path / "mine.html").read_text() == "<p>dear diary"
    (tmp_path / "new_data").mkdir()
    (tmp_path / "new_data/cov.csv").write_text("mine")
    with pytest.raises(ConfigError, match="is taken"):
        write_report(folder, tmp_path / "new.html")
    assert (tmp_path / "new_data/cov.csv").read_text() == "mine"
    write_report(folder, tmp_path / "other.html")
    write_report(folder, tmp_path / "other.html")
    assert (tmp_path / "other_trees.html").exists()
    assert (tmp_path / "other_data/cov.csv").exists()


# --- several runs -------------------------------------------------------------------------------------------------


def test_a_comparison_has_one_curve_a_run_and_only_the_differences_of_the_configurations(tmp_path):
    a = make_run(tmp_path / "a", rows(40, kl=[0.1] * 40), config={"learning_rate": 1e-3})
    b = make_run(tmp_path / "x" / "a", rows(15), evals={"before": result(0.3)}, config={"learning_rate": 2e-3})
    write_report(a)
    page = Page(write_comparison([a, b], tmp_path / "compare.html").read_text())
    text = re.sub(r"\s+", " ", page.text)
    ids = page.all("id")
    assert {
        f"{k}-{v}" for k in ("accuracy", "cov", "signal-0", "branches-2", "time") for v in ("tokens", "time")
    } <= set(ids)
    assert "a (2)" in text
    assert "learning_rate 0.001 0.002" in text
    assert "walk:train" not in text
    assert "20.0 % [16.0, 24.0] 40.0 % [36.0, 44.0] +20.0 points" in text
    assert "30.0 % [26.0, 34.0] not measured" in text
    assert "a/report.html" in page.all("href")
    table = read_csv(tmp_path / "compare_data/cov.csv")
    assert [sum(r["run"] == name for r in table) for name in ("a", "a (2)")] == [40, 15]
    label = next(a["aria-label"] for t, a in page.attributes if t == "svg")
    assert "a: from" in label
    assert "a (2): from" in label


def test_a_comparison_brings_what_a_paper_needs(tmp_path):
    few = [{k: row[k] for k in ("step", "ibtpo/generated_tokens", "ibtpo/avg_rate")} for row in rows(15)]
    runs = []
    for method, gain in (("ibtpo", 0.5), ("grpo", 0.25)):
        run = make_run(tmp_path / method, few, trees={}, config={"method": method})
        held_out = [{"step": s, **result(0.2), "grades": {"a": g, "b": g + 0.25}} for s, g in ((0, 0), (15, gain))]
        (run / "evals.jsonl").write_text("".join(json.dumps(row) + "\n" for row in held_out))
        runs.append(run)
    page = Page(write_comparison(runs, tmp_path / "compare.html").read_text())
    data = tmp_path / "compare_data"
    text = re.sub(r"\s+", " ", page.text)
    assert "grpo 3 12.5 [−146.3, 171.3] 37.5 [−121.3, 196.3] † +25.0 [+25.0, +25.0] † −25.0 [−25.0, −25.0] †" in text
    assert (data / "table.md").read_text() in page.text
    assert (data / "table.tex").read_text() in page.text
    names = {p.name for p in data.iterdir()}
    for name in ("held-out", "accuracy-tokens"):
        assert (data / f"{name}.pdf").read_bytes().startswith(b"%PDF-")
        assert (data / f"{name}.svg").read_text().rstrip().endswith("</svg>")
        assert {f"compare_data/{name}.svg", f"compare_data/{name}.pdf"} <= set(page.all("href"))
    assert names == {"accuracy.csv", "held-out.csv", "differences.csv", "table.md", "table.tex"} | {
        f"{name}.{kind}" for name in ("held-out", "accuracy-tokens") for kind in ("svg", "pdf")
    }
    table = read_csv(data / "differences.csv")
    minus = next(row for row in table if row["what"] == "minus_first")
    assert (minus["method"], float(minus["mean"]), minus["problems"], minus["seeds"]) == ("grpo", -0.25, "2", "seed 3")
    before = {p.name: p.read_bytes() for p in data.iterdir()}
    write_comparison(runs, tmp_path / "compare.html")
    assert {p.name: p.read_bytes() for p in data.iterdir()} == before


# --- the commands -------------------------------------------------------------------------------------------------


def test_the_command_writes_and_says_where(undrawn, tmp_path, capsys, monkeypatch):
    folder = make_run(tmp_path / "run")
    assert main(["report", str(folder)]) == 0
    assert capsys.readouterr().out == f"report: {folder / 'report.html'}\n"
    assert main(["report", str(folder), str(folder), "-o", str(tmp_path / "new" / "both.html")]) == 0
    assert (tmp_path / "new" / "both.html").exists()
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    assert main(["report", "run", "run"]) == 0
    assert capsys.readouterr().out == "report: compare.html\n"
    assert (tmp_path / "compare_data" / "cov.csv").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["RUN", "-o", "RUN"], "is a folder; name a file"),
        (["nowhere"], "nowhere is no folder"),
        ([], "the following arguments are required: RUN"),
    ],
)
def test_the_command_refuses_with_one_line(undrawn, tmp_path, capsys, words, message):
    folder = make_run(tmp_path / "run")
    assert main(["report", *(w.replace("RUN", str(folder)) for w in words)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_training_whose_report_fails_warns_and_does_not_fail(tmp_path, capsys):
    from ibtpo.commands.train import try_report

    folder = make_run(tmp_path / "run")
    (folder / "env.json").write_text("{")
    assert try_report(folder) is None
    error = capsys.readouterr().err
    assert error.startswith("warning: no report was written (DataError: ")
    assert error.endswith(f"try again with: ibtpo report {folder}\n")
    assert error.count("\n") == 1
