"""Given steps, which the environment wrote: what they change in a tree, its scores, credit, places and metrics.

The scores of `observed` and `replies`, two trees with given steps, are worked out in trees.py and tested with those of
all other trees.
"""

import json
import math
import random
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from helpers.laws import check_laws
from helpers.trees import BUILDERS, S_THIRD, given, observed, replies, step, three_leaf
from ibtpo.branching import BRANCHING, BranchPoint, choose_places, entropy, fixed_width, ib
from ibtpo.credit import CreditOptions, path_advantages, token_advantages
from ibtpo.errors import ConfigError, DataError
from ibtpo.evaluation.evaluate import _answers
from ibtpo.incremental import RunningScores
from ibtpo.metrics import readable, single_steps, summarise, tree_record, tree_scores
from ibtpo.report.gallery import _mean_logprob
from ibtpo.score import ScoreOptions, score_tree, values
from ibtpo.search import TreeSearch
from ibtpo.tree import ReasoningTree, Step

O = ScoreOptions()  # noqa: E741
HALF = math.log(0.5)


# --- the tree


def test_the_token_law_covers_given_tokens_and_the_mask_says_who_wrote_each() -> None:
    tree = replies()
    check_laws(tree)
    assert [tree.completion_ids(i) for i in range(4)] == [[10, 50, 11], [10, 50, 12], [10, 51, 52, 53, 11], [20, 54]]
    assert [tree.completion_mask(i) for i in range(4)] == [[1, 0, 1], [1, 0, 1], [1, 0, 0, 0, 1], [1, 0]]
    assert tree.completion_logprobs(2) == [HALF, 0.0, 0.0, 0.0, HALF]
    assert tree.prefix_ids(6) == [7, 10, 51, 52, 53]
    assert tree.completion_text(3) == "20\n\n<54>"
    assert [tree.sampled_path(f.node) for f in tree.leaves] == [[1, 3], [1, 4], [1, 7], [8]]


def test_sampled_tokens_and_given_ones_are_counted_apart() -> None:
    tree = replies()
    assert [r.tokens for r in tree.rollouts] == [2, 2, 2, 1]
    assert tree.generated_tokens == 7
    assert tree.unique_tokens == 5  # nodes 1, 3, 4, 7 and 8
    assert tree.given_tokens == 2 * 1 + 1 + 2 + 1  # 50 came twice
    assert (three_leaf().given_tokens, observed().given_tokens) == (0, 3)


def test_equal_given_siblings_merge_and_a_sampled_one_of_the_same_tokens_does_not() -> None:
    tree = ReasoningTree("t", [7])
    tree.add(0, [step([10], [0.5]), given(50, 51)], 1.0, "eos")
    tree.add(0, [step([10], [0.5]), given(50, 51)], 0.0, "eos")
    tree.add(0, [step([10], [0.5]), step([50, 51], [0.5, 0.5])], 0.0, "eos")
    assert [(n.step.token_ids, n.step.given, n.draws) for n in tree.nodes[1:]] == [
        ((10,), False, 3),
        ((50, 51), True, 2),
        ((50, 51), False, 1),
    ]


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([step([10], [0.5]), Step((50,), "", (-0.5,), None, True)], "steps[1].logprobs has 1 values"),
        ([step([10], [0.5]), Step((50,), "", (), (0.5,), True)], "steps[1].entropies has 1 values"),
        ([step([10], [0.5]), Step((), "", (), None, True)], "steps[1].token_ids is empty"),
        ([given(50)], "steps[0].given: no given step follows the prompt; put its tokens into the prompt"),
    ],
)
def test_a_given_step_that_cannot_be_is_an_error_and_leaves_the_tree_as_it_was(steps: list[Step], message: str) -> None:
    tree = ReasoningTree("t", [7])
    with pytest.raises(DataError, match=re.escape(message)):
        tree.add(0, steps, 1.0, "eos")
    assert len(tree.nodes) == 1
    assert not tree.leaves


def test_a_given_step_cannot_be_cut_and_a_cut_before_it_keeps_it() -> None:
    tree = observed()
    with pytest.raises(ValueError, match="node 2 is given and cannot be cut"):
        tree.split(2, 1, ("", ""))
    tree.split(1, 1, ("10 ", "11\n\n"))
    check_laws(tree)
    assert [n.step.given for n in tree.nodes] == [False, False, False, True, False, False, False]
    assert tree.completion_mask(0) == [1, 1, 0, 0, 0, 1]


# --- the file


