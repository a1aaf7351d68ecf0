"""Scores kept up to date while a tree grows are, to the last bit, those of the tree scored anew."""

import math
import random

import numpy as np
import pytest

from ibtpo.branching import BRANCHING
from ibtpo.incremental import RunningScores, running_ib_scores
from ibtpo.score import ScoreOptions, score_tree
from ibtpo.tree import ReasoningTree, Step

OPTIONS = [
    ScoreOptions(),
    ScoreOptions(ib_beta=2.0, value="draws", confidence="joint"),
    ScoreOptions(weight="unique", confidence="head:2", ratio_prior=0.5),
]


def add_random(tree: ReasoningTree, rng: random.Random) -> None:
    """A trajectory from a random place; few different tokens, so that steps are often merged."""
    at = rng.choice([0, *tree.branchable()])
    steps = []
    for _ in range(rng.randrange(4)):
        size = rng.randint(1, 3)
        ids = tuple(rng.randrange(3) for _ in range(size))
        steps.append(Step(ids, "x", tuple(-0.1 - (i + j) / 7 for j, i in enumerate(ids)), None))
        if rng.random() < 0.3:  # the environment answers
            steps.append(Step((50 + rng.randrange(2), 60), "x", (), None, True))
    reward = rng.choice([0.0, 0.0, 1.0, 0.1, 1 / 3, None])
    tree.add(at, steps, reward, "eos" if reward is not None else "verifier_error")


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("every", [1, 3])
def test_after_any_growth_they_equal_the_tree_scored_anew(options: ScoreOptions, every: int) -> None:
    for seed in range(20):
        rng = random.Random(seed)
        tree = ReasoningTree("t", [1], "q")
        running = RunningScores(options)
        for i in range(60):
            add_random(tree, rng)
            if i % 17 == 16:  # as EPTree does
                sampled = [n for n in tree.nodes[1:] if not n.step.given]
                node = max(sampled, key=lambda n: len(n.step.token_ids), default=None)
                if node is not None and len(node.step.token_ids) > 1:
                    tree.split(node.id, 1, ("x", ""))
            if i % every == 0:
                running.refresh(tree)
                np.testing.assert_array_equal(running.ib_score, score_tree(tree, options).ib_score)


def test_a_refresh_without_news_changes_nothing_and_an_empty_tree_has_no_score() -> None:
    tree = ReasoningTree("t", [1], "q")
    running = RunningScores(ScoreOptions())
    running.refresh(tree)
    assert len(running.ib_score) == 1
    assert math.isnan(running.ib_score[0])
    add_random(tree, random.Random(4))
    running.refresh(tree)
    before = running.ib_score.copy()
    running.refresh(tree)
    np.testing.assert_array_equal(running.ib_score, before)


def test_trees_and_options_do_not_mix() -> None:
    rng = random.Random(1)
    trees = [ReasoningTree("same id", [1], "q") for _ in range(2)]
    for tree in trees:
        for _ in range(20):
            add_random(tree, rng)
    for options in (*OPTIONS, *OPTIONS):
        for tree in trees:
            np.testing.assert_array_equal(running_ib_scores(tree, options), score_tree(tree, options).ib_score)


@pytest.mark.parametrize("k", [1, 3, 10_000])
def test_the_rule_chooses_as_if_all_scores_were_sorted(k: int) -> None:
    rng = random.Random(2)
    tree = ReasoningTree("t", [1], "q")
    for _ in range(150):
        add_random(tree, rng)
        points = BRANCHING["ib"](tree, k, ScoreOptions(), 7)
        scores = score_tree(tree).ib_score
        expected = np.sort(scores[~np.isnan(scores)])[::-1][:k]
        if len(expected):  # before the first known reward places are random
            np.testing.assert_allclose([p.score for p in points], expected, rtol=1e-9)
            assert len({p.node for p in points}) == len(points)
