"""The numbers that show whether exploration and exploitation are in balance, from Eff-Rate to Cov(η1, η2).

`tree_record` measures one tree; `summarise` turns the records of a batch, over all processes, into the logged metrics.
`tree_scores` and `readable` show a single tree node by node. Whether a group carries a signal is judged on raw
correctness, never on a shaped reward. The rates and the covariance are those of the paper (arXiv 2605.28109);
docs/metrics.md says how to read each number.
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

COLUMNS = ("p_hat", "eta1", "eta2", "ib_score", "a_gl", "a_ib", "advantage")  # what `tree_scores` gives of each node
TOTALS = (
    "trajectories",
    "generated_tokens",
    "given_tokens",
    "verifier_errors",
)  # of a record: added up over trees, not averaged


def correctness(tree: ReasoningTree) -> list[float]:
    """The raw correctness of the leaves for which it is known, see `tree.Leaf.correct`: at most L numbers."""
    return [float(c) for c in tree.correct if c is not None]


def rescued(tree: ReasoningTree) -> bool:
    """Whether branching gave the tree a signal that it had not: the first B0 rollouts were alike, and the whole is not.

    Alike means that they were all right or all wrong.
    """
    first = _first_correctness(tree)
    return bool(first) and not effective(first) and effective(correctness(tree))


def _first_correctness(tree: ReasoningTree) -> list[float]:
    """The known raw correctness of the first B0 rollouts; empty for a tree that does not say how it grew."""
    return [float(c) for c, r in zip(tree.correct, tree.rollouts, strict=False) if r.round == 0 and c is not None]


def policy_rate(tree: ReasoningTree) -> float:
    """The policy's own success rate, as far as one tree tells: the mean raw correctness of its independent rollouts.

    These are the first B0, all from the root: later ones start where the search chose, so that all leaves together are
    no fair sample of the policy. With the branching rule "independent" all rollouts are.

    Returns NaN if the correctness of none is known, and for a tree that does not say how it grew.
    """
    search = tree.meta.get("search")
    if tree.rollouts and isinstance(search, dict) and search.get("branching") == "independent":
        return _mean(correctness(tree))
    return _mean(_first_correctness(tree))


def single_steps(tree: ReasoningTree) -> int:
    """How many answers have at most one sampled step, so that a branch can only start anew at the root."""
    return sum(len(tree.sampled_path(leaf.node)) < 2 for leaf in tree.leaves)


def single_step_warning(single: int, answers: int, splitter: str) -> str | None:
    """What to tell the user whose trees can hardly branch; None where most answers have more than one step.

    single: the `single_steps` of all trees.
    answers: the number of answers of all trees.
    splitter: what ended steps.
    """
    if 2 * single <= answers:
        return None
    return (
        f"{single} of {answers} answers are a single step, so their trees branch at the root only, as independent "
        f"answers do: splitter={splitter!r} finds no place inside them. Choose another splitter=, such as 'sentence', "
        f"'delimiter:\\n' or 'tokens:64', or ask for steps with blank lines between them in the prompt"
    )


def tree_record(tree: ReasoningTree, options: ScoreOptions | None = None) -> Record:
    """Measures one tree. docs/metrics.md lists every number that is returned; it is NaN where it is not defined.

    Steps, depths, lengths and tokens are those that the model sampled; `given_tokens` counts the others.

    options: how the tree is scored, for `ib_score` and `cov_eta`.

    Two numbers are shares of a mean: `branch_depth` is how many steps lie before a branch, of the steps of an answer,
    and `branch_cost` is how many tokens a branch has, of the tokens of a first rollout (about 0.48 in the paper).
    """
    scores = score_tree(tree, options)
    correct = correctness(tree)
    first = [r.tokens for r in tree.rollouts if r.round == 0]
    later = [r for r in tree.rollouts if r.round > 0]
    steps = _mean([len(tree.sampled_path(leaf.node)) for leaf in tree.leaves])
    lengths = [tree.sampled_length(leaf.node) for leaf in tree.leaves]
    entropies = [h for n in tree.nodes[1:] for h in n.step.entropies or ()]
    return {
        "eff_rate": float(effective(correct)),
        "avg_rate": _mean(correct),
        "policy_rate": policy_rate(tree),
        "pass_at_g": max(correct, default=math.nan),
        "rescued": float(rescued(tree)) if tree.rollouts else math.nan,  # trees from elsewhere may not say
        "uniform": float(not effective(correct)) if correct else math.nan,
        "trajectories": len(tree.leaves),
        "distinct": len({leaf.node for leaf in tree.leaves}) / len(tree.leaves) if tree.leaves else math.nan,
        "generated_tokens": tree.generated_tokens,
        "given_tokens": tree.given_tokens,
        "unique_ratio": tree.unique_tokens / sum(lengths) if sum(lengths) else math.nan,
        "length": _mean(lengths),
        "steps": steps,
        "branch_depth": _mean([len(tree.sampled_path(r.at)) for r in later]) / steps if later and steps else math.nan,
        "branch_cost": _mean([r.tokens for r in later]) / _mean(first) if later and sum(first) else math.nan,
        "root_branches": _mean([float(r.at == ROOT) for r in later]),
        "ib_score": tree_ib_score(scores),
        "cov_eta": eta_covariance(tree, scores),
        "entropy": _mean(entropies),
        "verifier_errors": sum(leaf.stop == "verifier_error" for leaf in tree.leaves),
        "truncated": _mean([float(leaf.stop == "length") for leaf in tree.leaves]),
    }


def summarise(records: Sequence[Record]) -> dict[str, float]:
    """The logged metrics of a batch: means over its trees, where trees without the number (NaN) are left out.

    `TOTALS` are added up instead: trajectories, generated and given tokens, and verifier errors.

    records: the `tree_record` of each tree, at least one.
    """
    out: dict[str, float] = {}
    for key in records[0]:
        column = [r[key] for r in records]
        out[key] = float(sum(column)) if key in TOTALS else _mean(column)
    tokens = out["generated_tokens"]
    out["trajectories_per_1k_tokens"] = 1000 * out["trajectories"] / tokens if tokens else math.nan
    return out


def _mean(values: Iterable[float]) -> float:
    """The mean of the values that are not NaN; NaN if there is none."""
    known = [v for v in values if not math.isnan(v)]
    return math.fsum(known) / len(known) if known else math.nan


def tree_scores(tree: ReasoningTree, options: CreditOptions) -> dict[str, Any]:
    """Everything that `ibtpo score --json` prints of one tree, as JSON values; None where a number is not defined.

    options: the advantage, and how the tree is scored.

    In the result, `nodes` holds the `COLUMNS` of each node, and `given`, which is true, of a given step. `effective`
    says whether raw correctness differs between the leaves, `avg_reward` is the mean of the known rewards, and
    `policy_rate` is what the function of that name says.
    The `advantage` of a node is A_GL + λ·A_IB for "ibtpo". For any other it is the mean, over the trajectories through
    the node, of what its tokens get there, before `prefix_weight` and before a division by the batch's scale.
    """
    scores = score_tree(tree, options.score)
    columns: dict[str, np.ndarray] = {
        "p_hat": scores.p_hat,
        "eta1": scores.eta1,
        "eta2": scores.eta2,
        "ib_score": scores.ib_score,
        "a_gl": a_gl(tree, scores, options.divisor),
        "a_ib": a_ib(scores),
        "advantage": _advantage(tree, options, scores),
    }
    values = {name: [_or_none(v) for v in column.tolist()] for name, column in columns.items()}
    return {
        "id": tree.id,
        "nodes": [
            {"id": n.id, **{name: values[name][n.id] for name in COLUMNS}, **({"given": True} if n.step.given else {})}
            for n in tree.nodes
        ],
        "avg_reward": _or_none(_mean(leaf_rewards(tree).tolist())),
        "policy_rate": _or_none(policy_rate(tree)),
        "effective": effective(correctness(tree)),
        "ib_score": _or_none(tree_ib_score(scores)),
        "cov_eta": _or_none(eta_covariance(tree, scores)),
    }


def _advantage(tree: ReasoningTree, options: CreditOptions, scores: Scores) -> np.ndarray:
    """The (N,) advantages of the nodes as `tree_scores` describes them; NaN for the root and for given steps."""
    if options.advantage == "ibtpo":
        return node_advantage(tree, options, scores)
    through: list[list[float]] = [[] for _ in tree.nodes]
    for leaf, path in zip(tree.leaves, plain_advantages(tree, options), strict=True):
        for node, value in zip(tree.path(leaf.node), path.tolist(), strict=True):
            if not tree.nodes[node].step.given:
                through[node].append(value)
    return np.array([_mean(values) for values in through])


def _or_none(value: float) -> float | None:
    """`value`, or None for NaN and infinity, which JSON cannot hold."""
    return value if math.isfinite(value) else None


def readable(tree: ReasoningTree, record: dict[str, Any]) -> str:
    """A tree as a table for the terminal: a row for each node, indented under the step that it follows.

    The text of a given step stands after "given:".

    record: the `tree_scores` of the tree.
    """
    rows, texts, stack = [], [], [(ROOT, 0)]
    while stack:  # depth first, so that the steps of an answer stand below each other
        node, depth = stack.pop()
        stack += [(child, depth + 1) for child in reversed(tree.nodes[node].children)]
        scores = record["nodes"][node]
        rows.append(["  " * depth + str(node), tree.nodes[node].draws, *(scores[c] for c in COLUMNS)])
        step = tree.nodes[node].step
        texts.append(("given: " if step.given else "") + visible(json.dumps(step.text[:40], ensure_ascii=False)[1:-1]))
    header, *lines = table(rows, ["node", "draws", *COLUMNS]).split("\n")
    lines = [f"{line}  {text}" for line, text in zip(lines, texts, strict=True)]
    names = ("avg_reward", "policy_rate", "effective", "ib_score", "cov_eta")
    summary = ", ".join(f"{name} {cell(record[name])}" for name in names)
    return f"{visible(record['id'], '')}: {len(tree.leaves)} trajectories, {summary}\n" + "\n".join([header, *lines])