def test_a_tree_with_given_steps_is_of_the_second_schema_and_any_other_of_the_first() -> None:
    d = json.loads(json.dumps(replies().to_dict()))
    assert d["schema"] == "ibtpo.tree/2"
    assert [n.get("given") for n in d["nodes"]] == [None, True, None, None, True, True, None, None, True]
    again = ReasoningTree.from_dict(d)
    assert again.to_dict() == replies().to_dict()
    assert again.nodes[2].step == given(50)
    first = three_leaf().to_dict()
    assert first["schema"] == "ibtpo.tree/1"
    assert all("given" not in n for n in first["nodes"])
    assert ReasoningTree.from_dict({**first, "schema": "ibtpo.tree/2"}).to_dict() == first


def test_a_file_may_leave_out_what_a_given_step_has_not() -> None:
    d = replies().to_dict()
    del d["schema"], d["nodes"][1]["logprobs"], d["nodes"][1]["entropies"]
    d["nodes"][0]["given"] = False
    assert ReasoningTree.from_dict(d).to_dict() == replies().to_dict()


@pytest.mark.parametrize(
    ("node", "change", "message"),
    [
        (1, {"given": 1}, "node 2.given must be true or false, got 1"),
        (1, {"given": None}, "node 2.given must be true or false, got None"),
        (1, {"logprobs": [-0.5]}, "node 2.logprobs has 1 values: a given step has none"),
        (1, {"logprobs": "x"}, "node 2.logprobs must be a list, got str"),
        (1, {"entropies": [0.5]}, "node 2.entropies has 1 values: a given step has none"),
        (1, {"token_ids": []}, "node 2.token_ids is empty"),
        (1, {"given": False}, "node 2 has 1 token_ids but 0 logprobs"),
        (0, {"given": True, "logprobs": [], "entropies": None}, "node 1.given: no given step follows the prompt"),
    ],
)
def test_a_malformed_given_step_is_an_error_that_names_the_field(node: int, change: dict, message: str) -> None:
    d = replies().to_dict()
    d["nodes"][node].update(change)
    with pytest.raises(DataError, match=re.escape(message)):
        ReasoningTree.from_dict(d)


# --- scores


def test_a_tool_that_always_answers_alike_changes_no_number_of_the_steps_around_it() -> None:
    rng = random.Random(3)
    for _ in range(200):
        plain, told = ReasoningTree("t", [7]), ReasoningTree("t", [7])
        for _ in range(8):
            steps = [step([rng.randrange(3)], [rng.uniform(0.1, 1)]) for _ in range(rng.randint(1, 4))]
            reward = rng.choice([0.0, 1.0, None])
            plain.add(0, steps, reward, "eos")
            told.add(0, [part for s in steps for part in (s, given(s.token_ids[0] + 50))], reward, "eos")
        where = [n.id for n in told.nodes if not n.step.given]
        for options in (O, ScoreOptions(value="draws", ratio_prior=0.5, confidence="joint", weight="unique")):
            a, b = score_tree(plain, options), score_tree(told, options)
            for name in ("p_hat", "leaf_count", "ratio", "eta1", "eta2"):
                np.testing.assert_allclose(getattr(a, name), getattr(b, name)[where], rtol=1e-12, atol=1e-12)
            # What a step scored, what was given after it scores.
            given_after = [0, *(n + 1 for n in where[1:])]
            np.testing.assert_allclose(a.ib_score, b.ib_score[given_after], rtol=1e-12, atol=1e-12)
            assert np.isnan(b.ib_score[where[1:]]).all()
        for advantage in ("ibtpo", "grpo", "treerl", "treepo"):
            options = CreditOptions(advantage=advantage)
            for one, two in zip(path_advantages(plain, options), path_advantages(told, options), strict=True):
                np.testing.assert_allclose(two[::2], one, rtol=1e-12, atol=1e-12)
                assert not two[1::2].any()
        one, two = tree_record(plain), tree_record(told)
        assert two.pop("given_tokens") == one.pop("generated_tokens") == two.pop("generated_tokens")
        del one["given_tokens"]
        assert two == pytest.approx(one, rel=1e-12, nan_ok=True)


def test_a_step_is_worth_what_its_only_observation_is_worth() -> None:
    for value in ("leaves", "draws"):
        p_hat, _ = values(observed(), value)
        assert p_hat[1] == p_hat[2] == 0.5


def test_a_score_is_taken_back_when_a_given_step_follows_after_all() -> None:
    tree = ReasoningTree("t", [7])
    running = RunningScores(O)
    tree.add(0, [step([10], [0.5]), step([11], [0.5])], 1.0, "eos")
    running.refresh(tree)
    assert running.ib_score[1] == pytest.approx(-0.6)  # 6·(1 − 6/5)·1/2
    tree.add(1, [given(50), step([12], [0.5])], 0.0, "eos")
    running.refresh(tree)
    assert np.isnan(running.ib_score[1])
    np.testing.assert_array_equal(running.ib_score, score_tree(tree).ib_score)


