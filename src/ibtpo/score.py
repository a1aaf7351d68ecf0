"""The value p̂, η1, η2 and the IB-Score of every node of a tree, as IB-TPO defines them (arXiv 2605.28109).

The Information Bottleneck objective of a chain of steps τ that answers the question q, where a* is a right answer, is
J = (β+1)·H(τ|q) − β·H(τ|a*,q). For a single step s, with the Tsallis entropy of order 2 and the B draws s_b that were
sampled right after s as Monte Carlo draws, it becomes

    IB-Score(s) = (1+β)/B · Σ_b η1(s_b)·η2(s_b)
    η1(s_b) = p̂(a*|s_b)/p̂(a*|s) − (1 + 1/β)     the information gained from the environment
    η2(s_b) = π(s_b)                               the model's confidence in that branch

The factor (1+β) is as the paper prints it; exact algebra gives β, and the ranking of nodes is the same. What else the
paper leaves open is a field of `ScoreOptions`; docs/method.md, "What the paper leaves open", lists it all.

A number that is not defined is NaN, not zero: η1 and η2 of the root and of given steps, the score of a node without
children or followed by a given step, and p̂ and η1 of a node under which no reward is known. docs/method.md,
"Observations", derives what a given step's part in the equations is: a value, and nothing else.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ._options import OPTIONS, option
from .errors import ConfigError, unknown
from .tree import ROOT, ReasoningTree

NO_VALUE = 1e-12  # the 0/0 rule: where p̂ of the parent is at most this, the ratio p̂(s)/p̂(parent) is set to 1

LARGEST = 1e15  # bounds β, λ and the prior: beyond it scores overflow or lose all their digits


@dataclass(frozen=True, slots=True)
class ScoreOptions:
    """β, and the choices that the paper leaves open (docs/method.md, "What the paper leaves open").

    ib_beta: β > 0 of the Information Bottleneck; 5 in the paper.
    value: what p̂ of a node is. "leaves" is the mean reward of the leaves under it, which for rewards of 0 and 1 is the
        share of correct ones, the paper's reward density. "draws" is the mean over its children weighted by their
        draws, so that a subtree with many branches does not dominate.
    confidence: π of a step of several tokens, from their log-probabilities: "geomean" is exp(mean), "joint" is
        exp(sum), and "head:k" is exp(sum of the first k). The joint probability vanishes on long steps.
    weight: how often a child counts among the B draws of its parent's score: "draws", as often as it was drawn, or
        "unique", once.
    ratio_prior: a ≥ 0 smooths both values of the ratio p̂(s)/p̂(parent) as (k+a)/(n+2a), where n is the number of leaves
        under the node and k = p̂·n. At 0 nothing is smoothed, and a parent with the value 0 gives the ratio 1.

    Raises `ConfigError` for a value out of range or an unknown name.
    """

    ib_beta: float = option("ib_beta")
    value: str = option("value")
    confidence: str = option("confidence")
    weight: str = option("weight")
    ratio_prior: float = option("ratio_prior")

    def __post_init__(self) -> None:
        if not (self.ib_beta > 0 and 1 / LARGEST <= self.ib_beta <= LARGEST):
            raise ConfigError(
                f"ib_beta must be > 0, got {self.ib_beta}; from {1 / LARGEST:g} to {LARGEST:g} it can be computed with"
            )
        if not 0 <= self.ratio_prior <= LARGEST:
            raise ConfigError(
                f"ratio_prior must be >= 0, got {self.ratio_prior}; 0 switches it off, {LARGEST:g} is the most"
            )
        for name in ("value", "weight"):
            if getattr(self, name) not in OPTIONS[name].choices:
                raise unknown(name, getattr(self, name), OPTIONS[name].choices)
        step_confidence((0.0,), self.confidence)


@dataclass(frozen=True, slots=True)
class Scores:
    """The scores of the N nodes of one tree, by node id; NaN where one is not defined.

    p_hat: (N,) p̂(a*|s), the value of each node.
    leaf_count: (N,) integers, how many leaves under each node have a known reward.
    ratio: (N,) p̂(a*|s)/p̂(a*|parent), smoothed where `ratio_prior` says so, and 1 where the parent's value is 0 or less.
    eta1: (N,) η1 = ratio − (1 + 1/β).
    eta2: (N,) η2 = π(s).
    ib_score: (N,) the IB-Score.
    """

    p_hat: np.ndarray
    leaf_count: np.ndarray
    ratio: np.ndarray
    eta1: np.ndarray
    eta2: np.ndarray
    ib_score: np.ndarray


def step_confidence(logprobs: Sequence[float], kind: str) -> float:
    """π(s), the probability that stands for a whole step.

    logprobs: (T,) log-probabilities of the step's tokens, at least one.
    kind: see `ScoreOptions.confidence`.

    Raises `ConfigError` for an unknown kind.
    """
    if kind == "geomean":
        return math.exp(math.fsum(logprobs) / len(logprobs))
    if kind == "joint":
        return math.exp(math.fsum(logprobs))
    name, _, k = kind.partition(":")
    if name == "head" and k.isdecimal() and int(k[:9]) > 0 and len(k) <= 9:
        return math.exp(math.fsum(logprobs[: int(k)]))
    raise unknown("confidence", kind, ("geomean", "joint", "head:k"))


def values(tree: ReasoningTree, value: str = "leaves") -> tuple[np.ndarray, np.ndarray]:
    """The values of the nodes: (N,) p̂(a*|s), NaN where no reward is known, and (N,) how many leaves under s have one.

    tree: N nodes; leaves whose reward is unknown count for nothing.
    value: "leaves" or "draws", see `ScoreOptions.value`. With "draws" an answer that ends at a node counts as one draw.

    Sums are rounded once, by `math.fsum`, so that the order of siblings cannot change a result.
    """
    n = len(tree.nodes)
    rewards: list[list[float]] = [[] for _ in range(n)]  # the rewards of all leaves under each node
    own: list[list[float]] = [[] for _ in range(n)]  # the rewards of the leaves that end at each node
    for leaf in tree.leaves:
        if leaf.reward is None:
            continue
        own[leaf.node].append(leaf.reward)
        node = leaf.node
        while node >= ROOT:
            rewards[node].append(leaf.reward)
            node = tree.nodes[node].parent
    count = np.array([len(r) for r in rewards], dtype=np.int64)
    p_hat = np.full(n, math.nan)
    for i in range(n - 1, -1, -1):  # children before parents, whose ids are lower
        if not count[i]:
            continue
        if value == "leaves":
            p_hat[i] = math.fsum(rewards[i]) / count[i]
        else:
            known = [tree.nodes[c] for c in tree.nodes[i].children if count[c]]
            total = sum(c.draws for c in known) + len(own[i])
            p_hat[i] = math.fsum([c.draws * p_hat[c.id] for c in known] + own[i]) / total
    return p_hat, count


def score_tree(tree: ReasoningTree, options: ScoreOptions | None = None) -> Scores:
    """Computes every score of a tree.

        η1(s)       = p̂(a*|s)/p̂(a*|s_parent) − (1 + 1/β)
        η2(s)       = π(s)
        IB-Score(s) = (1+β)/B · Σ_b η1(s_b)·η2(s_b)    over the B draws s_b that were sampled right after s

    A draw under which no reward is known is left out, and B counts the others.

    A node that is followed by a given step has no score: no draw of the model's stands there. The steps sampled after
    a given step are compared with it.

    tree: N nodes. Time and memory grow with N plus leaves times depth.
    options: β and the choices left open; the defaults where nothing is given.
    """
    options = options or ScoreOptions()
    n = len(tree.nodes)
    p_hat, count = values(tree, options.value)
    a, beta = options.ratio_prior, options.ib_beta
    density = (p_hat * count + a) / (count + 2 * a) if a else p_hat
    ratio, eta2, ib_score = np.full(n, math.nan), np.full(n, math.nan), np.full(n, math.nan)
    # η1 and η2 compare each step with the one before it.
    for node in tree.nodes[1:]:
        if node.step.given:
            continue
        eta2[node.id] = step_confidence(node.step.logprobs, options.confidence)
        if count[node.id]:
            parent = density[node.parent]
            ratio[node.id] = density[node.id] / parent if parent > NO_VALUE else 1.0
    eta1 = ratio - (1 + 1 / beta)
    # IB-Score(s) = (1+β)/B · Σ_b η1(s_b)·η2(s_b), over the draws under which a reward is known.
    for node in tree.nodes:
        terms, draws = [], 0
        for c in sampled_children(tree, node.id):
            if count[c]:
                weight = tree.nodes[c].draws if options.weight == "draws" else 1
                terms.append(weight * eta1[c] * eta2[c])
                draws += weight
        if draws:
            ib_score[node.id] = (1 + beta) / draws * math.fsum(terms)
    return Scores(p_hat, count, ratio, eta1, eta2, ib_score)


def sampled_children(tree: ReasoningTree, node: int) -> list[int]:
    """The ids of the steps that the model sampled right after `node`; none if a given step follows it."""
    return [] if tree.is_answered(node) else tree.nodes[node].children


def tree_ib_score(scores: Scores) -> float:
    """The mean IB-Score of the nodes that have one; NaN if there is none."""
    known = scores.ib_score[~np.isnan(scores.ib_score)]
    return float(math.fsum(known) / len(known)) if len(known) else math.nan


def eta_covariance(tree: ReasoningTree, scores: Scores) -> float:
    """Cov(η1, η2) over siblings: positive where the model is more confident in the steps that lead to right answers.

    For a node with at least two sampled draws under which a reward is known, it is the population covariance over those
    children, weighted by their draws. The result is the mean over such nodes, NaN if there is none.

    scores: the `score_tree` of the same tree.
    """
    covariances = []
    for node in tree.nodes:
        children = [c for c in sampled_children(tree, node.id) if scores.leaf_count[c]]
        draws = [tree.nodes[c].draws for c in children]
        total = sum(draws)
        if total < 2:
            continue
        mean1 = math.fsum(d * scores.eta1[c] for d, c in zip(draws, children, strict=True)) / total
        mean2 = math.fsum(d * scores.eta2[c] for d, c in zip(draws, children, strict=True)) / total
        covariances.append(
            math.fsum(
                d * (scores.eta1[c] - mean1) * (scores.eta2[c] - mean2) for d, c in zip(draws, children, strict=True)
            )
            / total
        )
    return math.fsum(covariances) / len(covariances) if covariances else math.nan


def effective(rewards: Sequence[float]) -> bool:
    """Whether the rewards of a group differ, so that an advantage has something to compare.

    rewards: the known rewards, any number. A difference of at most 1e-9 is taken for rounding.
    """
    return len(rewards) > 1 and max(rewards) - min(rewards) > 1e-9
