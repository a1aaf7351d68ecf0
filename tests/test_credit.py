"""Step advantages: TRL's GRPO on star trees, and all rules on hand-computed trees."""

import math
import random
import sys
import types
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
    BatchScale,
    CreditOptions,
    a_ib,
    batch_divisor,
    batch_values,
    find_advantage,
    leaf_rewards,
    node_advantage,
    path_advantages,
    plain_advantages,
    reward_std,
    takes_confidence,
    token_advantages,
)
from ibtpo.errors import ConfigError
from ibtpo.score import ScoreOptions, score_tree
from ibtpo.tree import ROOT, ReasoningTree

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


def test_treerls_segments_end_where_the_tree_branches_not_where_steps_end() -> None:
    # root ─ 1 ─ 2 ─ 3 ─ 5   right; 5 was drawn twice from 3     V: root 2/4; 1 and 2 2/3; 3 and 5 1; 4, 6 and 7 0
    #            └ 4         wrong
    # root ─ 6 ─ 7           wrong
    tree = ReasoningTree("t", [1])
    s = {i: step([10 + i], [0.5]) for i in range(1, 8)}
    tree.add(ROOT, [s[1], s[2], s[3], s[5]], 1.0, "eos")
    tree.add(ROOT, [s[6], s[7]], 0.0, "eos")
    tree.add(2, [s[4]], 0.0, "eos", round=1)
    tree.add(3, [s[5]], 1.0, "eos", round=2)  # merges with the first answer
    first = (2 / 3 - 1 / 2 + 2 / 3 - 1 / 2) / math.sqrt(3)  # the segment of steps 1 and 2, from the root to the fork
    third = (1 - 1 / 2 + 1 - 2 / 3) / math.sqrt(2)  # 3 against 2; two leaves
    fifth = (1 - 1 / 2 + 1 - 1) / math.sqrt(2)  # 5 was drawn twice from 3, so 3 is a fork, too
    wrong, other = 0 - 1 / 2 + 0 - 2 / 3, 0 - 1 / 2 + 0 - 1 / 2
    right = [first, first, third, fifth]
    check(tree, "treerl", [right, [other, other], [first, first, wrong], right])
    # A trajectory that ends before another goes on ends a segment, too.
    tree = ReasoningTree("t", [1])
    tree.add(ROOT, [s[1], s[2]], 1.0, "eos")
    tree.add(ROOT, [s[1], s[2], s[3]], 0.0, "eos")
    check(tree, "treerl", [[0, 0], [0, 0, 0 - 1 / 2 + 0 - 1 / 2]])


def test_treepo_is_the_mean_over_sub_groups_of_two_or_more() -> None:
    # root's mean 1/3, node 1's 1/2: 1 − (1/3 + 1/2)/2; node 3's sub-group is the root's alone
    check(three_leaf(), "treepo", [[7 / 12] * 2, [-1 / 3], [-5 / 12] * 2])
    # root 1/2, node 1 2/3, node 2 (two leaves) 1: 1 − 13/18
    check(merged(), "treepo", [[5 / 18] * 2, [5 / 18] * 2, [-7 / 12] * 2, [-1 / 2]])
    # root 2/3, node 1 1/2 (leaves 0 and 1): −7/12 and 5/12; an unknown reward gets 0
    check(inner_leaf(), "treepo", [[-7 / 12], [1 / 3], [0], [5 / 12] * 2, [0, 0]])


def test_treepos_batch_divisor_is_the_sample_std_with_the_floor() -> None:
    # mean 0, squares 1 + 1 + 0, over 2
    assert batch_divisor([1.0, -1.0, 0.0], "treepo") == pytest.approx(1 + 1e-4, rel=1e-12)
    assert batch_divisor([0.3, 0.3], "treepo") == 1e-4


def test_a_small_divisor_is_kept_while_the_advantages_fit(mine: types.ModuleType) -> None:
    mine.f = lambda tree, options: by_position(tree, options)
    mine.f.batch_scale = BatchScale(lambda tree, paths: [], lambda values: 2e-18)
    assert batch_divisor([], "mine:f") == batch_divisor([-2.0, 1.0], "mine:f") == 2e-18


