"""Tiny trees with every number worked out by hand, for the tests of scores, advantages and metrics.

`BUILDERS` makes the trees, `HAND` holds their numbers under the default options, and `OPTIONS` what other options
change. The numbers are written as the arithmetic that gives them, one a node in the order of ids; None means not
defined. The keys are the fields that `ibtpo score --json` prints (`tree_ib` is the `ib_score` of the whole tree), and
docs/method.md, "One training step", has their equations. Unless a comment says otherwise β is 5, so that 1 + 1/β = 6/5
and 1 + β = 6, and λ is 0.1.
"""

import math
from collections.abc import Callable, Sequence
from fractions import Fraction as F  # noqa: N817
from typing import Any

from ibtpo.tree import ReasoningTree, Step
from ibtpo.verify import Verdict

# What TRL divides an advantage by, the standard deviation of the rewards plus 1e-4. The sample variance is 1/3 of
# (1,0,0), of (0,1,1) and of (1,1,0,0).
S_THIRD = math.sqrt(1 / 3) + 1e-4


def step(token_ids: Sequence[int], probabilities: Sequence[float], entropies: Sequence[float] | None = None) -> Step:
    """A step of these tokens.

    token_ids: the tokens; their numbers are the text too.
    probabilities: the probability each token was drawn with.
    entropies: the entropy where each token was drawn, in nats.
    """
    text = " ".join(map(str, token_ids)) + "\n\n"
    logs = tuple(math.log(p) for p in probabilities)
    return Step(tuple(token_ids), text, logs, None if entropies is None else tuple(entropies))


def given(*token_ids: int) -> Step:
    """A step of these tokens that the environment wrote; their numbers are the text too."""
    return Step(token_ids, "<" + " ".join(map(str, token_ids)) + ">", (), None, True)


def three_leaf() -> ReasoningTree:
    """Three answers, the third a branch: root ─ 1 ─ 2 (right), root ─ 3 (wrong), and after 1: 1 ─ 4 (wrong)."""
    tree = ReasoningTree("three_leaf", [7, 8], "What is 1 + 1?", "2")
    tree.add(0, [step([10, 11], [0.5, 0.5], [1.0, 0.5]), step([12], [0.5], [0.25])], 1.0, "eos")
    tree.add(0, [step([20, 21], [1 / 16, 1.0], [0.75, 0.0])], 0.0, "eos")
    tree.add(1, [step([13], [0.25], [0.5])], 0.0, "eos", round=1, score=-0.6)
    return tree


def merged() -> ReasoningTree:
    """Four answers with shared nodes: 1 was drawn three times, its child 2 twice (both right); 3 and 4 are wrong."""
    tree = ReasoningTree("merged", [7], "Toss.", "heads")
    for _ in range(2):
        tree.add(0, [step([10], [0.5]), step([11], [0.75])], 1.0, "eos")
    tree.add(0, [step([10], [0.5]), step([12], [0.25])], 0.0, "eos")
    tree.add(0, [step([20], [0.125])], 0.0, "eos")
    return tree


def all_equal(reward: float, name: str = "all_wrong") -> ReasoningTree:
    """Three answers that all have the same reward: root ─ 1 ─ 2, root ─ 3, and a branch 1 ─ 4."""
    tree = ReasoningTree(name, [7], "Hard.", "0")
    tree.add(0, [step([10], [0.75]), step([11], [0.25])], reward, "eos")
    tree.add(0, [step([20], [0.25])], reward, "eos")
    tree.add(1, [step([12], [0.5])], reward, "eos", round=1, score=-4.5)
    return tree


def inner_leaf() -> ReasoningTree:
    """A truncated answer ends at node 1, where branches to 4 (right) and 5 start. The verifier failed on 3 and 5."""
    tree = ReasoningTree("inner_leaf", [7], "Short.", "yes")
    tree.add(0, [step([10], [0.5])], 0.0, "length")
    tree.add(0, [step([20], [0.25])], 1.0, "eos")
    tree.add(0, [step([30], [0.1])], None, "verifier_error")
    tree.add(1, [step([11], [0.25])], 1.0, "eos", round=1, score=None)
    tree.add(1, [step([12], [0.125])], None, "verifier_error", round=1, score=None)
    return tree


