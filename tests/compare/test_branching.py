"""Groups of independent answers against trees: chances by enumeration, interpolation and paired intervals by hand."""

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.trees import step
from ibtpo.compare.branching import (
    MEASURES,
    Pool,
    at_equal_tokens,
    chance_effective,
    chance_solved,
    first_answers,
    measured,
)
from ibtpo.errors import DataError
from ibtpo.evaluation.statistics import Resamples
from ibtpo.tree import ReasoningTree


@pytest.mark.parametrize("rewards", [[1, 0, 0, 1, 0], [0, 0, 0], [1.0], [0.5, 0.5, 1, 0, 1, 1], [0, 0, 0, 1, 1, 1, 1]])
def test_chances_are_those_of_all_groups(rewards: list[float]) -> None:
    for g in range(1, len(rewards) + 1):
        groups = list(itertools.combinations(rewards, g))
        assert chance_effective(rewards, g) == pytest.approx(np.mean([len(set(group)) > 1 for group in groups]))
        assert chance_solved(rewards, g) == pytest.approx(np.mean([max(group) == 1 for group in groups]))
    assert math.isnan(chance_effective(rewards, len(rewards) + 1))
    assert math.isnan(chance_solved(rewards, len(rewards) + 1))


def test_the_first_answers_of_a_pool_keep_their_rewards_and_their_correctness() -> None:
    tree = ReasoningTree("t", [7])
    for token, reward, correct in ((1, 0.9, 1.0), (2, 0.1, None), (3, 0.5, 0.0)):
        tree.add(0, [step([token], [0.5])], reward, "eos", correct=correct)
    group = first_answers(tree, 2)
    assert [(leaf.reward, leaf.correct) for leaf in group.leaves] == [(0.9, 1.0), (0.1, None)]


def record(**values: float) -> dict[str, float]:
    return {**dict.fromkeys(MEASURES, math.nan), **values}


# Two problems with four answers each: (1,0,0,0) of 10 tokens each and (0,0,0,0) of 20.
POOL = Pool([[1, 0, 0, 0], [0, 0, 0, 0]], [[10] * 4, [20] * 4])


def test_a_tree_is_compared_with_the_group_its_tokens_buy() -> None:
    trees = [
        record(generated_tokens=20, trajectories=4, eff_rate=1.0, pass_at_g=1.0),
        record(generated_tokens=55, trajectories=4, eff_rate=0.0, pass_at_g=0.0),
    ]
    found = at_equal_tokens(trees, POOL, Resamples(2))
    # 75 tokens buy 75/30 = 2.5 answers a problem. Of the first problem 2 of 4 differ with chance 1/2, 3 with 3/4.
    assert found["answers"]["mean"] == pytest.approx(2.5)
    assert found["trajectories"]["mean"] == pytest.approx(4 / 2.5)
    independent = (0.5 * (1 / 2 + 3 / 4) + 0) / 2
    assert found["eff_rate"]["independent"]["mean"] == pytest.approx(independent)
    assert found["eff_rate"]["difference"]["mean"] == pytest.approx(0.5 - independent)
    assert found["pass_at_g"]["independent"]["mean"] == pytest.approx(independent)  # the same here: all wrong or one


def test_intervals_are_of_resampled_problems() -> None:
    trees = [
        record(generated_tokens=20, trajectories=4, eff_rate=1.0, pass_at_g=1.0),
        record(generated_tokens=40, trajectories=4, eff_rate=0.0, pass_at_g=0.0),
    ]
    resamples = Resamples(2, resamples=4000)
    found = at_equal_tokens(trees, POOL, resamples)
    # Each problem alone buys 2 answers, and so does every mixture: the interval of `answers` is a point.
    assert [round(found["answers"][k], 9) for k in ("mean", "low", "high")] == [2, 2, 2]
    # A resample holds the first problem 0, 1 or 2 times: differences 0, (1 − 1/2)/2 and 1 − 1/2.
    assert found["eff_rate"]["difference"] == pytest.approx({"mean": 0.25, "low": 0.0, "high": 0.5})
    rows = measured(trees, resamples)
    assert rows["eff_rate"] == pytest.approx({"mean": 0.5, "low": 0.0, "high": 1.0})
    assert math.isnan(rows["cov_eta"]["mean"])