# --- credit


@pytest.mark.parametrize(
    ("advantage", "expected"),
    [
        ("grpo", [[0.5 / S_THIRD, 0, 0.5 / S_THIRD], [-0.5 / S_THIRD, 0, -0.5 / S_THIRD],
                  [0.5 / S_THIRD, 0, 0, 0, 0.5 / S_THIRD], [-0.5 / S_THIRD, 0]]),
        # 1: (2/3 − 1/2)·2/√3; 3 and 4 against 2, worth 1/2; 7 against what was given before it, worth 1; 8: −1/2 twice
        ("treerl", [[1 / 3 / math.sqrt(3), 0, 1], [1 / 3 / math.sqrt(3), 0, -1],
                    [1 / 3 / math.sqrt(3), 0, 0, 0, 1 / 2], [-1, 0]]),
        # groups: the root, worth 1/2, and node 1, worth 2/3; what was given is no group
        ("treepo", [[5 / 12, 0, 5 / 12], [-7 / 12, 0, -7 / 12], [5 / 12, 0, 0, 0, 5 / 12], [-1 / 2, 0]]),
        ("ibtpo", [[1 / 6 / S_THIRD + 1 / 150, 0, 1 / 2 / S_THIRD + 3 / 50],
                   [1 / 6 / S_THIRD + 1 / 150, 0, -1 / 2 / S_THIRD - 3 / 100],
                   [1 / 6 / S_THIRD + 1 / 150, 0, 0, 0, 1 / 2 / S_THIRD - 1 / 100],
                   [-1 / 2 / S_THIRD - 3 / 200, 0]]),
    ],
)  # fmt: skip
def test_given_tokens_have_no_advantage_and_count_in_no_mean(advantage: str, expected: list[list[float]]) -> None:
    tree = replies()
    got = token_advantages(tree, path_advantages(tree, CreditOptions(advantage=advantage)))
    for one, want in zip(got, expected, strict=True):
        np.testing.assert_allclose(one, want, rtol=1e-9, atol=1e-12)


def test_what_an_advantage_of_one_s_own_gives_to_given_steps_is_not_used() -> None:
    tree = observed()
    paths = [np.full(len(tree.path(leaf.node)), 2.0) for leaf in tree.leaves]
    assert [a.tolist() for a in token_advantages(tree, paths)] == [[2, 2, 0, 0, 0, 2], [2, 2], [2, 2, 0, 0, 0, 2]]


# --- where to branch


def random_tree(rng: random.Random) -> ReasoningTree:
    """Answers with given steps here and there, of few different tokens, some grown from a place inside others."""
    tree = ReasoningTree("t", [1])
    for round in range(rng.randint(2, 8)):
        at = rng.choice(tree.branchable() or [0]) if round > 2 else 0
        steps: list[Step] = []
        for _ in range(rng.randint(1, 4)):
            ids = [rng.randrange(2) for _ in range(rng.randint(1, 3))]
            steps.append(step(ids, [rng.uniform(0.05, 1) for _ in ids]))
            if rng.random() < 0.5:
                steps += [given(50 + rng.randrange(2), 60)] * rng.randint(1, 2)
        tree.add(at, steps, rng.choice([0.0, 1.0, None]), "eos", round=max(0, round - 2))
    return tree


@pytest.mark.parametrize("rule", BRANCHING)
def test_no_rule_starts_where_the_environment_speaks(rule: str) -> None:
    rng = random.Random(1)
    after_given = 0
    for seed in range(300):
        tree = random_tree(rng)
        for p in choose_places(BRANCHING[rule], rule, tree, 4, O, seed):  # which checks them, too
            assert p.offset is not None or not any(tree.nodes[c].step.given for c in tree.nodes[p.node].children)
            assert p.offset is None or not tree.nodes[p.node].step.given
            after_given += tree.nodes[p.node].step.given
    assert after_given > 100 or "independent" in rule


def test_the_place_after_an_observation_is_the_step_s_own() -> None:
    # as for three_leaf, whose node 1 is here node 2
    assert [(p.node, p.offset, p.score) for p in ib(observed(), 9, O, 0)] == [
        (2, None, pytest.approx(0.3)),
        (0, None, pytest.approx(-0.45)),
    ]
    assert observed().branchable() == [0, 2]
    # at depth 1, after two first answers, 4 paths are to go on; 2 go on already
    assert [p.node for p in fixed_width(observed(), 9, O, 0)] == [2]


