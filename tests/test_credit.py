"""Step advantages: TRL's GRPO on star trees, and all rules on hand-computed trees."""

import math
import random
from collections.abc import Sequence

import numpy as np
import pytest

from helpers.trees import (
    BUILDERS,
    HAND,
    S_THIRD,
    all_equal,
    fractional,
    inner_leaf,
    merged,
    none_is_nan,
    step,
    three_leaf,
)
from ibtpo.credit import (
    ADVANTAGES,
    CreditOptions,
    a_ib,
    batch_scale,
    leaf_rewards,
    node_advantage,
    path_advantages,
    reward_std,
    token_advantages,
)
from ibtpo.errors import ConfigError
from ibtpo.score import ScoreOptions, score_tree
from ibtpo.tree import ReasoningTree

S = S_THIRD


def star(rewards: Sequence[float | None], duplicates: int = 0) -> ReasoningTree:
    """Answers of two steps that share nothing; the first `duplicates` answers are there twice."""
    tree = ReasoningTree("star", [1, 2])
    for i, reward in enumerate([*rewards, *rewards[:duplicates]]):
        i %= len(rewards)
        stop = "eos" if reward is not None else "verifier_error"
        tree.add(0, [step([10 + i], [0.5]), step([90], [0.25])], reward, stop)
    return tree


def trl_grpo(rewards: Sequence[float | None]) -> list[float]:
    """GRPOTrainer's own lines (sum_then_normalize, scale_rewards="group"), one group, in float64."""
    torch = pytest.importorskip("torch")
    r = torch.tensor([math.nan if x is None else x for x in rewards], dtype=torch.float64).view(1, -1)
    mean_grouped_rewards = torch.nanmean(r, dim=1, keepdim=True)
    # trl.trainer.utils.nanstd
    variance = torch.nanmean((r - mean_grouped_rewards) ** 2, dim=1, keepdim=True)
    count = torch.sum(~torch.isnan(r), dim=1, keepdim=True)
    correction = count / (count - 1)
    correction = torch.where(count > 1, correction, torch.full_like(correction, float("nan")))
    std_rewards = torch.sqrt(variance * correction)
    advantages = (r - mean_grouped_rewards) / (std_rewards + 1e-4)
    return torch.nan_to_num(advantages, nan=0.0)[0].tolist()


def random_rewards(rng: random.Random, kind: str) -> list[float | None]:
    n = rng.randint(1, 12)
    draw = {
        "binary": lambda: float(rng.random() < 0.4),
        "fractional": lambda: rng.uniform(-1, 1),
        "missing": lambda: None if rng.random() < 0.4 else float(rng.random() < 0.5),
        "close": lambda: 0.5 + 1e-5 * rng.random(),
    }[kind]
    return [draw() for _ in range(n)]


@pytest.mark.parametrize("value", ["leaves", "draws"])
@pytest.mark.parametrize("kind", ["binary", "fractional", "missing", "close"])
def test_on_a_star_tree_ibtpo_with_lambda_zero_and_grpo_equal_trls_advantages(kind: str, value: str) -> None:
    rng = random.Random(kind)
    for _ in range(150):
        rewards = random_rewards(rng, kind)
        tree, want = star(rewards), trl_grpo(rewards)
        for options in (CreditOptions(lam=0.0, score=ScoreOptions(value=value)), CreditOptions(advantage="grpo")):
            for got, expected in zip(path_advantages(tree, options), want, strict=True):
                np.testing.assert_allclose(got, [expected, expected], rtol=0, atol=1e-6)


def test_merged_duplicates_do_not_change_trls_advantages() -> None:
    rng = random.Random(2)
    for _ in range(100):
        rewards = [float(rng.random() < 0.5) for _ in range(5)]
        want = trl_grpo([*rewards, *rewards[:3]])
        tree = star(rewards, duplicates=3)
        assert len(tree.nodes) == 11  # the root and five answers of two steps
        got = [float(a[0]) for a in path_advantages(tree, CreditOptions(lam=0.0))]
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)


@pytest.mark.parametrize("rewards", [[1.0] * 4, [0.0] * 4, [None] * 4, [1.0], [0.1 + 0.2, 0.3, 0.3]])
def test_where_all_known_rewards_are_equal_grpo_treepo_and_global_advantages_are_exactly_zero(rewards: list) -> None:
    for options in (CreditOptions(lam=0.0), CreditOptions(advantage="grpo"), CreditOptions(advantage="treepo")):
        for a in path_advantages(star(rewards), options):
            assert a.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("name", BUILDERS)
def test_ibtpo_gives_each_step_of_a_path_its_node_s_hand_computed_advantage(name: str) -> None:
    tree = BUILDERS[name]()
    by_node = [0.0 if x is None else float(x) for x in HAND[name]["advantage"]]
    for leaf, got in zip(tree.leaves, path_advantages(tree, CreditOptions()), strict=True):
        np.testing.assert_allclose(got, [by_node[n] for n in tree.path(leaf.node)], rtol=1e-12, atol=1e-15)


