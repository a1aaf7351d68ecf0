"""Where the trees of a page come from, how those of two sets are matched, and what the terminal says of the change."""

import io
import json
import re
from pathlib import Path

import pytest

from helpers.view_pages import Page, pair_of_trees, short_tree, write_diagnosis_trees, write_run
from ibtpo import cli
from ibtpo.errors import ConfigError, DataError
from ibtpo.tree import write_trees
from ibtpo.viewer.greeting import first_link
from ibtpo.viewer.matching import matches, summary
from ibtpo.viewer.page import default_output, write_viewer
from ibtpo.viewer.sources import Source, open_sources
from ibtpo.viewer.terminal import print_tree


@pytest.fixture
def diagnosis(tmp_path: Path) -> Path:
    """The folder of a diagnosis of two checkpoints, whose names sort the other way round."""
    before, after = pair_of_trees()
    folder = tmp_path / "diagnosis"
    write_diagnosis_trees(folder, start=[before, short_tree("q2", 0.0)], end=[short_tree("q2", 1.0), after])
    return folder


def test_a_diagnosis_is_a_set_a_checkpoint_in_the_order_of_its_summary(diagnosis: Path) -> None:
    sets = open_sources([diagnosis])
    assert [s.label for s in sets] == ["start", "end"]
    assert [[t.id for _, t in s.trees()] for s in sets] == [["q1", "q2"], ["q2", "q1"]]
    (diagnosis / "summary.json").unlink()  # it was stopped early
    assert [s.label for s in open_sources([diagnosis])] == ["end", "start"]
    result = write_viewer(diagnosis)
    assert result.output == diagnosis / "trees.html"
    page = Page(result.output)
    assert page.facts["sets"] == ["end", "start"]
    assert "q1 start, 3 answers, average reward 0.67" in page.text  # without a script, too
    assert [attrs["id"] for tag, attrs in page.tags if tag == "details"] == [
        "end%3Aq2",
        "end%3Aq1",
        "start%3Aq1",
        "start%3Aq2",
    ]
    assert page.data("index")["set"] == [0, 0, 1, 1]
    assert page.data("index")["success"] == [1, pytest.approx(1 / 3), pytest.approx(2 / 3), 0]


def test_a_checkpoint_that_is_still_being_measured_is_shown_as_far_as_it_goes(diagnosis: Path, capsys) -> None:
    whole = (diagnosis / "trees" / "end.jsonl").read_bytes()
    (diagnosis / "trees" / "end.jsonl").unlink()
    (diagnosis / "trees" / "end.jsonl.partial").write_bytes(whole[:-40])
    (diagnosis / "trees" / "next.jsonl.partial").write_bytes(b"")
    assert cli.main(["view", str(diagnosis)]) == 0
    captured = capsys.readouterr()
    assert re.match(r"left out: .*end\.jsonl\.partial:2: ", captured.err)
    assert captured.out.endswith(" kB, 3 trees)\n")
    assert Page(diagnosis / "trees.html").facts["sets"] == ["start", "end"]


def test_labels_are_as_long_as_it_takes_to_tell_the_sets_apart(tmp_path: Path) -> None:
    for run in ("grpo/seed0", "ibtpo/seed0", "ibtpo/seed1"):
        write_run(tmp_path / run, [short_tree("q", 1.0)])
    write_trees(tmp_path / "a" / "x.jsonl.gz", [short_tree("q", 1.0)])
    paths = [tmp_path / p for p in ("grpo/seed0", "ibtpo/seed0", "ibtpo/seed1", "a/x.jsonl.gz")]
    assert [s.label for s in open_sources(paths)] == ["grpo/seed0", "ibtpo/seed0", "seed1", "x"]
    assert default_output(paths) == Path("compared.html")
    for name in ("d1", "d2"):
        write_diagnosis_trees(tmp_path / name, base=[short_tree("q", 1.0)])
    assert [s.label for s in open_sources([tmp_path / "d1", tmp_path / "d2"])] == ["d1/base", "d2/base"]


