"""The numbers that show whether exploration and exploitation are in balance (spec section 8).

`tree_record` measures one tree; `summarise` turns the records of a batch (of all processes) into the logged metrics.
Groups are judged on raw correctness, never on a shaped reward. docs/metrics.md says how to read each number.
"""

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ._text import cell, table, visible
from .credit import CreditOptions, a_gl, a_ib, leaf_rewards, node_advantage, plain_advantages
from .score import ScoreOptions, Scores, effective, eta_covariance, score_tree, tree_ib_score
from .tree import ROOT, ReasoningTree

Record = dict[str, float]

COLUMNS = ("p_hat", "eta1", "eta2", "ib_score", "a_gl", "a_ib", "advantage")  # of a node


def correctness(tree: ReasoningTree) -> list[float]:
    """The known raw correctness of the leaves, see `tree.Leaf.correct`; leaves without one are left out."""
    return [float(c) for c in tree.correct if c is not None]


def rescued(tree: ReasoningTree) -> bool:
    """Whether the first rollouts were all right or all wrong and a branch made the group differ: a signal bought."""
    first = [float(c) for c, r in zip(tree.correct, tree.rollouts, strict=False) if r.round == 0 and c is not None]
    return bool(first) and not effective(first) and effective(correctness(tree))


def tree_record(tree: ReasoningTree, options: ScoreOptions | None = None) -> Record:
    """Measures one tree; NaN where a number is not defined.

    branch_depth: steps from the root to where a branch started, as a share of the mean steps of an answer.
    branch_cost: tokens of a branch as a share of the mean tokens of a first rollout (paper: about 0.48).
    """
    scores = score_tree(tree, options)
    correct = correctness(tree)
    first = [r.tokens for r in tree.rollouts if r.round == 0]
    later = [r for r in tree.rollouts if r.round > 0]
    steps = _mean([len(tree.path(leaf.node)) for leaf in tree.leaves])
    lengths = [len(tree.completion_ids(i)) for i in range(len(tree.leaves))]
    entropies = [h for n in tree.nodes[1:] for h in n.step.entropies or ()]
    return {
        "eff_rate": float(effective(correct)),
        "avg_rate": _mean(correct),
        "pass_at_g": max(correct, default=math.nan),
        "rescued": float(rescued(tree)) if tree.rollouts else math.nan,  # trees from elsewhere may not say
        "uniform": float(not effective(correct)) if correct else math.nan,
        "trajectories": len(tree.leaves),
        "distinct": len({leaf.node for leaf in tree.leaves}) / len(tree.leaves) if tree.leaves else math.nan,
        "generated_tokens": tree.generated_tokens,
        "unique_ratio": tree.unique_tokens / sum(lengths) if sum(lengths) else math.nan,
        "length": _mean(lengths),
        "steps": steps,
        "branch_depth": _mean([len(tree.path(r.at)) for r in later]) / steps if later and steps else math.nan,
        "branch_cost": _mean([r.tokens for r in later]) / _mean(first) if later and sum(first) else math.nan,
        "root_branches": _mean([float(r.at == ROOT) for r in later]),
        "ib_score": tree_ib_score(scores),
        "cov_eta": eta_covariance(tree, scores),
        "entropy": _mean(entropies),
        "verifier_errors": sum(leaf.stop == "verifier_error" for leaf in tree.leaves),
        "truncated": _mean([float(leaf.stop == "length") for leaf in tree.leaves]),
    }


def summarise(records: Sequence[Record]) -> dict[str, float]:
    """Means over trees, except that trajectories, generated tokens and verifier errors are added up."""
    out: dict[str, float] = {}
    for key in records[0]:
        column = [r[key] for r in records]
        total = key in ("trajectories", "generated_tokens", "verifier_errors")
        out[key] = float(sum(column)) if total else _mean(column)
    tokens = out["generated_tokens"]
    out["trajectories_per_1k_tokens"] = 1000 * out["trajectories"] / tokens if tokens else math.nan
    return out


def _mean(values: Iterable[float]) -> float:
    known = [v for v in values if not math.isnan(v)]
    return math.fsum(known) / len(known) if known else math.nan


def tree_scores(tree: ReasoningTree, options: CreditOptions) -> dict[str, Any]:
    """Everything `ibtpo score --json` prints of one tree; None where a number is not defined.

    `effective` looks at raw correctness, `avg_reward` is the mean of the known rewards. A node's `advantage` is that of
    `options.advantage`: for "ibtpo" A_GL + λ·A_IB; for any other the mean, over the trajectories through the node, of
    what its tokens get, before `prefix_weight` and before a division by the batch's scale.
    """
    scores = score_tree(tree, options.score)
    columns: dict[str, np.ndarray] = {
        "p_hat": scores.p_hat,
        "eta1": scores.eta1,
        "eta2": scores.eta2,
        "ib_score": scores.ib_score,
        "a_gl": a_gl(tree, scores),
        "a_ib": a_ib(scores),
        "advantage": _advantage(tree, options, scores),
    }
    values = {name: [_or_none(v) for v in column.tolist()] for name, column in columns.items()}
    return {
        "id": tree.id,
        "nodes": [{"id": n.id, **{name: values[name][n.id] for name in COLUMNS}} for n in tree.nodes],
        "avg_reward": _or_none(_mean(leaf_rewards(tree).tolist())),
        "effective": effective(correctness(tree)),
        "ib_score": _or_none(tree_ib_score(scores)),
        "cov_eta": _or_none(eta_covariance(tree, scores)),
    }


def _advantage(tree: ReasoningTree, options: CreditOptions, scores: Scores) -> np.ndarray:
    """(N,) the advantage of each node as `tree_scores` describes it; NaN for the root."""
    if options.advantage == "ibtpo":
        return node_advantage(tree, options, scores)
    through: list[list[float]] = [[] for _ in tree.nodes]
    for leaf, path in zip(tree.leaves, plain_advantages(tree, options), strict=True):
        for node, value in zip(tree.path(leaf.node), path.tolist(), strict=True):
            through[node].append(value)
    return np.array([_mean(values) for values in through])


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None


def readable(tree: ReasoningTree, record: dict[str, Any]) -> str:
    """A tree as a table, a step under the one it follows."""
    rows, texts, stack = [], [], [(ROOT, 0)]
    while stack:  # depth first, so that a step stands under the one it follows
        node, depth = stack.pop()
        stack += [(child, depth + 1) for child in reversed(tree.nodes[node].children)]
        scores = record["nodes"][node]
        rows.append(["  " * depth + str(node), tree.nodes[node].draws, *(scores[c] for c in COLUMNS)])
        texts.append(visible(json.dumps(tree.nodes[node].step.text[:40], ensure_ascii=False)[1:-1]))
    header, *lines = table(rows, ["node", "draws", *COLUMNS]).split("\n")
    lines = [f"{line}  {text}" for line, text in zip(lines, texts, strict=True)]
    summary = ", ".join(f"{name} {cell(record[name])}" for name in ("avg_reward", "effective", "ib_score", "cov_eta"))
    return f"{visible(record['id'], '')}: {len(tree.leaves)} trajectories, {summary}\n" + "\n".join([header, *lines])