def test_trees_without_a_signal_and_empty_answers_add_nothing_to_treepos_divisor() -> None:
    empty = ReasoningTree("empty", [1])
    empty.add(0, [], 1.0, "eos")
    empty.add(0, [step([5], [0.5])], 0.0, "eos")
    trees = [three_leaf(), all_equal(1.0), empty]
    for prefix_weight in ("trajectories", "once"):  # the divisor does not know of the weight of shared prefixes
        options = CreditOptions(advantage="treepo", prefix_weight=prefix_weight)
        values = batch_values(trees, [plain_advantages(t, options) for t in trees], "treepo")
        assert values == pytest.approx([7 / 12, -1 / 3, -5 / 12, -1 / 2], rel=1e-12)
    for name in ("ibtpo", "grpo", "treerl"):
        assert batch_values(trees, [plain_advantages(t, CreditOptions(advantage=name)) for t in trees], name) is None


# --- an advantage of the user's own


def by_position(tree: ReasoningTree, options: CreditOptions) -> list[list[float]]:
    """λ times the reward, counted down to the last step."""
    paths = [tree.path(leaf.node) for leaf in tree.leaves]
    return [
        [options.lam * (leaf.reward or 0.0) * (d + 1) for d in range(len(path))]
        for leaf, path in zip(tree.leaves, paths, strict=True)
    ]


@pytest.fixture
def mine(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A module of the user's, to put functions into."""
    module = types.ModuleType("mine")
    monkeypatch.setitem(sys.modules, "mine", module)
    return module


def test_a_dotted_path_is_an_advantage_like_any_other(mine: types.ModuleType) -> None:
    mine.by_position = by_position
    tree = three_leaf()  # paths 1-2, 3 and 1-4; rewards 1, 0, 0
    got = path_advantages(tree, CreditOptions(advantage="mine:by_position", lam=0.5))
    assert [a.tolist() for a in got] == [[0.5, 1.0], [0.0], [0.0, 0.0]]
    assert all(a.dtype == float for a in got)
    once = path_advantages(tree, CreditOptions(advantage="mine:by_position", lam=0.5, prefix_weight="once"))
    assert [a.tolist() for a in once] == [[0.25, 1.0], [0.0], [0.0, 0.0]]
    assert batch_values([tree], [got], "mine:by_position") is None


def test_an_advantage_of_one_s_own_may_scale_the_batch(mine: types.ModuleType) -> None:
    def first_steps(tree: ReasoningTree, options: CreditOptions) -> list[list[float]]:
        return by_position(tree, options)

    mine.first_steps = first_steps
    first_steps.batch_scale = BatchScale(lambda tree, paths: [a[0] for a in paths], lambda values: 2 * max(values))
    options = CreditOptions(advantage="mine:first_steps", lam=0.5)
    trees = [three_leaf(), all_equal(1.0)]
    values = batch_values(trees, [plain_advantages(t, options) for t in trees], "mine:first_steps")
    assert values == [0.5, 0.0, 0.0, 0.5, 0.5, 0.5]
    assert batch_divisor(values, "mine:first_steps") == 1.0


@pytest.mark.parametrize(
    ("values", "scale", "message"),
    [
        (lambda t, p: [math.nan], max, r"advantage 'mine:f': the values of its batch_scale must be finite, got nan"),
        (lambda t, p: 1 / 0, max, r"the values of its batch_scale failed: ZeroDivisionError"),
        (lambda t, p: [0.0], max, r"the scale of its batch_scale must be finite and > 0, got 0\.0"),
        (lambda t, p: [], max, r"the scale of its batch_scale failed: ValueError"),
        (lambda t, p: [1.0], lambda v: math.nan, r"advantage 'mine:f': the scale of its .* finite and > 0, got nan"),
        (lambda t, p: [1.0], lambda v: math.inf, r"must be finite and > 0, got inf"),
        (lambda t, p: [-2.0], max, r"must be finite and > 0, got -2\.0"),
        (lambda t, p: [1.0], lambda v: None, r"advantage 'mine:f': the scale of its batch_scale failed: TypeError"),
        (lambda t, p: [0.5], lambda v: 1e-19, r"gave 1e-19, and .* 32-bit float; here it must be at least 1e-18"),
        (lambda t, p: [-1e4], lambda v: 1e-15, r"gave 1e-15, and .* 32-bit float; here it must be at least 1e-14"),
    ],
)
def test_a_batch_scale_that_gives_no_divisor_is_an_error(values, scale, message: str, mine: types.ModuleType) -> None:
    mine.f = lambda tree, options: by_position(tree, options)
    mine.f.batch_scale = BatchScale(values, scale)
    tree = three_leaf()
    with pytest.raises(ConfigError, match=message):
        batch_divisor(batch_values([tree], [by_position(tree, CreditOptions())], "mine:f"), "mine:f")


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (lambda: [[0, 0], [0]], "gave 2 paths for the 3 trajectories of tree 'three_leaf'"),
        (
            lambda: [[0, 0], [0], [0]],
            "gave an array of shape (1,) for trajectory 2 of tree 'three_leaf'; it has 2 steps, so the shape must be "
            "(2,)",
        ),
        (lambda: [[0, 0], 0, [0, 0]], "gave an array of shape () for trajectory 1 of"),
        (
            lambda: [[0, 0], [0], [0, math.inf]],
            "gave inf for step 1 of trajectory 2 of tree 'three_leaf'; give a finite",
        ),
        (lambda: [[None, 0], [0], [0, 0]], "gave nan for step 0 of trajectory 0 of"),
        (lambda: [["a", 0], [0], [0, 0]], "must give a list of numbers for each trajectory of tree 'three_leaf': "),
        (lambda: None, "must give a list of numbers for each trajectory of tree 'three_leaf': TypeError"),
        (lambda: 1 / 0, "failed on tree 'three_leaf': ZeroDivisionError: division by zero"),
    ],
)
def test_what_an_advantage_of_one_s_own_gives_is_checked(result, message: str, mine: types.ModuleType) -> None:
    mine.f = lambda tree, options: result()
    with pytest.raises(ConfigError) as error:
        path_advantages(three_leaf(), CreditOptions(advantage="mine:f"))
    assert str(error.value).startswith(f"advantage 'mine:f' {message}")
    assert "\n" not in str(error.value)