def check(tree: ReasoningTree, rule: str, expected: list[list[float]]) -> None:
    got = path_advantages(tree, CreditOptions(advantage=rule))
    assert len(got) == len(expected)
    for g, e in zip(got, expected, strict=True):
        np.testing.assert_allclose(g, e, rtol=1e-12, atol=1e-15)


def test_grpo_compares_whole_trajectories() -> None:
    up, down = 2 / 3 / S, -1 / 3 / S  # rewards 1, 0, 0
    check(three_leaf(), "grpo", [[up, up], [down], [down, down]])
    check(merged(), "grpo", [[0.5 / S] * 2, [0.5 / S] * 2, [-0.5 / S] * 2, [-0.5 / S]])
    check(fractional(), "grpo", [[-0.25 / 0.2501], [0, 0], [0.25 / 0.2501] * 2])
    # known rewards 0, 1, 1: an unknown one gets 0 and does not move the others
    check(inner_leaf(), "grpo", [[-2 / 3 / S], [1 / 3 / S], [0], [1 / 3 / S] * 2, [0, 0]])


def test_treerl_adds_global_and_local_gain_over_the_root_of_the_leaves_below() -> None:
    # V: root 1/3, node 1 1/2 (two leaves), 2 1, 3 0, 4 0
    shared = (1 / 6 + 1 / 6) / math.sqrt(2)
    check(three_leaf(), "treerl", [[shared, 2 / 3 + 1 / 2], [-1 / 3 - 1 / 3], [shared, -1 / 3 - 1 / 2]])
    # V: root 1/2, node 1 2/3 (three leaves), 2 1 (two leaves), 3 0, 4 0
    one, two = (1 / 6 + 1 / 6) / math.sqrt(3), (1 / 2 + 1 / 3) / math.sqrt(2)
    check(merged(), "treerl", [[one, two], [one, two], [one, -1 / 2 - 2 / 3], [-1 / 2 - 1 / 2]])
    # V: root 2/3, node 1 1/2 (leaves 0 and 1), 2 1, 4 1; nothing is known under 3 and 5
    one = (-1 / 6 - 1 / 6) / math.sqrt(2)
    check(inner_leaf(), "treerl", [[one], [1 / 3 + 1 / 3], [0], [one, 1 / 3 + 1 / 2], [one, 0]])
    check(all_equal(1.0), "treerl", [[0, 0], [0], [0, 0]])


def test_treepo_is_the_mean_over_sub_groups_of_two_or_more() -> None:
    # root's mean 1/3, node 1's 1/2: 1 − (1/3 + 1/2)/2; node 3's sub-group is the root's alone
    check(three_leaf(), "treepo", [[7 / 12] * 2, [-1 / 3], [-5 / 12] * 2])
    # root 1/2, node 1 2/3, node 2 (two leaves) 1: 1 − 13/18
    check(merged(), "treepo", [[5 / 18] * 2, [5 / 18] * 2, [-7 / 12] * 2, [-1 / 2]])
    # root 2/3, node 1 1/2 (leaves 0 and 1): −7/12 and 5/12; an unknown reward gets 0
    check(inner_leaf(), "treepo", [[-7 / 12], [1 / 3], [0], [5 / 12] * 2, [0, 0]])


def test_treepos_batch_divisor_is_the_sample_std_with_the_floor() -> None:
    # mean 0, squares 1 + 1 + 0, over 2
    assert batch_scale([1.0, -1.0, 0.0]) == pytest.approx(1 + 1e-4, rel=1e-12)
    assert batch_scale([0.3, 0.3]) == 1e-4


def test_the_local_term_can_take_another_policy_s_confidence() -> None:
    tree = three_leaf()
    other = np.array([math.nan, 1.0, 0.5, 0.5, 0.0])
    want = [None, 3 / 10, 2 / 5, -3 / 5, 0]
    np.testing.assert_allclose(a_ib(score_tree(tree), other), none_is_nan(want), rtol=1e-12, atol=1e-15)
    got = path_advantages(tree, CreditOptions(), other)[0]
    np.testing.assert_allclose(got, [1 / 6 / S + 0.03, 2 / 3 / S + 0.04], rtol=1e-12)


@pytest.mark.parametrize("reward", [0.0, 1.0])
def test_a_uniform_tree_keeps_minus_confidence_over_beta_unless_masked(reward: float) -> None:
    tree = all_equal(reward)
    # A_IB = −π/5 with π = 3/4, 1/4, 1/4, 1/2; λ = 0.1
    want = [math.nan, -0.015, -0.005, -0.005, -0.01]
    np.testing.assert_allclose(node_advantage(tree, CreditOptions()), want, rtol=1e-12)
    masked = node_advantage(tree, CreditOptions(ib_on_uniform_trees=False))
    assert masked[1:].tolist() == [0, 0, 0, 0]


