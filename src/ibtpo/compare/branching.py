"""Compares branching rules with each other, and with independent answers at the same number of generated tokens.

Independent answers are judged from a pool of N answers a problem. A group of g is g of them drawn at random; the chance
that such a group has a property is computed exactly, not estimated from draws. A tree is compared with the group that
its tokens buy, g = tokens of the tree / mean tokens of an answer. Between two whole numbers, g is interpolated.

Legend: P problems, N answers in a pool, R resamples. All intervals are 95 % percentile bootstrap intervals over the
problems, from the same resamples for every branching rule, so that differences are paired.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import DataError
from ..evaluation.statistics import FULL_MARKS, Resamples, interval, nanmean
from ..metrics import Record
from ..storage.shards import Shard
from ..storage.tree_file import TreeFile
from .branching_arms import GROUPS, POOL

if TYPE_CHECKING:
    from ..score import ScoreOptions
    from ..tree import ReasoningTree

# The numbers that the first table of `markdown` shows, and the titles of their columns.
SHOWN = {
    "eff_rate": "Eff-Rate", "avg_rate": "Avg-Rate", "policy_rate": "policy's own rate", "pass_at_g": "pass@G",
    "generated_tokens": "tokens", "distinct": "distinct", "branch_cost": "branch cost", "ib_score": "IB-Score",
    "cov_eta": "Cov(η1,η2)",
}  # fmt: skip


# The numbers of a tree's record that are compared; docs/metrics.md says what each means.
MEASURES = (
    "eff_rate", "avg_rate", "policy_rate", "pass_at_g", "generated_tokens", "trajectories", "distinct", "branch_cost",
    "branch_depth", "ib_score", "cov_eta", "truncated",
)  # fmt: skip


def chance_effective(rewards: Sequence[float], g: int) -> float:
    """The chance that g answers, drawn without replacement, do not all have the same reward.

    It is 1 − Σ_v C(n_v, g)/C(N, g), where n_v of the N answers have the reward v.

    rewards: of the N answers of one problem.
    g: the size of the group.

    Returns NaN if there are fewer than g answers.
    """
    if len(rewards) < g:
        return math.nan
    _, counts = np.unique(np.round(np.asarray(rewards, dtype=float), 9), return_counts=True)
    return 1.0 - sum(math.comb(int(n), g) for n in counts) / math.comb(len(rewards), g)


def chance_solved(rewards: Sequence[float], g: int) -> float:
    """pass@g, the chance that at least one of g answers, drawn without replacement, is right.

    rewards: of the N answers of one problem.
    g: the size of the group.

    Returns NaN if there are fewer than g answers.
    """
    if len(rewards) < g:
        return math.nan
    wrong = sum(r < FULL_MARKS for r in rewards)
    return 1.0 - math.comb(wrong, g) / math.comb(len(rewards), g)


@dataclass(frozen=True)
class Pool:
    """Independent answers to P problems.

    rewards: for each problem, the raw correctness of each answer that has one.
    tokens: for each problem, the number of tokens of each answer.
    """

    rewards: list[list[float]]
    tokens: list[list[int]]

    def curves(self) -> dict[str, np.ndarray]:
        """The chance that a group of 1, 2, … N answers is effective (`eff_rate`), and that it is solved (`pass_at_g`).

        Returns an array (P, N) for each of the two, NaN where a problem has fewer answers.
        """
        sizes = range(1, max(map(len, self.rewards), default=0) + 1)
        chances = {"eff_rate": chance_effective, "pass_at_g": chance_solved}
        return {
            name: np.array([[chance(rewards, g) for g in sizes] for rewards in self.rewards])
            for name, chance in chances.items()
        }

    @property
    def length(self) -> np.ndarray:
        """(P,) the mean number of tokens of an answer."""
        return np.array([sum(tokens) / len(tokens) for tokens in self.tokens])

    @property
    def success(self) -> np.ndarray:
        """(P,) the mean correctness, which is the policy's own success rate: no search has steered these answers."""
        return np.array([math.fsum(r) / len(r) if r else math.nan for r in self.rewards])


