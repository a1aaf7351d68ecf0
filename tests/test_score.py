"""p-hat, η1, η2, IB-Score and Cov(η1, η2) against arithmetic done by hand (the tables of trees.py)."""

import itertools
import json
import math
import random
from typing import Any

import numpy as np
import pytest

from helpers.places import GOLDEN
from helpers.trees import BUILDERS, HAND, OPTIONS, all_equal, merged, none_is_nan, printed, step, three_leaf
from ibtpo.credit import CreditOptions, a_gl, a_ib, node_advantage
from ibtpo.errors import ConfigError
from ibtpo.score import (
    ScoreOptions,
    effective,
    eta_covariance,
    score_tree,
    step_confidence,
    tree_ib_score,
    values,
)
from ibtpo.tree import ReasoningTree, read_trees

CASES = [(name, {}, HAND[name]) for name in BUILDERS] + [(n, o, {**HAND[n], **change}) for n, o, change in OPTIONS]
CASE_IDS = [f"{name} {' '.join(f'{k}={v}' for k, v in options.items())}".strip() for name, options, _ in CASES]


def options_of(options: dict[str, str]) -> CreditOptions:
    score: dict[str, Any] = {k: v for k, v in options.items() if k not in ("beta", "lam")}
    if "beta" in options:  # as the golden file calls it
        score["ib_beta"] = float(options["beta"])
    return CreditOptions(lam=float(options.get("lam", 0.1)), score=ScoreOptions(**score))


def close(got: Any, want: Any, tolerance: float = 1e-12) -> None:
    np.testing.assert_allclose(np.asarray(got, float), none_is_nan(want), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("name", "options", "hand"), CASES, ids=CASE_IDS)
def test_every_score_and_advantage_equals_the_hand_computed_one(name: str, options: dict, hand: dict) -> None:
    tree, o = BUILDERS[name](), options_of(options)
    scores = score_tree(tree, o.score)
    close(scores.p_hat, hand["p_hat"])
    close(scores.eta1, hand["eta1"])
    close(scores.eta2, hand["eta2"])
    close(scores.ib_score, hand["ib_score"])
    close(a_gl(tree, scores), hand["a_gl"])
    close(a_ib(scores), hand["a_ib"])
    close(node_advantage(tree, o), hand["advantage"])
    close([tree_ib_score(scores)], [hand["tree_ib"]])
    close([eta_covariance(tree, scores)], [hand["cov_eta"]])


@pytest.mark.parametrize("name", BUILDERS)
def test_the_golden_files_hold_the_hand_made_trees_and_numbers(name: str) -> None:
    (tree,) = read_trees(GOLDEN / f"{name}.jsonl")
    assert tree.to_dict() == BUILDERS[name]().to_dict()
    expected = json.loads((GOLDEN / f"{name}.json").read_text())
    assert expected == printed(name, HAND[name])
    close(score_tree(tree).ib_score, [n["ib_score"] for n in expected["nodes"]])


def test_the_golden_options_file_holds_the_hand_made_numbers() -> None:
    assert json.loads((GOLDEN / "options.json").read_text()) == [
        {"tree": name, "options": options, "expected": printed(name, {**HAND[name], **change})}
        for name, options, change in OPTIONS
    ]


def test_an_all_right_tree_has_ratio_one_everywhere() -> None:
    tree = all_equal(1.0, "all_right")
    scores = score_tree(tree)
    close(scores.p_hat, [1, 1, 1, 1, 1])
    close(scores.eta1, [None, -0.2, -0.2, -0.2, -0.2])  # 1 − 6/5
    close(scores.ib_score, [-3 / 5, -9 / 20, None, None, None])  # as in the all-wrong tree: only confidence speaks
    close([eta_covariance(tree, scores)], [0.0])


def test_ratio_prior_smooths_both_sides_of_the_ratio_and_leaves_p_hat_alone() -> None:
    scores = score_tree(three_leaf(), ScoreOptions(ratio_prior=1.0))
    # (k+1)/(n+2): root 2/5, node 1 2/4, node 2 2/3, nodes 3 and 4 1/3
    close(scores.ratio, [None, 5 / 4, 4 / 3, 5 / 6, 2 / 3])
    close(scores.eta1, [None, 1 / 20, 2 / 15, -11 / 30, -8 / 15])
    close(scores.p_hat, HAND["three_leaf"]["p_hat"])
    # root: 3·(1/20·1/2 − 11/30·1/4) = 3·(6 − 22)/240; node 1: 3·(2/15·1/2 − 8/15·1/4) = 3·(2 − 4)/30
    close(scores.ib_score, [-1 / 5, -1 / 5, None, None, None])


