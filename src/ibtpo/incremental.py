"""IB-Scores of a tree that grows: after a rollout only what its path touches is computed again (spec section 4).

`score.score_tree` is the definition; `RunningScores` gives the same numbers to the last bit for a cost of depth times
siblings in place of the whole tree's, so that a choice in a tree of 100 000 nodes costs what it costs in a small one.
"""

import math
from collections.abc import Iterable
from fractions import Fraction
from weakref import WeakKeyDictionary

import numpy as np

from .score import NO_VALUE, ScoreOptions, step_confidence
from .tree import ROOT, ReasoningTree


class RunningScores:
    """IB-Scores of one tree, brought up to date by `refresh`.

    ib_score: (N,) as in `Scores`, NaN where not defined.
    """

    def __init__(self, options: ScoreOptions) -> None:
        self.options = options
        self._cuts = 0
        self._reset()

    def _reset(self) -> None:
        self._leaves = self._nodes = 0
        self._room = np.full(64, math.nan)
        # Lists: single elements of arrays are slow to read.
        self._eta2: list[float] = []
        self._p_hat: list[float] = []
        self._density: list[float] = []
        self._sums: list[Fraction] = []  # exact: the order rewards came in cannot change a value
        self._own: dict[int, list[float]] = {}  # rewards of the leaves that end at a node
        self._known: list[int] = []  # leaves with a reward under a node

    @property
    def ib_score(self) -> np.ndarray:
        return self._room[: self._nodes]

    def refresh(self, tree: ReasoningTree) -> None:
        """Takes in the trajectories added since the last call."""
        if tree.cuts != self._cuts:  # nodes have new ids
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
        self._score(tree, sorted(touched, reverse=True))  # a parent's id is below its children's

    def _grow(self, tree: ReasoningTree) -> None:
        had, n = self._nodes, len(tree.nodes)
        if n > len(self._room):
            self._room = np.append(self._room, np.full(2 * n - len(self._room), math.nan))
        nothing = [math.nan] * (n - had)
        self._p_hat += nothing
        self._density += nothing
        self._sums += [Fraction(0)] * (n - had)
        self._known += [0] * (n - had)
        for node in tree.nodes[had:]:
            pi = math.nan if node.id == ROOT else step_confidence(node.step.logprobs, self.options.confidence)
            self._eta2.append(pi)
        self._nodes = n

    def _score(self, tree: ReasoningTree, nodes: Iterable[int]) -> None:
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
            for c in tree.nodes[i].children:
                if known[c]:
                    weight = tree.nodes[c].draws if o.weight == "draws" else 1
                    ratio = density[c] / parent if parent > NO_VALUE else 1.0
                    terms.append(weight * (ratio - offset) * eta2[c])
                    draws += weight
            if draws:
                self._room[i] = (1 + o.ib_beta) / draws * math.fsum(terms)


_RUNNING: WeakKeyDictionary[ReasoningTree, RunningScores] = WeakKeyDictionary()


def running_ib_scores(tree: ReasoningTree, options: ScoreOptions) -> np.ndarray:
    """(N,) IB-Scores of a tree; the work of earlier calls for the same tree and options is not done again."""
    scores = _RUNNING.get(tree)
    if scores is None or scores.options != options:
        scores = _RUNNING[tree] = RunningScores(options)
    scores.refresh(tree)
    return scores.ib_score