def fractional() -> ReasoningTree:
    """Rewards between 0 and 1: root ─ 1 (0.25), root ─ 2 ─ 3 (0.5), and a branch 2 ─ 4 (0.75)."""
    tree = ReasoningTree("fractional", [7], "Partly.", None)
    tree.add(0, [step([10, 11], [0.5, 0.125])], 0.25, "eos")
    tree.add(0, [step([20], [0.5]), step([21], [0.75])], 0.5, "eos")
    tree.add(2, [step([22], [0.25])], 0.75, "eos", round=1, score=-3.0)
    return tree


def observed() -> ReasoningTree:
    """`three_leaf` with a tool that answers node 1: root ─ 1 ─ <2> ─ 3 (right), root ─ 4 (wrong), <2> ─ 5 (wrong)."""
    tree = ReasoningTree("observed", [7, 8], "What is 1 + 1?", "2")
    tree.add(0, [step([10, 11], [0.5, 0.5]), given(50, 51, 52), step([12], [0.5])], 1.0, "eos")
    tree.add(0, [step([20, 21], [1 / 16, 1.0])], 0.0, "eos")
    tree.add(2, [step([13], [0.25])], 0.0, "eos", round=1, score=-0.6)
    return tree


def replies() -> ReasoningTree:
    """An environment that does not always answer alike.

    Node 1 was drawn three times. Twice the environment gave 2, after which come 3 (right) and 4 (wrong), and once 5 and
    6, after which comes 7 (right), whose token is that of 3. The answer of node 8 (wrong) ends with what was given, 9.
    """
    tree = ReasoningTree("replies", [7], "Ask.", "heads")
    tree.add(0, [step([10], [0.5], [0.5]), given(50), step([11], [0.75], [0.25])], 1.0, "eos")
    tree.add(0, [step([10], [0.5], [0.5]), given(50), step([12], [0.25], [0.25])], 0.0, "eos")
    tree.add(0, [step([10], [0.5], [0.5]), given(51), given(52, 53), step([11], [0.5], [1.0])], 1.0, "eos")
    tree.add(0, [step([20], [0.125], [0.5]), given(54)], 0.0, "eos")
    return tree


def all_wrong() -> ReasoningTree:
    """Three answers that are all wrong."""
    return all_equal(0.0)


BUILDERS: dict[str, Callable[[], ReasoningTree]] = {
    f.__name__: f for f in (three_leaf, merged, all_wrong, inner_leaf, fractional, observed, replies)
}

Hand = dict[str, Any]