def test_ratio_prior_tells_explored_from_unexplored_wrong_steps_in_an_all_wrong_tree() -> None:
    scores = score_tree(all_equal(0.0), ScoreOptions(ratio_prior=0.5))
    # (0.5)/(n+1): root 1/8 of 3 leaves, node 1 1/6 of 2, the others 1/4 of 1
    close(scores.ratio, [None, 4 / 3, 3 / 2, 2, 3 / 2])


def test_draws_value_counts_an_answer_that_ends_at_the_node_as_one_draw() -> None:
    tree = ReasoningTree("t", [1])
    tree.add(0, [step([5], [0.5])], 1.0, "length")
    for reward in (0.0, 0.0):
        tree.add(0, [step([5], [0.5]), step([6], [0.5])], reward, "eos")
    tree.add(0, [step([5], [0.5]), step([7], [0.5])], 1.0, "eos")
    tree.add(0, [step([8], [0.5])], 0.0, "eos")
    # node 5: child 6 (value 0) twice, child 7 (value 1) once, its own right answer once: 2/4
    # root: node 5 four times 1/2, node 8 once 0: 2/5; by leaves 2/5 too, as nothing was branched
    close(values(tree, "draws")[0], [2 / 5, 1 / 2, 0, 1, 0])
    close(values(tree, "leaves")[0], [2 / 5, 1 / 2, 0, 1, 0])


def test_draws_value_is_not_moved_by_how_often_the_search_branched_at_a_node() -> None:
    tree = three_leaf()
    for _ in range(6):  # six more wrong answers below node 1
        tree.add(1, [step([13], [0.25])], 0.0, "eos")
    # node 1: child 2 (right) once, child 4 (wrong) 7 times: 1/8; root: (1/8 + 0)/2 = 1/16; by leaves 1/9
    close(values(tree, "draws")[0][:2], [1 / 16, 1 / 8])
    close(values(tree, "leaves")[0][:2], [1 / 9, 1 / 8])


def test_an_unknown_reward_is_left_out_of_every_count() -> None:
    tree = three_leaf()
    tree.leaves[1].reward = None
    p_hat, count = values(tree)
    assert count.tolist() == [2, 2, 1, 0, 1]
    close(p_hat, [1 / 2, 1 / 2, 1, None, 0])


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("geomean", 0.5), ("joint", 0.125), ("head:1", 0.5), ("head:2", 0.125), ("head:9", 0.125)],
)
def test_confidence_of_a_step(kind: str, expected: float) -> None:
    # probabilities 1/2, 1/4, 1: geomean (1/8)^(1/3) = 1/2, joint 1/8, first one 1/2, first two 1/8
    assert step_confidence([math.log(0.5), math.log(0.25), 0.0], kind) == pytest.approx(expected, rel=1e-12)


def test_joint_confidence_of_a_long_step_vanishes_and_geomean_does_not() -> None:
    logs = [-1.0] * 800
    assert step_confidence(logs, "joint") == 0.0
    assert step_confidence(logs, "geomean") == pytest.approx(1 / math.e, rel=1e-12)


@pytest.mark.parametrize("beta", [0.5, 1.0, 5.0, 20.0])
def test_a_node_with_one_child_scores_minus_one_plus_beta_over_beta_times_its_confidence(beta: float) -> None:
    tree = ReasoningTree("chain", [1])
    tree.add(0, [step([2], [0.5]), step([3], [0.25])], 1.0, "eos")
    scores = score_tree(tree, ScoreOptions(ib_beta=beta))
    close(scores.ib_score, [-(1 + beta) / beta * 0.5, -(1 + beta) / beta * 0.25, None])


@pytest.mark.parametrize("beta", [0.5, 5.0])
def test_with_mean_ratio_one_the_score_is_the_covariance_less_the_confidence(beta: float) -> None:
    tree = merged()
    scores = score_tree(tree, ScoreOptions(ib_beta=beta))
    # root: draws-weighted mean ratio (3·4/3 + 0)/4 = 1. Cov(ratio, η2) = E[ratio·η2] − E[η2]
    #   = (3·4/3·1/2 + 0)/4 − (3·1/2 + 1/8)/4 = 16/32 − 13/32 = 3/32, whatever β
    # node 1: (2·3/2·3/4)/3 − (2·3/4 + 1/4)/3 = 9/12 − 7/12 = 1/6
    close(scores.ib_score[:2], [(1 + beta) * (3 / 32 - 13 / 32 / beta), (1 + beta) * (1 / 6 - 7 / 12 / beta)])
    assert eta_covariance(tree, scores) == pytest.approx((3 / 32 + 1 / 6) / 2, rel=1e-12)