def test_masking_uniform_trees_leaves_mixed_trees_alone() -> None:
    got = node_advantage(three_leaf(), CreditOptions(ib_on_uniform_trees=False))
    np.testing.assert_allclose(got, none_is_nan(HAND["three_leaf"]["advantage"]), rtol=1e-12)


@pytest.mark.parametrize("rule", ADVANTAGES)
@pytest.mark.parametrize(("prefix_weight", "power"), [("once", 0), ("sqrt", 0.5), ("trajectories", 1)])
def test_a_shared_step_counts_once_root_n_or_n_times(rule: str, prefix_weight: str, power: float) -> None:
    tree = merged()  # node 1 is shared by 3 trajectories, node 2 by 2
    full = path_advantages(tree, CreditOptions(advantage=rule))
    paths = path_advantages(tree, CreditOptions(advantage=rule, prefix_weight=prefix_weight))
    total: dict[int, float] = {}
    for leaf, weighted, plain in zip(tree.leaves, paths, full, strict=True):
        for node, w, a in zip(tree.path(leaf.node), weighted, plain, strict=True):
            assert a != 0
            total[node] = total.get(node, 0.0) + w / a
    assert total == pytest.approx({1: 3**power, 2: 2**power, 3: 1, 4: 1}, rel=1e-12)


def test_every_token_of_a_step_gets_the_step_s_advantage() -> None:
    tree = three_leaf()
    got = token_advantages(tree, [np.array([1.0, 2.0]), np.array([3.0]), np.array([4.0, 5.0])])
    assert [g.tolist() for g in got] == [[1, 1, 2], [3, 3], [4, 4, 5]]
    assert [len(g) for g in got] == [len(tree.completion_ids(i)) for i in range(3)]


@pytest.mark.parametrize("rule", ADVANTAGES)
@pytest.mark.parametrize("prefix_weight", ["once", "sqrt", "trajectories"])
def test_no_rule_trips_over_empty_answers_or_a_tree_without_rewards(rule: str, prefix_weight: str) -> None:
    options = CreditOptions(advantage=rule, prefix_weight=prefix_weight)
    failed = star([None, None, None])
    assert all(np.isfinite(a).all() for a in path_advantages(failed, options))
    empty = ReasoningTree("empty", [1])
    empty.add(0, [], 1.0, "eos")
    empty.add(0, [step([5], [0.5])], 0.0, "eos")
    paths = path_advantages(empty, options)
    assert [a.shape for a in paths] == [(0,), (1,)]
    assert [a.shape for a in token_advantages(empty, paths)] == [(0,), (1,)]
    if rule != "ibtpo":
        assert [a.tolist() for a in path_advantages(failed, options)] == [[0, 0]] * 3


@pytest.mark.parametrize("rule", ADVANTAGES)
def test_advantages_follow_their_trajectories_bit_for_bit_when_siblings_change_places(rule: str) -> None:
    rng = random.Random(3)
    rows = [([step([10 + i % 3], [0.3]), step([50 + i], [rng.random()])], rng.random()) for i in range(8)]
    rows.append((rows[0][0], 0.7))

    def by_tokens(order: Sequence[int]) -> dict[int, list[str]]:
        tree = ReasoningTree("t", [1])
        for i in order:
            tree.add(0, rows[i][0], rows[i][1], "eos")
        paths = path_advantages(tree, CreditOptions(advantage=rule, prefix_weight="sqrt"))
        return {i: [x.hex() for x in a.tolist()] for i, a in zip(order, paths, strict=True)}

    first = by_tokens(range(len(rows)))
    for _ in range(40):
        assert by_tokens(rng.sample(range(len(rows)), len(rows))) == first


def test_the_reward_spread_is_the_sample_std_of_the_known_rewards() -> None:
    assert reward_std(np.array([1.0, 0.0, math.nan, 0.5])) == pytest.approx(0.5, rel=1e-12)
    assert reward_std(np.array([1.0, math.nan])) == 0
    assert reward_std(np.array([])) == 0
    assert reward_std(np.array([0.1 + 0.2, 0.3])) == 0  # float residue is no signal
    np.testing.assert_array_equal(leaf_rewards(inner_leaf()), [0, 1, math.nan, 1, math.nan])


def test_the_reward_spread_does_not_depend_on_the_order_of_trajectories_to_the_last_bit() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        rewards = rng.random(9)
        assert len({reward_std(rng.permutation(rewards)) for _ in range(20)}) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"advantage": "gpro"}, "did you mean 'grpo'"),
        ({"prefix_weight": "one"}, "did you mean 'once'"),
        ({"lam": math.nan}, "lam"),
    ],
)
def test_a_wrong_credit_option_is_an_error_that_names_it(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CreditOptions(**options)