HAND: dict[str, Hand] = {
    "three_leaf": {
        # one of three leaves is right; under node 1, one of two
        "p_hat": [F(1, 3), F(1, 2), 1, 0, 0],
        # 1: (1/2)/(1/3) − 6/5; 2: 1/(1/2) − 6/5; 3 and 4: 0 − 6/5
        "eta1": [None, F(3, 10), F(4, 5), F(-6, 5), F(-6, 5)],
        # 1: √(1/2·1/2); 3: √(1/16·1)
        "eta2": [None, F(1, 2), F(1, 2), F(1, 4), F(1, 4)],
        # root: 6/2·(3/10·1/2 − 6/5·1/4); 1: 6/2·(4/5·1/2 − 6/5·1/4)
        "ib_score": [F(-9, 20), F(3, 10), None, None, None],
        "a_gl": [0, 1 / 6 / S_THIRD, 2 / 3 / S_THIRD, -1 / 3 / S_THIRD, -1 / 3 / S_THIRD],
        "a_ib": [None, F(3, 20), F(2, 5), F(-3, 10), F(-3, 10)],
        "advantage": [
            None,
            1 / 6 / S_THIRD + 0.1 * 3 / 20,
            2 / 3 / S_THIRD + 0.1 * 2 / 5,
            -1 / 3 / S_THIRD - 0.1 * 3 / 10,
            -1 / 3 / S_THIRD - 0.1 * 3 / 10,
        ],
        "avg_reward": F(1, 3),
        "policy_rate": F(1, 2),
        "effective": True,
        "tree_ib": F(-3, 40),  # (−9/20 + 6/20)/2
        # root: η1 is ±3/4 and η2 ±1/8 off their means: 3/32; node 1: ±1 and ±1/8: 1/8; the mean of both
        "cov_eta": F(7, 64),
    },
    "merged": {
        "p_hat": [F(1, 2), F(2, 3), 1, 0, 0],
        # 1: (2/3)/(1/2) − 6/5; 2: 1/(2/3) − 6/5
        "eta1": [None, F(2, 15), F(3, 10), F(-6, 5), F(-6, 5)],
        "eta2": [None, F(1, 2), F(3, 4), F(1, 4), F(1, 8)],
        # root: 6/4·(3·2/15·1/2 − 6/5·1/8) = 3/2·1/20; 1: 6/3·(2·3/10·3/4 − 6/5·1/4) = 2·3/20
        "ib_score": [F(3, 40), F(3, 10), None, None, None],
        "a_gl": [0, 1 / 6 / S_THIRD, 1 / 2 / S_THIRD, -1 / 2 / S_THIRD, -1 / 2 / S_THIRD],
        "a_ib": [None, F(1, 15), F(9, 40), F(-3, 10), F(-3, 20)],
        "advantage": [
            None,
            1 / 6 / S_THIRD + 0.1 / 15,
            1 / 2 / S_THIRD + 0.1 * 9 / 40,
            -1 / 2 / S_THIRD - 0.1 * 3 / 10,
            -1 / 2 / S_THIRD - 0.1 * 3 / 20,
        ],
        "avg_reward": F(1, 2),
        "policy_rate": F(1, 2),
        "effective": True,
        "tree_ib": F(3, 16),  # (3/40 + 12/40)/2
        # E[η1] = −1/5 at both. root: E[η2] = (3·1/2 + 1/8)/4 = 13/32, E[η1η2] = 1/80: 1/80 + 13/160 = 3/32
        # 1: E[η2] = (2·3/4 + 1/4)/3 = 7/12, E[η1η2] = 3/20/3: 1/20 + 7/60 = 1/6
        "cov_eta": F(25, 192),  # (3/32 + 1/6)/2
    },
    "all_wrong": {
        "p_hat": [0, 0, 0, 0, 0],
        "eta1": [None, F(-1, 5), F(-1, 5), F(-1, 5), F(-1, 5)],  # 0/0 counts as 1: 1 − 6/5
        "eta2": [None, F(3, 4), F(1, 4), F(1, 4), F(1, 2)],
        # root: 6/2·(−1/5)·(3/4 + 1/4); 1: 6/2·(−1/5)·(1/4 + 1/2)
        "ib_score": [F(-3, 5), F(-9, 20), None, None, None],
        "a_gl": [0, 0, 0, 0, 0],
        "a_ib": [None, F(-3, 20), F(-1, 20), F(-1, 20), F(-1, 10)],
        "advantage": [None, F(-3, 200), F(-1, 200), F(-1, 200), F(-1, 100)],
        "avg_reward": 0,
        "policy_rate": 0,
        "effective": False,
        "tree_ib": F(-21, 40),
        "cov_eta": 0,
    },
    "inner_leaf": {
        # known: 0 at node 1, 1 at node 2, 1 at node 4
        "p_hat": [F(2, 3), F(1, 2), 1, None, 1, None],
        # 1: (1/2)/(2/3) − 6/5; 2: 1/(2/3) − 6/5; 4: 1/(1/2) − 6/5
        "eta1": [None, F(-9, 20), F(3, 10), None, F(4, 5), None],
        "eta2": [None, F(1, 2), F(1, 4), F(1, 10), F(1, 4), F(1, 8)],
        # root: 6/2·(−9/20·1/2 + 3/10·1/4); 1: one known child, 6·4/5·1/4
        "ib_score": [F(-9, 20), F(6, 5), None, None, None, None],
        "a_gl": [0, -1 / 6 / S_THIRD, 1 / 3 / S_THIRD, None, 1 / 3 / S_THIRD, None],
        "a_ib": [None, F(-9, 40), F(3, 40), None, F(1, 5), None],
        "advantage": [
            None,
            -1 / 6 / S_THIRD - 0.1 * 9 / 40,
            1 / 3 / S_THIRD + 0.1 * 3 / 40,
            None,
            1 / 3 / S_THIRD + 0.1 / 5,
            None,
        ],
        "avg_reward": F(2, 3),
        "policy_rate": F(1, 2),
        "effective": True,
        "tree_ib": F(3, 8),  # (−9/20 + 24/20)/2
        "cov_eta": F(-3, 64),  # root alone: η1 ∓3/8, η2 ±1/8; node 1 has one known draw
    },
    "fractional": {
        "p_hat": [F(1, 2), F(1, 4), F(5, 8), F(1, 2), F(3, 4)],
        # 1: 1/2 − 6/5; 2: 5/4 − 6/5; 3: 4/5 − 6/5; 4: 6/5 − 6/5
        "eta1": [None, F(-7, 10), F(1, 20), F(-2, 5), 0],
        "eta2": [None, F(1, 4), F(1, 2), F(3, 4), F(1, 4)],  # 1: √(1/2·1/8)
        # root: 6/2·(−7/10·1/4 + 1/20·1/2); 2: 6/2·(−2/5·3/4)
        "ib_score": [F(-9, 20), None, F(-9, 10), None, None],
        "a_gl": [0, -0.25 / 0.2501, 0.125 / 0.2501, 0, 0.25 / 0.2501],  # std of (1/4, 1/2, 3/4) is 1/4
        "a_ib": [None, F(-7, 40), F(1, 40), F(-3, 10), 0],
        "advantage": [
            None,
            -0.25 / 0.2501 - 0.1 * 7 / 40,
            0.125 / 0.2501 + 0.1 / 40,
            F(-3, 100),
            0.25 / 0.2501,
        ],
        "avg_reward": F(1, 2),
        "policy_rate": F(3, 8),
        "effective": True,
        "tree_ib": F(-27, 40),
        "cov_eta": F(-1, 640),  # root ±3/8 with ±1/8: 3/64; node 2 ∓1/5 with ±1/4: −1/20; the mean
    },
    # The numbers of three_leaf; the score of its node 1 is that of what was given after it.
    "observed": {
        "given": [2],
        "p_hat": [F(1, 3), F(1, 2), F(1, 2), 1, 0, 0],
        "eta1": [None, F(3, 10), None, F(4, 5), F(-6, 5), F(-6, 5)],
        "eta2": [None, F(1, 2), None, F(1, 2), F(1, 4), F(1, 4)],
        "ib_score": [F(-9, 20), None, F(3, 10), None, None, None],
        "a_gl": [0, 1 / 6 / S_THIRD, None, 2 / 3 / S_THIRD, -1 / 3 / S_THIRD, -1 / 3 / S_THIRD],
        "a_ib": [None, F(3, 20), None, F(2, 5), F(-3, 10), F(-3, 10)],
        "advantage": [
            None,
            1 / 6 / S_THIRD + 0.1 * 3 / 20,
            None,
            2 / 3 / S_THIRD + 0.1 * 2 / 5,
            -1 / 3 / S_THIRD - 0.1 * 3 / 10,
            -1 / 3 / S_THIRD - 0.1 * 3 / 10,
        ],
        "avg_reward": F(1, 3),
        "policy_rate": F(1, 2),
        "effective": True,
        "tree_ib": F(-3, 40),
        "cov_eta": F(7, 64),
    },
    "replies": {
        "given": [2, 5, 6, 9],
        "p_hat": [F(1, 2), F(2, 3), F(1, 2), 1, 0, 1, 1, 1, 0, 0],
        # 1: (2/3)/(1/2) − 6/5; 3: 1/(1/2) − 6/5; 7: 1/1 − 6/5, for what was given before it is worth 1 already
        "eta1": [None, F(2, 15), None, F(4, 5), F(-6, 5), None, None, F(-1, 5), F(-6, 5), None],
        "eta2": [None, F(1, 2), None, F(3, 4), F(1, 4), None, None, F(1, 2), F(1, 8), None],
        # root: 6/4·(3·2/15·1/2 − 6/5·1/8); 2: 6/2·(4/5·3/4 − 6/5·1/4); 6: 6·(−1/5·1/2)
        "ib_score": [F(3, 40), None, F(9, 10), None, None, None, F(-3, 5), None, None, None],
        "a_gl": [
            0,
            1 / 6 / S_THIRD,
            None,
            1 / 2 / S_THIRD,
            -1 / 2 / S_THIRD,
            None,
            None,
            1 / 2 / S_THIRD,
            -1 / 2 / S_THIRD,
            None,
        ],
        "a_ib": [None, F(1, 15), None, F(3, 5), F(-3, 10), None, None, F(-1, 10), F(-3, 20), None],
        "advantage": [
            None,
            1 / 6 / S_THIRD + 0.1 / 15,
            None,
            1 / 2 / S_THIRD + 0.1 * 3 / 5,
            -1 / 2 / S_THIRD - 0.1 * 3 / 10,
            None,
            None,
            1 / 2 / S_THIRD - 0.1 / 10,
            -1 / 2 / S_THIRD - 0.1 * 3 / 20,
            None,
        ],
        "avg_reward": F(1, 2),
        "policy_rate": F(1, 2),
        "effective": True,
        "tree_ib": F(1, 8),  # (3/40 + 36/40 − 24/40)/3
        "cov_eta": F(11, 64),  # root: 3/32, as in merged; 2: ±1 with ±1/4; after 6 there is one draw; the mean
    },
}