def test_scores_depend_neither_on_the_order_of_trajectories_nor_on_that_of_siblings_to_the_last_bit() -> None:
    rng = random.Random(1)
    rows = []
    for i in range(7):
        path = [step([100 + i % 3], [0.1 + 0.2 * (i % 3)]), step([200 + i], [rng.random()])]
        rows.append((path, rng.random()))
    rows += rows[:2]

    def grown(order: list[int]) -> ReasoningTree:
        tree = ReasoningTree("t", [1])
        for i in order:
            tree.add(0, rows[i][0], rows[i][1], "eos")
        return tree

    def by_tokens(order: list[int], options: ScoreOptions) -> dict:
        tree = grown(order)
        s = score_tree(tree, options)
        credit = CreditOptions(score=options)
        columns = (s.p_hat, s.ratio, s.eta1, s.eta2, s.ib_score, a_gl(tree, s), node_advantage(tree, credit))
        nodes = {tuple(tree.prefix_ids(n.id)): [c[n.id].hex() for c in columns] for n in tree.nodes}
        return {**nodes, "cov": eta_covariance(tree, s), "score": tree_ib_score(s)}

    orders = [list(range(len(rows)))] + [rng.sample(range(len(rows)), len(rows)) for _ in range(40)]
    for value, weight in itertools.product(("leaves", "draws"), ("draws", "unique")):
        options = ScoreOptions(value=value, weight=weight)
        first = by_tokens(orders[0], options)
        assert all(by_tokens(order, options) == first for order in orders[1:])


def test_a_node_whose_one_child_was_drawn_twice_counts_with_covariance_zero() -> None:
    tree = ReasoningTree("t", [1])
    tree.add(0, [step([2], [0.5]), step([3], [0.5])], 1.0, "eos")
    tree.add(0, [step([2], [0.5]), step([4], [0.25])], 0.0, "eos")
    # node 2's children: ratios 2 and 0, so η1 ±1, η2 ±1/8: 1/8; the root has two draws of one child: 0
    assert eta_covariance(tree, score_tree(tree)) == pytest.approx(1 / 16, rel=1e-12)


def test_a_tree_without_any_known_reward_has_no_scores() -> None:
    tree = ReasoningTree("t", [1])
    tree.add(0, [step([2], [0.5])], None, "verifier_error")
    scores = score_tree(tree)
    assert np.isnan(scores.p_hat).all()
    assert np.isnan(scores.ib_score).all()
    assert math.isnan(tree_ib_score(scores))
    assert math.isnan(eta_covariance(tree, scores))
    assert scores.eta2[1] == pytest.approx(0.5)


def test_a_tree_that_is_only_a_root_has_no_scores() -> None:
    scores = score_tree(ReasoningTree("t", [1]))
    assert math.isnan(tree_ib_score(scores))
    assert scores.leaf_count.tolist() == [0]


@pytest.mark.parametrize(
    ("rewards", "expected"),
    [([0, 1], True), ([1, 1], False), ([], False), ([1], False), ([0.1 + 0.2, 0.3], False), ([0.3, 0.301], True)],
)
def test_a_group_is_effective_when_its_rewards_differ_by_more_than_float_residue(rewards: list, expected: bool) -> None:
    assert effective(rewards) is expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ib_beta": 0.0}, "ib_beta"),
        ({"ib_beta": -5.0}, "ib_beta"),
        ({"ib_beta": math.nan}, "ib_beta"),
        ({"ib_beta": math.inf}, "ib_beta"),
        ({"ratio_prior": -1.0}, "ratio_prior"),
        ({"value": "leafs"}, "did you mean 'leaves'"),
        ({"weight": "draw"}, "did you mean 'draws'"),
        ({"confidence": "geomeam"}, "did you mean 'geomean'"),
        ({"confidence": "head:0"}, "head:k"),
        ({"confidence": "head:"}, "head:k"),
        ({"confidence": "head:²"}, "head:k"),
    ],
)
def test_a_wrong_option_is_an_error_that_names_it(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ScoreOptions(**options)