def test_what_cannot_be_laid_side_by_side_is_said(tmp_path: Path) -> None:
    write_trees(tmp_path / "a.jsonl", [short_tree("q", 1.0)])
    with pytest.raises(ConfigError, match=r"a\.jsonl is given twice; name each run or file of trees once"):
        open_sources([tmp_path / "a.jsonl", tmp_path / "a.jsonl"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty holds no trees: neither .* nor the trees/\*\.jsonl of ibtpo diagnose"):
        open_sources([tmp_path / "a.jsonl", tmp_path / "empty"])
    (tmp_path / "b.jsonl").write_text((tmp_path / "a.jsonl").read_text() + "{}\n")
    with pytest.raises(DataError, match=r"b\.jsonl:2: "):
        write_viewer([tmp_path / "a.jsonl", tmp_path / "b.jsonl"], tmp_path / "p.html")


def entry(id: str, place: int, success: float | None, **more: object) -> dict:
    return {"id": id, "set": place, "success": success, "prompt": id, **more}


def test_problems_are_matched_by_id_and_the_largest_change_comes_first() -> None:
    entries = [entry("a", 0, 0.5), entry("b", 0, 1.0), entry("c", 0, 0.0), entry("only before", 0, 1.0),
               entry("d", 0, None), entry("a", 1, 0.5), entry("d", 1, 1.0), entry("c", 1, 1.0), entry("b", 1, 0.9),
               entry("b", 1, 0.25), entry("c", 2, 0.5)]  # fmt: skip
    found = matches(entries, 0, 1)
    assert [(m.before["id"], m.change) for m in found] == [("c", 1.0), ("b", -0.75), ("a", 0.0), ("d", None)]
    assert summary(found, "x", "y") == (
        "From x to y, over 3 problems in both: 50.0 % → 58.3 % of a tree's answers are right. 1 fell, 1 rose, 1 "
        "stayed; 0 lost every right answer."
    )
    assert [(m.before["id"], m.change) for m in matches(entries, 1, 2)] == [("c", -0.5)]
    assert summary([], "x", "y") == "x and y have no problem in common, so nothing can be compared."
    assert summary(found[3:], "x", "y") == "1 problem in both x and y; none was graded in both."


def test_a_page_greets_with_what_was_learned_before_any_script_runs(tmp_path: Path, diagnosis: Path) -> None:
    page = write_viewer(diagnosis).output.read_text()
    greeting = page[page.index('<section id="greeting"') : page.index("</section>")]
    assert re.findall(r"<p>(.*)</p>", greeting) == [
        "From start to end, over 2 problems in both: 33.3 % → 66.7 % of a tree&#x27;s answers are right. 1 fell, 1 "
        "rose, 0 stayed; 0 lost every right answer.",
        "Eff-Rate fell.",
        "4 trees of 2 problems. In 2 the answers differ in correctness, so that they carry a signal; in 0 of these "
        "only thanks to a branch.",
        '<a href="#pair=q2">Begin with the problem that changed most</a>',
    ]
    write_run(tmp_path / "run", [short_tree("q", 1.0)], at=3)
    shares = {
        "before": {"avg": 0.2, "avg_ci": [0.1, 0.3]},
        "after": {"avg": 0.5, "avg_ci": [0.4, 0.6], "k": 4, "n": 99},
    }
    (tmp_path / "run" / "eval.json").write_text(json.dumps(shares))
    page = write_viewer(tmp_path / "run").output.read_text()
    assert "<p>Held-out accuracy went from 20.0 % [10.0, 30.0] to 50.0 % [40.0, 60.0] in training (avg@4 on 99 " in page
    assert "<p>1 tree of 1 problem, of step 3. " in page
    assert "Begin with" not in page
    (tmp_path / "run" / "eval.json").write_text("{")  # as far as it can be read
    assert "Held-out" not in write_viewer(tmp_path / "run").output.read_text()


def test_a_page_says_where_to_begin() -> None:
    one, two = (Source(Path("x"), label, [], is_run=False) for label in ("a", "b/c"))

    def found(*rows: tuple[int, int, int | None], sets: list[Source]) -> tuple[str, str] | None:
        entries = [
            {**entry(f"q {i}", place, 0.5), "effective": effective, "rescued": saved is not None, "step": saved}
            for i, (place, effective, saved) in enumerate(rows)
        ]
        return first_link(sets, entries)

    rescued, mixed = "a tree that a branch rescued", "a tree with right and wrong answers"
    assert found((0, 1, 3), (0, 1, 7), (0, 1, None), sets=[one]) == ("tree=7%3Aq%201", rescued)
    assert found((0, 1, None), (0, 0, None), sets=[one]) == ("tree=q%200", mixed)
    assert found((0, 0, None), sets=[one]) is None
    assert found((0, 0, None), (1, 1, 2), sets=[one, two]) == ("tree=b%2Fc%3A2%3Aq%201", rescued)  # none in both


def printed(*sources: Path, wanted: str | None = None) -> list[str]:
    from rich.console import Console

    out = io.StringIO()
    print_tree(list(sources), wanted, console=Console(file=out, width=120, color_system=None))
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_the_terminal_says_which_problems_changed_most(diagnosis: Path, tmp_path: Path, capsys) -> None:
    first, *lines = printed(diagnosis)
    assert first.startswith(
        "From start to end, over 2 problems in both: 33.3 % → 66.7 % of a tree's answers are right."
    )
    assert lines == [
        "lost every right answer.",
        "             change  problem  prompt",
        "0.00 → 1.00   +1.00  q2       Question q2.",
        "0.67 → 0.33   −0.33  q1       Which way?",
    ]
    assert "--tree ID shows the trees of a problem" in capsys.readouterr().err
    lines = printed(diagnosis, wanted="q1")
    assert [line for line in lines if "answers" in line or line in ("start", "end")] == [
        "start",
        "q1  3 answers, average reward 0.67, first answers right 0.50, IB-Score −0.525, Cov(η1, η2) +0.047, effective",
        "end",
        "q1  3 answers, average reward 0.33, first answers right 0.33, IB-Score +0.600, Cov(η1, η2) +0.375, effective",
    ]
    write_trees(tmp_path / "other.jsonl", [short_tree("\x1b[31mq2", 0.0), short_tree("q3", 0.0)])
    write_trees(tmp_path / "again.jsonl", [short_tree("\x1b[31mq2", 0.5)])
    assert printed(tmp_path / "other.jsonl", tmp_path / "again.jsonl")[-1].startswith(
        "0.00 → 0.50   +0.50  [U+001B][31mq2"
    )
