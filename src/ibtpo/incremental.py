"""IB-Scores of a tree that grows: after a rollout, only the nodes on its path are scored again.

`score.score_tree` defines the scores, and `RunningScores` gives the same numbers to the last bit. Its cost for a
rollout is the depth of the path times the siblings on it, not the size of the tree. So choosing where to branch costs
about the same in a tree of 100 000 nodes as in a small one (docs/method.md, "One training step", point 2).
"""

import math
from collections.abc import Iterable
from fractions import Fraction
from weakref import WeakKeyDictionary

import numpy as np

from .score import NO_VALUE, ScoreOptions, sampled_children, step_confidence
from .tree import ROOT, ReasoningTree


class RunningScores:
    """The IB-Scores of one tree, which `refresh` brings up to date.

    options: how the tree is scored.

    `ib_score` holds the scores. The equations are those at the head of score.py.
    """

    def __init__(self, options: ScoreOptions) -> None:
        self.options = options
        self._cuts = 0
        self._reset()

    def _reset(self) -> None:
        """Forgets the tree, so that the next `refresh` starts from its first node."""
        self._leaves = self._nodes = 0  # how many of each have been taken in
        self._room = np.full(64, math.nan)  # the scores, with room for nodes to come
        # The lists below hold one value a node. They are no arrays, whose single elements are slow to read.
        self._eta2: list[float] = []  # π of the step
        self._p_hat: list[float] = []  # the value
        self._density: list[float] = []  # p-hat as it enters the ratio to the parent's, that is, after smoothing
        self._sums: list[Fraction] = []  # of the rewards under a node; exact, so that their order cannot change a value
        self._own: dict[int, list[float]] = {}  # the rewards of the leaves that end at a node, if there are any
        self._known: list[int] = []  # how many leaves under a node have a reward

    @property
    def ib_score(self) -> np.ndarray:
        """The (N,) IB-Scores of the nodes as of the last `refresh`, NaN where one is not defined; see `Scores`."""
        return self._room[: self._nodes]

    def refresh(self, tree: ReasoningTree) -> None:
        """Takes in the trajectories that were added to the tree since the last call.

        It must be called with the same tree each time. After a `ReasoningTree.split` all is computed anew.
        """
        if tree.cuts != self._cuts:  # A step was cut in two since, which gave nodes new ids.
            self._cuts = tree.cuts
            self._reset()
        self._grow(tree)
        touched: set[int] = set()
        for leaf in tree.leaves[self._leaves :]:
            path = [ROOT, *tree.path(leaf.node)]
            touched.update(path)
            if leaf.reward is not None:
                self._own.setdefault(leaf.node, []).append(leaf.reward)
                exact = Fraction(leaf.reward)
                for node in path:
                    self._sums[node] += exact
                    self._known[node] += 1
        self._leaves = len(tree.leaves)
        # Children come first, because a node's score needs their values. Their ids are higher than its own.
        self._score(tree, sorted(touched, reverse=True))

    def _grow(self, tree: ReasoningTree) -> None:
        """Makes room for the nodes that were added since the last call."""
        had, n = self._nodes, len(tree.nodes)
        if n > len(self._room):
            self._room = np.append(self._room, np.full(2 * n - len(self._room), math.nan))
        nothing = [math.nan] * (n - had)
        self._p_hat += nothing
        self._density += nothing
        self._sums += [Fraction(0)] * (n - had)
        self._known += [0] * (n - had)
        for node in tree.nodes[had:]:
            chosen = node.id != ROOT and not node.step.given
            self._eta2.append(step_confidence(node.step.logprobs, self.options.confidence) if chosen else math.nan)
        self._nodes = n

    def _score(self, tree: ReasoningTree, nodes: Iterable[int]) -> None:
        """Computes value and IB-Score of the nodes, children before parents, as `score_tree` defines them."""
        o, known, eta2, p_hat, density = self.options, self._known, self._eta2, self._p_hat, self._density
        offset = 1 + 1 / o.ib_beta
        for i in nodes:
            if not known[i]:
                continue
            if o.value == "leaves":
                p_hat[i] = float(self._sums[i]) / known[i]
            else:
                children = [tree.nodes[c] for c in tree.nodes[i].children if known[c]]
                own = self._own.get(i, [])
                total = sum(c.draws for c in children) + len(own)
                p_hat[i] = math.fsum([c.draws * p_hat[c.id] for c in children] + own) / total
            a = o.ratio_prior
            density[i] = (p_hat[i] * known[i] + a) / (known[i] + 2 * a) if a else p_hat[i]
            parent = density[i]
            terms, draws = [], 0
            for c in sampled_children(tree, i):
                if known[c]:
                    weight = tree.nodes[c].draws if o.weight == "draws" else 1
                    ratio = density[c] / parent if parent > NO_VALUE else 1.0
                    terms.append(weight * (ratio - offset) * eta2[c])
                    draws += weight
            # A node that has had a score has none any more once a given step follows it.
            self._room[i] = (1 + o.ib_beta) / draws * math.fsum(terms) if draws else math.nan


# What was computed for each tree; an entry goes when its tree does.
_RUNNING: WeakKeyDictionary[ReasoningTree, RunningScores] = WeakKeyDictionary()


def running_ib_scores(tree: ReasoningTree, options: ScoreOptions) -> np.ndarray:
    """The IB-Scores of a tree, computed only where it has grown since the last call with the same options.

    tree: the tree; what was computed for it is kept as long as it lives.
    options: how it is scored. Other options than in the last call make everything be computed anew.

    Returns (N,) scores, NaN where they are not defined.
    """
    scores = _RUNNING.get(tree)
    if scores is None or scores.options != options:
        scores = _RUNNING[tree] = RunningScores(options)
    scores.refresh(tree)
    return scores.ib_score