def measured(records: Sequence[Record], resamples: Resamples) -> dict[str, dict[str, float]]:
    """The mean over trees of each number in `MEASURES`, with its interval.

    records: one a tree, P of them.
    resamples: of the P problems.
    """
    columns = {name: np.array([r[name] for r in records], dtype=float) for name in MEASURES}
    return {name: interval(nanmean(c), resamples.means(c)) for name, c in columns.items()}


def at_equal_tokens(records: Sequence[Record], pool: Pool, resamples: Resamples) -> dict[str, Any]:
    """Compares trees with the independent answers that their tokens would buy.

    records: one a tree, P of them.
    pool: the independent answers to the same P problems, in the same order.
    resamples: of the P problems.

    Returns, each with its interval: `answers`, the number g of independent answers that the tokens of a tree buy;
    `trajectories`, how many times as many trajectories a tree has; and, under `eff_rate` and `pass_at_g`, what
    independent groups of g reach and how much more or less the trees do.
    Raises `DataError` if g is more than the pool holds.
    """
    tokens = np.array([r["generated_tokens"] for r in records], dtype=float)
    count = np.array([r["trajectories"] for r in records], dtype=float)
    length = pool.length
    most = min(map(len, pool.rewards))
    g = float(tokens.mean() / length.mean())
    if g > most:
        raise DataError(
            f"the trees' tokens buy {g:.1f} independent answers, but a problem's pool holds only {most}; sample a "
            "larger pool"
        )
    groups = resamples.means(tokens) / resamples.means(length)
    out: dict[str, Any] = {
        "answers": interval(g, groups),
        "trajectories": interval(count.mean() / g, resamples.means(count) / groups),
    }
    for name, curve in pool.curves().items():
        mine = np.array([r[name] for r in records], dtype=float)
        theirs = _at(nanmean(curve, 0)[None], np.array([g]))[0]
        theirs_resampled = _at(resamples.means(curve), groups)
        out[name] = {
            "independent": interval(theirs, theirs_resampled),
            "difference": interval(nanmean(mine) - theirs, resamples.means(mine) - theirs_resampled),
        }
    return out


