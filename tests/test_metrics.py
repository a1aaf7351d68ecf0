"""The logged numbers on hand-made trees."""

import math
import warnings

import pytest

from helpers.trees import BUILDERS, HAND, S_THIRD, all_equal, fractional, inner_leaf, merged, step, three_leaf
from ibtpo.credit import CreditOptions
from ibtpo.metrics import correctness, policy_rate, rescued, summarise, tree_record, tree_scores
from ibtpo.score import ScoreOptions
from ibtpo.tree import ReasoningTree

KEYS = {
    "eff_rate",
    "avg_rate",
    "policy_rate",
    "pass_at_g",
    "rescued",
    "uniform",
    "trajectories",
    "distinct",
    "generated_tokens",
    "given_tokens",
    "unique_ratio",
    "length",
    "steps",
    "branch_depth",
    "branch_cost",
    "root_branches",
    "ib_score",
    "cov_eta",
    "entropy",
    "verifier_errors",
    "truncated",
}


def test_every_number_of_a_hand_made_tree() -> None:
    record = tree_record(three_leaf())
    expected = {
        "eff_rate": 1,
        "avg_rate": 1 / 3,
        "policy_rate": 1 / 2,  # of the first two
        "pass_at_g": 1,
        "rescued": 0,
        "uniform": 0,
        "trajectories": 3,
        "distinct": 1,
        "generated_tokens": 3 + 2 + 1,
        "given_tokens": 0,
        "unique_ratio": 6 / (3 + 2 + 3),
        "length": 8 / 3,
        "steps": 5 / 3,
        "branch_depth": 1 / (5 / 3),
        "branch_cost": 1 / ((3 + 2) / 2),
        "root_branches": 0,
        "ib_score": -3 / 40,  # trees.py
        "cov_eta": 7 / 64,
        "entropy": (1.0 + 0.5 + 0.25 + 0.75 + 0.0 + 0.5) / 6,
        "verifier_errors": 0,
        "truncated": 0,
    }
    assert set(expected) == KEYS
    assert record == pytest.approx(expected, rel=1e-12)


def test_the_policys_own_rate_is_that_of_the_first_answers() -> None:
    tree = ReasoningTree("t", [1])
    for i, (reward, round) in enumerate([(0.0, 0), (1.0, 0), (0.0, 0), (None, 0), (1.0, 1), (1.0, 2)]):
        tree.add(0, [step([10 + i], [0.5])], reward, "eos", round=round)
    assert tree_record(tree)["avg_rate"] == 3 / 5
    assert tree_record(tree)["policy_rate"] == policy_rate(tree) == 1 / 3
    assert tree_scores(tree, CreditOptions())["policy_rate"] == 1 / 3
    tree.meta["search"] = {"branching": "independent"}  # then later answers are draws from the policy, too
    assert policy_rate(tree) == 3 / 5
    tree.rollouts.clear()  # a tree from elsewhere that does not say how it grew
    assert math.isnan(policy_rate(tree))


def test_merged_answers_lower_the_distinct_share_and_the_unique_token_ratio() -> None:
    record = tree_record(merged())
    assert record["distinct"] == 3 / 4
    assert record["generated_tokens"] == 7  # all four answers were sampled in full
    assert record["unique_ratio"] == pytest.approx(4 / 7, rel=1e-12)
    assert math.isnan(record["branch_depth"])  # nothing was branched
    assert math.isnan(record["branch_cost"])
    assert math.isnan(record["root_branches"])
    assert math.isnan(record["entropy"])  # the engine gave none


def test_a_branch_at_the_root_has_depth_zero_and_the_cost_of_an_answer() -> None:
    tree = ReasoningTree("t", [1])
    for i in range(2):
        tree.add(0, [step([10 + i], [0.5]), step([20], [0.5])], 0.0, "eos")
    tree.add(0, [step([30], [0.5]), step([31], [0.5])], 0.0, "eos", round=1)
    tree.add(1, [step([40], [0.5])], 0.0, "eos", round=2)
    record = tree_record(tree)
    assert record["root_branches"] == 1 / 2
    assert record["branch_depth"] == pytest.approx((0 + 1) / 2 / 2, rel=1e-12)  # answers have two steps
    assert record["branch_cost"] == pytest.approx((2 + 1) / 2 / 2, rel=1e-12)


