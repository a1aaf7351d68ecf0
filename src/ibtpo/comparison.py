"""Ways to sample a group side by side: at the same number of answers, and at the same number of tokens.

Independent answers are judged from a pool of N a problem: a group of g is g of them drawn at random, and its chances
are computed, not sampled. A tree is compared with the group its tokens buy, g = tree tokens / tokens of an answer,
between two whole numbers by interpolation.

Legend: P problems, N answers in a pool. Intervals are 95 % percentile bootstrap intervals over the problems, the same
resamples for every way, so that differences are paired.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .errors import DataError
from .evaluation.statistics import FULL_MARKS, Resamples, interval, nanmean
from .metrics import Record

MEASURES = (
    "eff_rate", "avg_rate", "pass_at_g", "generated_tokens", "trajectories", "distinct", "branch_cost", "branch_depth",
    "ib_score", "cov_eta", "truncated",
)  # fmt: skip


def chance_effective(rewards: Sequence[float], g: int) -> float:
    """The chance that g of the answers, drawn without replacement, do not all have the same reward.

    NaN where there are fewer than g answers. 1 − Σ_v C(n_v, g)/C(N, g) over the distinct rewards v.
    """
    if len(rewards) < g:
        return math.nan
    _, counts = np.unique(np.round(np.asarray(rewards, dtype=float), 9), return_counts=True)
    return 1.0 - sum(math.comb(int(n), g) for n in counts) / math.comb(len(rewards), g)


def chance_solved(rewards: Sequence[float], g: int) -> float:
    """pass@g: the chance that one of g answers drawn without replacement is right; NaN with fewer than g."""
    if len(rewards) < g:
        return math.nan
    wrong = sum(r < FULL_MARKS for r in rewards)
    return 1.0 - math.comb(wrong, g) / math.comb(len(rewards), g)


@dataclass(frozen=True)
class Pool:
    """Independent answers. rewards, tokens: of each answer, a list a problem."""

    rewards: list[list[float]]
    tokens: list[list[int]]

    def curves(self) -> dict[str, np.ndarray]:
        """(P, N) chance of an effective and of a solved group of 1 … N answers; NaN beyond a problem's own."""
        sizes = range(1, max(map(len, self.rewards), default=0) + 1)
        chances = {"eff_rate": chance_effective, "pass_at_g": chance_solved}
        return {
            name: np.array([[chance(rewards, g) for g in sizes] for rewards in self.rewards])
            for name, chance in chances.items()
        }

    @property
    def length(self) -> np.ndarray:
        """(P,) mean tokens of an answer."""
        return np.array([sum(tokens) / len(tokens) for tokens in self.tokens])

    @property
    def success(self) -> np.ndarray:
        """(P,) mean reward: the policy's own success rate, which no search has steered."""
        return np.array([math.fsum(r) / len(r) if r else math.nan for r in self.rewards])


def measured(records: Sequence[Record], resamples: Resamples) -> dict[str, dict[str, float]]:
    """Every number of `MEASURES` of (P,) trees with its interval."""
    columns = {name: np.array([r[name] for r in records], dtype=float) for name in MEASURES}
    return {name: interval(nanmean(c), resamples.means(c)) for name, c in columns.items()}


def at_equal_tokens(records: Sequence[Record], pool: Pool, resamples: Resamples) -> dict[str, Any]:
    """(P,) trees against the independent answers that the same tokens buy, on the same problems.

    answers: g. trajectories: how many times as many the trees hold. For Eff-Rate and pass@G: what independent groups
    of g reach, and the trees' difference to it.
    Raises `DataError` when g is more than the pool holds.
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
    """(R,) values of (R, N) curves over 1 … N at `groups` (R,), linear between whole numbers."""
    most = curves.shape[1]
    groups = np.clip(groups, 1, most)
    low = groups.astype(int)
    rows, share = np.arange(len(curves)), groups - low
    return (1 - share) * curves[rows, low - 1] + share * curves[rows, np.minimum(low, most - 1)]