def test_fixed_width_counts_no_observation_as_depth() -> None:
    tree = ReasoningTree("t", [1])
    tree.add(0, [step([10], [0.5]), given(50), step([11], [0.5]), step([12], [0.5])], 1.0, "eos")
    tree.add(2, [step([13], [0.5]), step([14], [0.5])], 0.0, "eos", round=1)
    # depth 1 has its 2·1 paths, both after the observation, node 2; depth 2 has 2 of 4
    assert sorted(p.node for p in fixed_width(tree, 9, O, 0)) == [3, 5]


def test_entropy_draws_again_the_token_after_an_observation_and_none_of_its_own() -> None:
    tree = ReasoningTree("t", [1])
    tree.add(0, [step([2, 3, 4], [0.5, 0.3, 0.9]), given(50, 51), step([5, 6], [0.1, 0.8])], 0.0, "eos")
    assert [(p.node, p.offset) for p in entropy(tree, 9, O, 0)] == [(2, None), (1, 1), (3, 1)]


@pytest.mark.parametrize(
    ("point", "message"),
    [
        (BranchPoint(1), "the environment answered that step and would do so again: give the node of its answer"),
        (BranchPoint(2, 1), "that step was given by the environment and cannot be cut: leave the offset out"),
    ],
)
def test_a_rule_of_one_s_own_that_starts_there_is_an_error(point: BranchPoint, message: str) -> None:
    rule: Callable[..., Any] = lambda *_: [point]  # noqa: E731
    with pytest.raises(ConfigError, match=re.escape(message)):
        choose_places(rule, "mine:rule", observed(), 1, O, 0)
    assert choose_places(lambda *_: [BranchPoint(2), BranchPoint(1, 1)], "mine:rule", observed(), 2, O, 0)


# --- metrics


def test_lengths_depths_and_tokens_are_those_of_the_model() -> None:
    record = tree_record(replies())
    assert record["generated_tokens"] == 7
    assert record["given_tokens"] == 6
    assert record["length"] == pytest.approx((2 + 2 + 2 + 1) / 4)
    assert record["steps"] == pytest.approx((2 + 2 + 2 + 1) / 4)
    assert record["unique_ratio"] == pytest.approx(5 / 7)
    assert record["entropy"] == pytest.approx((0.5 + 0.25 + 0.25 + 1.0 + 0.5) / 5)
    with_branch = tree_record(observed())
    assert with_branch["branch_depth"] == pytest.approx(1 / (5 / 3))
    assert with_branch["branch_cost"] == pytest.approx(1 / ((3 + 2) / 2))
    assert single_steps(replies()) == 1
    out = summarise([record, with_branch])
    assert (out["given_tokens"], out["generated_tokens"]) == (9, 13)
    assert out["trajectories_per_1k_tokens"] == pytest.approx(1000 * 7 / 13)


def test_answers_are_as_long_and_as_sure_as_what_was_sampled_of_them() -> None:
    assert [a.tokens for a in _answers(replies())] == [2, 2, 2, 1]
    assert [_mean_logprob(replies(), i) for i in range(4)] == pytest.approx(
        [math.log(0.5 * 0.75) / 2, math.log(0.5 * 0.25) / 2, HALF, math.log(0.125)]
    )


@pytest.mark.parametrize(
    ("point", "expected"),
    [
        (BranchPoint(0), (3 + 2 + 3) / 3),
        (BranchPoint(2), 1),
        (BranchPoint(1, 1), 2),  # the second token of node 1, and one after the observation
    ],
)
def test_a_branch_is_expected_to_cost_what_was_sampled_after_its_place(point: BranchPoint, expected: float) -> None:
    cost: Callable[..., float] = TreeSearch._cost
    assert cost(None, observed(), point) == pytest.approx(expected)


@pytest.mark.parametrize("advantage", ["ibtpo", "grpo", "treerl", "treepo"])
@pytest.mark.parametrize("name", ["observed", "replies"])
def test_what_is_printed_of_a_given_step_is_its_value_and_that_it_was_given(name: str, advantage: str) -> None:
    tree = BUILDERS[name]()
    record = tree_scores(tree, CreditOptions(advantage=advantage))
    for node, row in zip(tree.nodes, record["nodes"], strict=True):
        assert row.get("given", False) == node.step.given
        if node.step.given:
            numbers = {k: v for k, v in row.items() if k not in ("id", "given", "p_hat", "ib_score")}
            assert set(numbers.values()) == {None}
    lines = readable(tree, record).splitlines()[2:]
    assert ["given: " in line for line in lines] == [n.step.given for n in tree.nodes]