def test_verifier_errors_and_truncation_are_counted_apart_and_known_rewards_alone_are_averaged() -> None:
    record = tree_record(inner_leaf())
    assert record["verifier_errors"] == 2
    assert record["truncated"] == 1 / 5
    assert record["avg_rate"] == pytest.approx(2 / 3, rel=1e-12)
    assert record["eff_rate"] == 1


@pytest.mark.parametrize("reward", [0.0, 1.0])
def test_a_uniform_tree_is_not_effective(reward: float) -> None:
    record = tree_record(all_equal(reward))
    assert (record["eff_rate"], record["uniform"], record["pass_at_g"], record["avg_rate"]) == (0, 1, reward, reward)


@pytest.mark.parametrize(
    ("rewards", "expected"),
    [
        ((0.0, 0.0, 1.0), True),
        ((1.0, 1.0, 0.0), True),
        ((1.0, 0.0, 1.0), False),  # the first rollouts differed already
        ((0.0, 0.0, 0.0), False),
        ((None, 0.0, 1.0), True),  # an answer nobody could judge says nothing
        ((None, None, 1.0), False),
    ],
)
def test_a_tree_is_rescued_when_only_branching_made_its_answers_differ(
    rewards: tuple[float | None, ...], expected: bool
) -> None:
    tree = all_equal(0.0)
    for leaf, reward in zip(tree.leaves, rewards, strict=True):
        leaf.reward = leaf.correct = reward
    assert rescued(tree) is expected
    tree.rollouts.clear()
    assert math.isnan(tree_record(tree)["rescued"])


def set_correct(tree: ReasoningTree, *values: float | None) -> None:
    for leaf, value in zip(tree.leaves, values, strict=True):
        leaf.correct = value


def test_raw_correctness_decides_not_a_shaped_reward() -> None:
    tree = all_equal(0.0)
    for leaf, shaped in zip(tree.leaves, (0.1, 0.2, 0.3), strict=True):
        leaf.reward = leaf.correct = shaped  # all wrong, but of different length, say
    assert tree_record(tree)["eff_rate"] == 1
    set_correct(tree, 0.0, 0.0, 0.0)
    record = tree_record(tree)
    assert (record["eff_rate"], record["uniform"], record["avg_rate"], record["pass_at_g"]) == (0, 1, 0, 0)
    set_correct(tree, 0.0, None, 1.0)
    assert correctness(tree) == [0.0, 1.0]
    assert tree_record(tree)["eff_rate"] == 1
    assert tree_record(tree)["avg_rate"] == 0.5


def test_a_tree_whose_raw_correctness_is_all_unknown_is_not_judged_by_its_shaped_reward() -> None:
    tree = fractional()
    set_correct(tree, None, None, None)
    record = tree_record(tree)
    assert record["eff_rate"] == 0
    assert math.isnan(record["avg_rate"])
    assert math.isnan(record["uniform"])


def test_the_score_options_reach_the_scores() -> None:
    record = tree_record(three_leaf(), ScoreOptions(value="draws"))
    assert record["ib_score"] == pytest.approx(3 / 10, rel=1e-12)
    assert record["cov_eta"] == pytest.approx(1 / 8, rel=1e-12)
    assert tree_record(merged(), ScoreOptions(weight="unique"))["ib_score"] == pytest.approx(-19 / 80, rel=1e-12)


@pytest.mark.parametrize("name", BUILDERS)
def test_the_scores_of_all_hand_made_trees_are_logged(name: str) -> None:
    record = tree_record(BUILDERS[name]())
    assert record["ib_score"] == pytest.approx(float(HAND[name]["tree_ib"]), rel=1e-12)
    assert record["cov_eta"] == pytest.approx(float(HAND[name]["cov_eta"]), abs=1e-12)
    assert record["avg_rate"] == pytest.approx(float(HAND[name]["avg_reward"]), rel=1e-12)
    assert record["eff_rate"] == HAND[name]["effective"]