# (tree, options as on the command line, the numbers that they change; all others are as in HAND)
OPTIONS: list[tuple[str, dict[str, str], Hand]] = [
    (
        "three_leaf",
        {"value": "draws"},
        {
            # root: (1·1/2 + 1·0)/2, whatever the branch after node 1 added
            "p_hat": [F(1, 4), F(1, 2), 1, 0, 0],
            "eta1": [None, F(4, 5), F(4, 5), F(-6, 5), F(-6, 5)],
            "ib_score": [F(3, 10), F(3, 10), None, None, None],  # root: 3·(4/5·1/2 − 6/5·1/4)
            "a_gl": [0, 1 / 4 / S_THIRD, 3 / 4 / S_THIRD, -1 / 4 / S_THIRD, -1 / 4 / S_THIRD],
            "a_ib": [None, F(2, 5), F(2, 5), F(-3, 10), F(-3, 10)],
            "advantage": [
                None,
                1 / 4 / S_THIRD + 0.04,
                3 / 4 / S_THIRD + 0.04,
                -1 / 4 / S_THIRD - 0.03,
                -1 / 4 / S_THIRD - 0.03,
            ],
            "tree_ib": F(3, 10),
            "cov_eta": F(1, 8),  # ±1 with ±1/8 at both nodes
        },
    ),
    (
        "three_leaf",
        {"beta": "2", "lam": "0.5"},
        {
            # 1 + 1/β = 3/2, 1 + β = 3
            "eta1": [None, 0, F(1, 2), F(-3, 2), F(-3, 2)],
            "ib_score": [F(-9, 16), F(-3, 16), None, None, None],  # 3/2·(0 − 3/2·1/4); 3/2·(1/4 − 3/8)
            "a_ib": [None, 0, F(1, 4), F(-3, 8), F(-3, 8)],
            "advantage": [
                None,
                1 / 6 / S_THIRD,
                2 / 3 / S_THIRD + 1 / 8,
                -1 / 3 / S_THIRD - 3 / 16,
                -1 / 3 / S_THIRD - 3 / 16,
            ],
            "tree_ib": F(-3, 8),
        },
    ),
    (
        "three_leaf",
        {"confidence": "joint"},
        {
            "eta2": [None, F(1, 4), F(1, 2), F(1, 16), F(1, 4)],
            "ib_score": [0, F(3, 10), None, None, None],  # root: 3·(3/10·1/4 − 6/5·1/16) = 3·(3/40 − 3/40)
            "a_ib": [None, F(3, 40), F(2, 5), F(-3, 40), F(-3, 10)],
            "advantage": [
                None,
                1 / 6 / S_THIRD + 0.1 * 3 / 40,
                2 / 3 / S_THIRD + 0.04,
                -1 / 3 / S_THIRD - 0.1 * 3 / 40,
                -1 / 3 / S_THIRD - 0.03,
            ],
            "tree_ib": F(3, 20),
            "cov_eta": F(25, 256),  # root ±3/4 with ±3/32: 9/128; node 1: 16/128; the mean
        },
    ),
    (
        "three_leaf",
        {"confidence": "head:1"},
        {
            "eta2": [None, F(1, 2), F(1, 2), F(1, 16), F(1, 4)],
            "ib_score": [F(9, 40), F(3, 10), None, None, None],  # root: 3·(3/20 − 3/40)
            "a_ib": [None, F(3, 20), F(2, 5), F(-3, 40), F(-3, 10)],
            "advantage": [
                None,
                1 / 6 / S_THIRD + 0.1 * 3 / 20,
                2 / 3 / S_THIRD + 0.04,
                -1 / 3 / S_THIRD - 0.1 * 3 / 40,
                -1 / 3 / S_THIRD - 0.03,
            ],
            "tree_ib": F(21, 80),
            "cov_eta": F(37, 256),  # root ±3/4 with ±7/32: 21/128; node 1: 16/128; the mean
        },
    ),
    (
        "merged",
        {"weight": "unique"},
        {
            # root: 6/2·(2/15·1/2 − 6/5·1/8) = 3·(4/60 − 9/60); 1: 6/2·(3/10·3/4 − 6/5·1/4) = 3·(9/40 − 12/40)
            "ib_score": [F(-1, 4), F(-9, 40), None, None, None],
            "tree_ib": F(-19, 80),
        },
    ),
    (
        "observed",
        {"value": "draws"},
        {
            # 2: (1·1 + 1·0)/2, which is also the value of 1; root: (1·1/2 + 1·0)/2
            "p_hat": [F(1, 4), F(1, 2), F(1, 2), 1, 0, 0],
            "eta1": [None, F(4, 5), None, F(4, 5), F(-6, 5), F(-6, 5)],
            "ib_score": [F(3, 10), None, F(3, 10), None, None, None],
            "a_gl": [0, 1 / 4 / S_THIRD, None, 3 / 4 / S_THIRD, -1 / 4 / S_THIRD, -1 / 4 / S_THIRD],
            "a_ib": [None, F(2, 5), None, F(2, 5), F(-3, 10), F(-3, 10)],
            "advantage": [
                None,
                1 / 4 / S_THIRD + 0.04,
                None,
                3 / 4 / S_THIRD + 0.04,
                -1 / 4 / S_THIRD - 0.03,
                -1 / 4 / S_THIRD - 0.03,
            ],
            "tree_ib": F(3, 10),
            "cov_eta": F(1, 8),
        },
    ),
]