def test_only_a_function_with_the_keyword_gets_another_policy_s_confidence(mine: types.ModuleType) -> None:
    mine.plain = by_position
    mine.takes = lambda tree, options, *, confidence=None: [confidence[tree.path(leaf.node)] for leaf in tree.leaves]
    takers = [n for n in (*ADVANTAGES, "mine:plain", "mine:takes") if takes_confidence(n)]
    assert takers == ["ibtpo", "mine:takes"]
    tree, other = three_leaf(), np.array([math.nan, 1.0, 0.5, 0.25, 0.0])
    got = path_advantages(tree, CreditOptions(advantage="mine:takes"), other)
    assert [a.tolist() for a in got] == [[1.0, 0.5], [0.25], [1.0, 0.0]]
    for name in ("grpo", "mine:plain"):
        with pytest.raises(ConfigError, match=f"advantage '{name}' takes no confidence"):
            path_advantages(tree, CreditOptions(advantage=name), other)


def test_an_advantage_is_loaded_when_the_options_are_made(mine: types.ModuleType) -> None:
    mine.scaled = lambda tree, options: by_position(tree, options)
    mine.scaled.batch_scale = 3.0
    for name, message in (
        ("nowhere_xyz:f", "cannot load advantage 'nowhere_xyz:f': ModuleNotFoundError: No module named 'nowhere_xyz'"),
        ("mine:nothing", "cannot load advantage 'mine:nothing': 'nothing' does not exist in module 'mine'"),
        ("mine:scaled", "advantage 'mine:scaled': its batch_scale must be a BatchScale, got float"),
    ):
        with pytest.raises(ConfigError) as error:
            CreditOptions(advantage=name)
        assert str(error.value).startswith(message)
    assert find_advantage("grpo") is ADVANTAGES["grpo"]


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


def test_a_divisor_given_takes_the_place_of_the_trees_own_spread() -> None:
    tree = star([1.0, 0.0, 0.0, 1.0])
    for advantage in ("grpo", "ibtpo"):
        paths = path_advantages(tree, CreditOptions(advantage=advantage, lam=0.0, divisor=2.0))
        assert [a.tolist() for a in paths] == [[0.25, 0.25], [-0.25, -0.25], [-0.25, -0.25], [0.25, 0.25]]
    with pytest.raises(ConfigError, match="divisor must be a finite number > 0, got 0"):
        CreditOptions(divisor=0.0)