def test_trees_without_leaves_rewards_or_tokens_give_nan_and_no_warning() -> None:
    bare = ReasoningTree("bare", [1])
    failed = ReasoningTree("failed", [1])
    failed.add(0, [step([2], [0.5])], None, "verifier_error")
    empty = ReasoningTree("empty", [1])
    empty.add(0, [], 1.0, "eos")
    empty.add(0, [], 1.0, "eos", round=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        records = [tree_record(t) for t in (bare, failed, empty)]
    assert all(set(r) == KEYS for r in records)
    assert math.isnan(records[0]["avg_rate"])
    assert math.isnan(records[1]["avg_rate"])
    assert math.isnan(records[2]["unique_ratio"])
    assert [r["trajectories"] for r in records] == [0, 1, 2]
    assert [r["verifier_errors"] for r in records] == [0, 1, 0]


def test_a_batch_is_averaged_over_trees_and_counts_are_added_up() -> None:
    records = [tree_record(t) for t in (three_leaf(), merged(), inner_leaf())]
    out = summarise(records)
    assert out["trajectories"] == 3 + 4 + 5
    assert out["generated_tokens"] == 6 + 7 + 5
    assert out["verifier_errors"] == 2
    assert out["trajectories_per_1k_tokens"] == pytest.approx(1000 * 12 / 18, rel=1e-12)
    assert out["avg_rate"] == pytest.approx((1 / 3 + 1 / 2 + 2 / 3) / 3, rel=1e-12)
    assert out["cov_eta"] == pytest.approx((7 / 64 + 25 / 192 - 3 / 64) / 3, rel=1e-12)
    assert out["distinct"] == pytest.approx((1 + 3 / 4 + 1) / 3, rel=1e-12)
    # what is not defined for a tree is left out of the mean: merged() has no branch, inner_leaf()'s start at node 1
    assert out["branch_depth"] == pytest.approx((3 / 5 + 1 / (7 / 5)) / 2, rel=1e-12)
    assert out["entropy"] == pytest.approx(0.5, rel=1e-12)


def test_a_batch_without_any_token_or_branch_gives_nan() -> None:
    empty = ReasoningTree("empty", [1])
    empty.add(0, [], 1.0, "eos")
    out = summarise([tree_record(empty)])
    assert math.isnan(out["trajectories_per_1k_tokens"])
    assert math.isnan(out["branch_cost"])
    assert out["eff_rate"] == 0


@pytest.mark.parametrize(
    ("name", "advantage", "expected"),
    [
        ("three_leaf", "grpo", [None, 1 / 6 / S_THIRD, 2 / 3 / S_THIRD, -1 / 3 / S_THIRD, -1 / 3 / S_THIRD]),
        ("three_leaf", "treepo", [None, 1 / 12, 7 / 12, -1 / 3, -5 / 12]),
        ("three_leaf", "treerl", [None, 1 / 3 / math.sqrt(2), 2 / 3 + 1 / 2, -2 / 3, -1 / 3 - 1 / 2]),
        # three answers pass through node 1, two of them right
        ("merged", "grpo", [None, 1 / 6 / S_THIRD, 1 / 2 / S_THIRD, -1 / 2 / S_THIRD, -1 / 2 / S_THIRD]),
        # tokens of an answer without a reward get 0
        ("inner_leaf", "grpo", [None, -1 / 9 / S_THIRD, 1 / 3 / S_THIRD, 0, 1 / 3 / S_THIRD, 0]),
    ],
)
@pytest.mark.parametrize("prefix_weight", ["trajectories", "once"])
def test_a_node_s_advantage_is_the_mean_over_the_trajectories_through_it(
    name: str, advantage: str, expected: list[float | None], prefix_weight: str
) -> None:
    options = CreditOptions(advantage=advantage, prefix_weight=prefix_weight)
    record = tree_scores(BUILDERS[name](), options)
    assert record["nodes"][0]["advantage"] is None
    assert [n["advantage"] for n in record["nodes"][1:]] == pytest.approx(expected[1:], rel=1e-12, abs=1e-15)
    ibtpo = tree_scores(BUILDERS[name](), CreditOptions())
    for node, other in zip(record["nodes"], ibtpo["nodes"], strict=True):
        assert {**node, "advantage": None} == {**other, "advantage": None}  # the other columns are the same