NODE_KEYS = ("p_hat", "eta1", "eta2", "ib_score", "a_gl", "a_ib", "advantage")


def printed(name: str, hand: Hand) -> dict[str, Any]:
    """A tree's hand table in the form of the line that `ibtpo score --json` prints of it."""

    def number(x: Any) -> float | None:
        return None if x is None else float(x)

    nodes = [{"id": i, **{k: number(hand[k][i]) for k in NODE_KEYS}} for i in range(len(hand["p_hat"]))]
    for i in hand.get("given", ()):
        nodes[i]["given"] = True
    return {
        "id": name,
        "nodes": nodes,
        "avg_reward": float(hand["avg_reward"]),
        "policy_rate": float(hand["policy_rate"]),
        "effective": hand["effective"],
        "ib_score": float(hand["tree_ib"]),
        "cov_eta": number(hand["cov_eta"]),
    }


def none_is_nan(row: Sequence[Any]) -> list[float]:
    """A row of a hand table as floats, NaN for None, to compare it with arrays."""
    return [math.nan if x is None else float(x) for x in row]


class FunctionVerifier:
    """A verifier made of functions that take one row and return its reward; their sum is the reward.

    A `ValueError` that one raises becomes the verdict's error. `rows` has all rows that were scored.
    """

    def __init__(self, *functions: Callable[[dict[str, Any]], float]) -> None:
        self.functions = functions
        self.names = tuple(f.__name__ for f in functions)
        self.rows: list[dict[str, Any]] = []

    def score(self, rows: Sequence[dict[str, Any]]) -> list[Verdict]:
        self.rows.extend(rows)
        return [self._one(row) for row in rows]

    async def ascore(self, rows: Sequence[dict[str, Any]]) -> list[Verdict]:
        return self.score(rows)

    def close(self) -> None:
        pass

    def _one(self, row: dict[str, Any]) -> Verdict:
        try:
            values = tuple(f(row) for f in self.functions)
        except ValueError as e:
            return Verdict(None, (None,) * len(self.functions), str(e))
        return Verdict(sum(values), values)
