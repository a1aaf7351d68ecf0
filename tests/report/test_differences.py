"""Differences between runs are paired over problems and seeds, and agree with sums done by hand."""

import json
import math

import pytest

from helpers.report_runs import make_run, result, rows
from ibtpo.errors import DataError
from ibtpo.evaluation.statistics import t_quantile
from ibtpo.report.differences import compare_groups, graded, group_runs, paired_change
from ibtpo.storage.read_run import read_run

BEFORE = {"a": 0.0, "b": 0.5, "c": 0.25, "d": 1.0}


def measured_run(folder, after, before=BEFORE, **config):
    """A run whose problems got these grades before and after training."""
    make_run(folder, rows(3), trees={}, config=config)
    mean = lambda g: sum(v for v in g.values() if v is not None) / len(g)  # noqa: E731
    steps = [(0, before), (3, after)]
    text = "".join(
        json.dumps({"step": s, "generated_tokens": 1000 * s, "seconds": s, **result(mean(g)), "grades": g}) + "\n"
        for s, g in steps
    )
    (folder / "evals.jsonl").write_text(text)
    (folder / "eval.json").write_text(json.dumps({"before": result(mean(before)), "after": result(mean(after))}))
    return read_run(folder)


def groups_of(runs):
    return group_runs(runs, [run.name for run in runs])


def test_a_runs_own_change_is_paired_over_the_problems(tmp_path):
    run = measured_run(tmp_path / "a", {"a": 0.5, "b": 0.5, "c": 0.75, "d": 1.0})
    change = paired_change(run)
    # differences 0.5, 0, 0.5, 0: mean 0.25, variance 1/12, so t(3) · √(1/48)
    half = t_quantile(3) * math.sqrt(1 / 48)
    assert (change.mean, change.low, change.high) == pytest.approx((0.25, 0.25 - half, 0.25 + half))


def test_a_problem_without_a_grade_is_left_out_of_the_pairs(tmp_path):
    run = measured_run(tmp_path / "a", {"a": None, "b": 0.5, "c": 0.75, "d": 1.0})
    assert paired_change(run).mean == pytest.approx(0.5 / 3)


def test_runs_that_differ_only_in_the_seed_are_a_group_named_by_what_sets_it_apart(tmp_path):
    runs = [
        measured_run(tmp_path / f"{i}", BEFORE, method=method, seed=seed, learning_rate=rate, threads=i)
        for i, (method, seed, rate) in enumerate(
            [("ibtpo", 10, 0.1), ("grpo", 3, 0.1), ("ibtpo", 9, 0.1), ("ibtpo", 9, 0.2), ("ibtpo", 9, 0.1)]
        )
    ]
    found = groups_of(runs)
    assert [(g.name, g.runs, g.seeds) for g in found] == [
        ("ibtpo, learning_rate=0.1", [2, 4, 0], ["9", "9 (2)", "10"]),
        ("grpo", [1], ["3"]),
        ("ibtpo, learning_rate=0.2", [3], ["9"]),
    ]


def test_the_difference_of_two_methods_pairs_seeds_and_problems(tmp_path):
    plus = lambda g, x: {p: v + x for p, v in g.items()}  # noqa: E731
    ours = [measured_run(tmp_path / f"o{s}", plus(BEFORE, 0.1 * s), method="ibtpo", seed=s) for s in (1, 2)]
    theirs = [measured_run(tmp_path / f"t{s}", plus(BEFORE, 0.1 * s - 0.2), method="grpo", seed=s) for s in (2, 1)]
    runs = [*ours, *theirs]
    first, second = compare_groups(runs, groups_of(runs))
    assert (first.minus_first, first.measured, first.problems) == (None, ["1", "2"], 4)
    assert first.each == pytest.approx([0.5375, 0.6375])
    # What seeds and problems share is gone: every cell differs by the same 0.2.
    found = second.minus_first
    assert (found.mean, found.low, found.high) == pytest.approx((-0.2, -0.2, -0.2))
    assert second.pairs == "seeds 1, 2"
    assert first.after.high - first.after.low > 0.5  # while the accuracies' own intervals are wide


def test_without_a_common_seed_runs_are_paired_in_order_and_it_is_said(tmp_path):
    ours = [measured_run(tmp_path / f"o{s}", BEFORE, method="ibtpo", seed=s) for s in (1, 2)]
    theirs = [measured_run(tmp_path / f"t{s}", BEFORE, method="grpo", seed=s) for s in (7, 8, 9)]
    runs = [*ours, *theirs]
    line = compare_groups(runs, groups_of(runs))[1]
    assert (line.pairs, line.pairs_count) == ("no common seed: 7 with 1, 8 with 2", 2)
    assert line.minus_first.mean == 0


def test_only_the_problems_that_all_runs_answered_count(tmp_path):
    one = measured_run(tmp_path / "one", {"a": 1.0, "b": 1.0, "c": 0.0, "d": 0.0}, method="ibtpo")
    rest = {"b": 0.5, "a": 0.5, "z": 1.0}
    two = measured_run(tmp_path / "two", rest, before=rest, method="grpo")
    first, second = compare_groups([one, two], groups_of([one, two]))
    assert (first.problems, first.after.mean, second.after.mean, second.minus_first.mean) == (2, 1.0, 0.5, -0.5)
    other = measured_run(tmp_path / "three", {"y": 1.0}, before={"y": 0.0}, method="treerl")
    lines = compare_groups([one, other], groups_of([one, other]))
    assert [(line.problems, line.after, line.minus_first) for line in lines] == [(0, None, None)] * 2


def test_a_run_that_is_not_finished_has_no_accuracy_after_training(tmp_path):
    run = measured_run(tmp_path / "a", BEFORE)
    (tmp_path / "a" / "eval.json").write_text(json.dumps({"before": result(0.2)}))
    before, after = graded(read_run(tmp_path / "a"))
    assert (before, after) == (BEFORE, None)
    assert paired_change(run).mean == 0


@pytest.mark.parametrize("grades", [[1], {"a": "high"}, {"a": True}, {"a": math.nan}])
def test_wrong_grades_are_named_with_file_and_line(tmp_path, grades):
    run = measured_run(tmp_path / "a", BEFORE)
    run.held_out[1]["grades"] = grades
    with pytest.raises(DataError, match=r"evals\.jsonl:2: grades must be"):
        graded(run)
