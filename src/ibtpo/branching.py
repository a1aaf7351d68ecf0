"""Branching rules: where the next rollouts of a tree start (spec section 4, baselines of section 7).

A rule is a function `(tree, k, options, seed) -> list[BranchPoint]`: at most k different places, best first. Rules see
the tree alone; ties are broken by a hash of the place's tokens, so that the order of siblings cannot matter.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ._seeds import stable_hash
from .incremental import running_ib_scores
from .score import ScoreOptions
from .tree import ROOT, ReasoningTree


@dataclass(frozen=True, slots=True)
class BranchPoint:
    """A place to branch: right after `node`'s step, or before its token `offset` (0 < offset) when that is given.

    score: what the rule saw there, or None.
    """

    node: int
    offset: int | None = None
    score: float | None = None


BranchingRule = Callable[[ReasoningTree, int, ScoreOptions, int], list[BranchPoint]]


def _tie(tree: ReasoningTree, node: int, seed: int) -> int:
    return stable_hash(seed, tree.id, tuple(tree.prefix_ids(node)[len(tree.prompt_ids) :]))


def _top(
    tree: ReasoningTree, nodes: Sequence[int] | np.ndarray, score: Sequence[float] | np.ndarray, k: int, seed: int
) -> list[BranchPoint]:
    """The k nodes of highest score; scores equal to ten digits are ties."""
    values = np.asarray(score, dtype=float)
    k = min(k, len(values))
    least = values.max() if k == 1 else np.partition(values, -k)[-k]
    # Round and hash only what may be chosen.
    best = np.flatnonzero(values >= least - 1e-9 * abs(least)).tolist()
    ranked = sorted(best, key=lambda i: (-float(f"{values[i]:.10g}"), _tie(tree, int(nodes[i]), seed)))
    return [BranchPoint(int(nodes[i]), None, float(values[i])) for i in ranked[:k]]


def independent(tree: ReasoningTree, k: int, options: ScoreOptions, seed: int) -> list[BranchPoint]:
    """Always the root: independent answers, as in GRPO."""
    return [BranchPoint(ROOT)]


def random(tree: ReasoningTree, k: int, options: ScoreOptions, seed: int) -> list[BranchPoint]:
    """Nodes with children (the root among them), uniformly at random."""
    nodes = tree.branchable() or [ROOT]  # all answers so far may be empty
    ranked = sorted(nodes, key=lambda n: stable_hash(seed, tree.id, len(tree.leaves), _tie(tree, n, seed)))
    return [BranchPoint(n) for n in ranked[:k]]


def fixed_width(tree: ReasoningTree, k: int, options: ScoreOptions, seed: int) -> list[BranchPoint]:
    """TreePO (arXiv 2508.17445): every active path forks in two at each depth until the tree is wide enough.

    Sampling segment by segment and forking at a boundary gives the same distribution as sampling on and branching at
    that boundary later, so the rule picks the shallowest steps that were continued only once; when all were continued
    twice, TreePO's fallback: a step at random. TreePO's segments are of fixed length: use splitter "tokens:512".
    """
    nodes = [n for n in tree.branchable() if n != ROOT]
    continued = {n: sum(tree.nodes[c].draws for c in tree.nodes[n].children) for n in nodes}
    single = [n for n in nodes if continued[n] < 2]
    if not single:
        return random(tree, k, options, seed)
    return _top(tree, single, [-float(len(tree.path(n))) for n in single], k, seed)


def entropy(tree: ReasoningTree, k: int, options: ScoreOptions, seed: int) -> list[BranchPoint]:
    """EPTree of TreeRL (arXiv 2506.11902): resample the tokens the model was most surprised by, −log π(token).

    Token positions, not step ends: the chosen token is left out of the prefix and drawn again. A place where the tree
    already branches is not chosen again; each node gives its best position, so k places lie in k nodes.
    """
    nodes, offsets, surprisal = [], {}, []
    for node in tree.nodes[1:]:
        after = tree.nodes[node.children[0]].step.logprobs[:1] if len(node.children) == 1 else ()
        candidates = [*node.step.logprobs, *after][1:]  # the node's own first token belongs to its parent's places
        if candidates:
            offsets[node.id] = 1 + candidates.index(min(candidates))
            nodes.append(node.id)
            surprisal.append(-min(candidates))
    if not nodes:
        return random(tree, k, options, seed)
    top = _top(tree, nodes, surprisal, k, seed)
    sizes = [len(tree.nodes[p.node].step.token_ids) for p in top]
    return [
        BranchPoint(p.node, offsets[p.node] if offsets[p.node] < size else None, p.score)
        for p, size in zip(top, sizes, strict=True)
    ]


def ib(tree: ReasoningTree, k: int, options: ScoreOptions, seed: int) -> list[BranchPoint]:
    """IBTree: the nodes with children, the root among them, that have the highest IB-Score."""
    ib_score = running_ib_scores(tree, options)
    nodes = np.flatnonzero(~np.isnan(ib_score))
    if not len(nodes):  # every verifier failed so far: nothing to rank by
        return random(tree, k, options, seed)
    return _top(tree, nodes, ib_score[nodes], k, seed)


BRANCHING: dict[str, BranchingRule] = {
    "entropy": entropy,
    "fixed_width": fixed_width,
    "ib": ib,
    "independent": independent,
    "random": random,
}
