"""p-hat, η1, η2 and the IB-Score of every node of a tree (spec sections 2 and 3).

The Information Bottleneck objective of a chain, J = (β+1)·H(τ|q) − β·H(τ|a*,q), becomes per step, with Tsallis
entropy of order 2 and a node's sampled children as Monte Carlo draws,

    IB-Score(s) = (1+β)/B · Σ_b η1(s_b)·η2(s_b)
    η1(s_b) = p̂(a*|s_b)/p̂(a*|s) − (1 + 1/β)     information gained from the environment
    η2(s_b) = π(s_b)                               the model's confidence in that branch

Everything is NaN where it is not defined (η of the root, the score of a node without children, p̂ of a node under
which no reward is known): "none" is not zero.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ._options import OPTIONS, option
from .errors import ConfigError, unknown
from .tree import ROOT, ReasoningTree

NO_VALUE = 1e-12  # a parent's value at or below this carries no information: the ratio is 1

LARGEST = 1e15  # of a weight: beyond it scores overflow or lose all their digits


@dataclass(frozen=True, slots=True)
class ScoreOptions:
    """What the paper leaves open, and β.

    ib_beta: β > 0 of the Information Bottleneck (paper: 5).
    value: "leaves", the share of correct leaves under a node (the paper's reward density), or "draws", the mean over
        children weighted by their draws, which a much-branched subtree does not dominate.
    confidence: π of a step from its tokens' log-probs: "geomean" exp(mean), "joint" exp(sum), "head:k" exp(sum of the
        first k).
    weight: "draws", a child counts as often as it was drawn, or "unique", once.
    ratio_prior: a ≥ 0 smooths the p̂ inside the ratio as (k+a)/(n+2a) with k = p̂·n of n leaves; 0 is off.
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
    """Arrays over the N nodes of one tree, NaN where not defined.

    p_hat: (N,) value. leaf_count: (N,) leaves with a known reward under the node. eta1, eta2, ib_score: (N,).
    ratio: (N,) p̂(node)/p̂(parent) under the 0/0 rule.
    """

    p_hat: np.ndarray
    leaf_count: np.ndarray
    ratio: np.ndarray
    eta1: np.ndarray
    eta2: np.ndarray
    ib_score: np.ndarray


def step_confidence(logprobs: Sequence[float], kind: str) -> float:
    """π of a step from its tokens' (T,) log-probabilities; see `ScoreOptions.confidence`."""
    if kind == "geomean":
        return math.exp(math.fsum(logprobs) / len(logprobs))
    if kind == "joint":
        return math.exp(math.fsum(logprobs))
    name, _, k = kind.partition(":")
    if name == "head" and k.isdecimal() and int(k[:9]) > 0 and len(k) <= 9:
        return math.exp(math.fsum(logprobs[: int(k)]))
    raise unknown("confidence", kind, ("geomean", "joint", "head:k"))


def values(tree: ReasoningTree, value: str = "leaves") -> tuple[np.ndarray, np.ndarray]:
    """(N,) p̂(a*|s) and (N,) number of leaves with a known reward under s.

    Sums are exactly rounded, so that the order of siblings cannot change a result.
    """
    n = len(tree.nodes)
    rewards: list[list[float]] = [[] for _ in range(n)]  # of all leaves under the node
    own: list[list[float]] = [[] for _ in range(n)]  # of the leaves that end at the node
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
    for i in range(n - 1, -1, -1):  # a parent's id is below its children's
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
    """All scores of a tree. Time and memory are linear in nodes plus leaves times depth."""
    options = options or ScoreOptions()
    n = len(tree.nodes)
    p_hat, count = values(tree, options.value)
    a, beta = options.ratio_prior, options.ib_beta
    density = (p_hat * count + a) / (count + 2 * a) if a else p_hat
    ratio, eta2, ib_score = np.full(n, math.nan), np.full(n, math.nan), np.full(n, math.nan)
    for node in tree.nodes[1:]:
        eta2[node.id] = step_confidence(node.step.logprobs, options.confidence)
        if count[node.id]:
            parent = density[node.parent]
            ratio[node.id] = density[node.id] / parent if parent > NO_VALUE else 1.0
    eta1 = ratio - (1 + 1 / beta)
    for node in tree.nodes:
        terms, draws = [], 0
        for c in node.children:
            if count[c]:
                weight = tree.nodes[c].draws if options.weight == "draws" else 1
                terms.append(weight * eta1[c] * eta2[c])
                draws += weight
        if draws:
            ib_score[node.id] = (1 + beta) / draws * math.fsum(terms)
    return Scores(p_hat, count, ratio, eta1, eta2, ib_score)


def tree_ib_score(scores: Scores) -> float:
    """Mean IB-Score over the nodes with children; NaN if there is none."""
    known = scores.ib_score[~np.isnan(scores.ib_score)]
    return float(math.fsum(known) / len(known)) if len(known) else math.nan


def eta_covariance(tree: ReasoningTree, scores: Scores) -> float:
    """Cov(η1, η2) over siblings: positive when the model's confidence lies where the information is.

    For each node from which at least two draws are known: the draws-weighted population covariance over its children.
    The mean over such nodes; NaN if there is none.
    """
    covariances = []
    for node in tree.nodes:
        children = [c for c in node.children if scores.leaf_count[c]]
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
    """Whether a group's rewards differ, so that it carries a signal; a spread below 1e-9 is float residue."""
    return len(rewards) > 1 and max(rewards) - min(rewards) > 1e-9