def test_numbers_that_are_not_known_are_left_out_of_the_means() -> None:
    rows = measured([record(branch_cost=0.5), record()], Resamples(2))
    assert rows["branch_cost"] == pytest.approx({"mean": 0.5, "low": 0.5, "high": 0.5})


def test_a_pool_too_small_for_the_trees_is_an_error() -> None:
    trees = [record(generated_tokens=100, trajectories=4, eff_rate=1.0, pass_at_g=1.0)] * 2
    with pytest.raises(DataError, match=r"buy 6\.7 independent answers, but a problem's pool holds only 4"):
        at_equal_tokens(trees, POOL, Resamples(2))


ARGS = ("--model", "nano", "--data", "walk:test", "--limit", 4, "--pool", 16, "--temperature", 1, "--top-p", 1,
        "--top-k", 0, "--max-completion-length", 96, "--quiet", "--deterministic")  # fmt: skip


def compare(call: Callable[..., Any], folder: Path, *more: Any) -> Any:
    return call("compare", "branching", *ARGS, "--output", folder, "--arms", "ib,confidence=joint", "random", *more)


def test_the_command_compares_stored_trees_and_resumes(call: Callable[..., Any], tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from ibtpo.metrics import tree_record
    from ibtpo.tree import read_trees

    folder = tmp_path / "branching"
    code, out, err = compare(call, folder, "--json")
    assert code == 0, err
    summary = json.loads(out)
    assert list(summary["arms"]) == ["independent G=8", "independent G=12", "ib,confidence=joint", "random"]
    stored = json.loads((folder / "summary.json").read_text())
    assert stored["arms"] == summary["arms"]
    assert stored["options"]["max_completion_length"] == 96
    pool = list(read_trees(folder / "trees" / "independent.jsonl.gz"))
    assert [len(tree.leaves) for tree in pool] == [16] * 4
    success = np.mean([[leaf.reward for leaf in tree.leaves] for tree in pool])
    assert summary["success"]["mean"] == pytest.approx(success)
    assert summary["arms"]["independent G=8"]["avg_rate"]["mean"] == pytest.approx(success)
    trees = list(read_trees(folder / "trees" / "ib-confidence-joint.jsonl.gz"))
    assert {tree.meta["search"]["score"]["confidence"] for tree in trees} == {"joint"}
    records = [tree_record(tree) for tree in trees]  # measured with the command's own score options
    row = summary["arms"]["ib,confidence=joint"]
    for name in ("eff_rate", "generated_tokens", "ib_score", "cov_eta"):
        assert row[name]["mean"] == pytest.approx(np.nanmean([r[name] for r in records]))
    # The same seeds: a tree's first four answers are the pool's.
    for tree, independent in zip(trees, pool, strict=True):
        assert [tree.completion_ids(i) for i in range(4)] == [independent.completion_ids(i) for i in range(4)]

    assert (folder / "table.md").read_text().startswith("4 problems. The policy's own success rate is ")
    code, _, err = compare(call, folder)
    assert code == 2
    assert "give --resume to go on with it" in err
    (folder / "trees" / "random.jsonl.gz").unlink()
    before = (folder / "trees" / "ib-confidence-joint.jsonl.gz").stat().st_size
    code, out, err = compare(call, folder, "--json", "--resume")
    assert code == 0, err
    assert json.loads(out)["arms"] == summary["arms"]
    assert (folder / "trees" / "ib-confidence-joint.jsonl.gz").stat().st_size == before
    code, _, err = compare(call, folder, "--resume", "--ib-beta", 2)
    assert code == 2
    assert "score.ib_beta is 2.0, but 5.0" in err


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        (["ib,gamma=1"], "'gamma=1' is not one of ib_beta=…, value=…, confidence=…, weight=…, ratio_prior=…"),
        (["ib,ib_beta=x"], "ib_beta must be a number, got 'x'"),
        (["ibb"], "branching rule"),
    ],
)
def test_a_misspelt_arm_is_told_before_anything_is_made(
    call: Callable[..., Any], tmp_path: Path, arms: list[str], message: str
) -> None:
    code, _, err = call("compare", "branching", *ARGS, "--output", tmp_path / "new", "--arms", *arms)
    assert code == 2
    assert message in err
    assert not (tmp_path / "new").exists()