def _at(curves: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Reads each curve at a group size of its own, interpolating linearly between whole numbers.

    curves: (R, N) values at the group sizes 1 … N.
    groups: (R,) group sizes.

    Returns (R,) values.
    """
    most = curves.shape[1]
    groups = np.clip(groups, 1, most)
    low = groups.astype(int)
    rows, share = np.arange(len(curves)), groups - low
    return (1 - share) * curves[rows, low - 1] + share * curves[rows, np.minimum(low, most - 1)]


def store_of(folder: Path, arm: str, shard: Shard | None = None) -> TreeFile:
    """The file of an arm's trees in the folder of a comparison, or of a shard of them."""
    name = "".join(c if c.isalnum() or c in "._" else "-" for c in arm)
    file = folder / "trees" / f"{name}.jsonl.gz"
    return TreeFile(file if shard is None else shard.file(file))


def first_answers(tree: "ReasoningTree", g: int) -> "ReasoningTree":
    """The tree of only the first g answers of a tree of independent answers."""
    from ..tree import ROOT, ReasoningTree

    group = ReasoningTree(tree.id, tree.prompt_ids, tree.prompt, tree.answer)
    for leaf in tree.leaves[:g]:
        steps = [tree.nodes[n].step for n in tree.path(leaf.node)]
        group.add(ROOT, steps, leaf.reward, leaf.stop, correct=leaf.correct)
    return group


def read_pool(path: Path, score: "ScoreOptions") -> "tuple[Pool, dict[int, list[Record]]]":
    """Reads the trees of independent answers.

    path: their file.
    score: the options that they are scored with.

    Returns the pool, and for each group size g in `GROUPS` the records of the first g answers of each problem.
    """
    from ..metrics import correctness, tree_record
    from ..tree import read_trees

    pool, records = Pool([], []), {g: [] for g in GROUPS}  # type: ignore[var-annotated]
    for tree in read_trees(path):
        pool.rewards.append(correctness(tree))
        pool.tokens.append([r.tokens for r in tree.rollouts])
        for g in GROUPS:
            records[g].append(tree_record(first_answers(tree, g), score))
    return pool, records


def branching_summary(folder: Path, arms: Sequence[str], score: "ScoreOptions", *, seed: int = 0) -> dict[str, Any]:
    """Measures the stored trees of a comparison.

    folder: the comparison's folder.
    arms: the arms to measure besides the pool of independent answers.
    score: the options that all trees are scored with.
    seed: of the bootstrap.

    Returns, each with its interval, the policy's own `success` rate, the mean `answer_tokens`, and the numbers of each
    of the `arms`; and how many `problems` there are.
    """
    from ..evaluation.statistics import Resamples, interval, nanmean
    from ..metrics import tree_record
    from ..tree import read_trees

    pool, first = read_pool(store_of(folder, POOL).path, score)
    resamples: Resamples = Resamples(len(pool.rewards), seed=seed)
    rows: dict[str, Any] = {}
    for g in GROUPS:
        row = measured(first[g], resamples)
        # Of these numbers the whole pool gives the expectation for a group of g, which is more exact than what its
        # first g answers show.
        better = {name: curve[:, g - 1] for name, curve in pool.curves().items()}
        better |= {"avg_rate": pool.success, "policy_rate": pool.success, "generated_tokens": g * pool.length}
        row |= {name: interval(nanmean(v), resamples.means(v)) for name, v in better.items()}
        rows[f"{POOL} G={g}"] = row
    for arm in arms:
        records = [tree_record(tree, score) for tree in read_trees(store_of(folder, arm).path)]
        rows[arm] = {**measured(records, resamples), "equal_tokens": at_equal_tokens(records, pool, resamples)}
    return {
        "problems": len(pool.rewards),
        "success": interval(nanmean(pool.success), resamples.means(pool.success)),
        "answer_tokens": interval(nanmean(pool.length), resamples.means(pool.length)),
        "arms": rows,
    }


def markdown(summary: dict[str, Any]) -> str:
    """The content of table.md: one table of all arms, and one of the arms against independent answers at equal tokens.

    summary: what `branching_summary` returns.
    """
    rates = ("eff_rate", "avg_rate", "policy_rate", "pass_at_g")

    def cell(value: dict[str, float], digits: int, scale: float = 1.0) -> str:
        if math.isnan(value["mean"]):
            return "–"
        mean, low, high = (f"{scale * value[k]:.{digits}f}" for k in ("mean", "low", "high"))
        return f"{mean} [{low}, {high}]"

    def number(name: str, row: dict[str, Any]) -> str:
        if name in rates:
            return cell(row[name], 1, 100)
        return cell(row[name], 0 if name == "generated_tokens" else 3)

    success = cell(summary["success"], 1, 100)
    lines = [
        f"{summary['problems']} problems. The policy's own success rate is {success} %: Avg-Rate over a tree's leaves "
        "is biased by where the search branched; the policy's own rate is that of the first answers alone. Rates and "
        "pass@G in percent; 95 % bootstrap intervals over problems.",
        "",
        f"| arm | {' | '.join(SHOWN.values())} |",
        f"| --- |{' --- |' * len(SHOWN)}",
    ]
    for arm, row in summary["arms"].items():
        lines.append(f"| {arm} | {' | '.join(number(name, row) for name in SHOWN)} |")
    lines += [
        "",
        "Against independent answers that cost the same tokens:",
        "",
        "| arm | independent answers for its tokens | trajectories, times as many | Eff-Rate, difference in points | "
        "pass@G, difference in points |",
        "| --- | --- | --- | --- | --- |",
    ]
    for arm, row in summary["arms"].items():
        equal = row.get("equal_tokens")
        if equal:
            differences = " | ".join(cell(equal[name]["difference"], 1, 100) for name in ("eff_rate", "pass_at_g"))
            lines.append(f"| {arm} | {cell(equal['answers'], 2)} | {cell(equal['trajectories'], 2)} | {differences} |")
    return "\n".join(lines)
