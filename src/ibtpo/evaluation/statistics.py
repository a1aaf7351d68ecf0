"""Averages, and intervals that speak of other problems, or of other seeds and other problems, of the same kind.

All intervals are 95 % percentile bootstrap intervals, and there are three ways to resample:

- `bootstrap_interval`: the mean of one column of problems;
- `Resamples`: many columns over the same problems, from the same resamples, so that differences are paired;
- `CrossedResamples`: a table of seeds and problems, both resampled.

Legend: P problems, K draws a problem, S seeds, R resamples. NaN stands for what is not known and is left out.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import ConfigError

RESAMPLES = 2000
FULL_MARKS = 1 - 1e-6  # a grade from here on counts as solved in pass@k


def avg_at_k(grades: np.ndarray) -> np.ndarray:
    """(P,) mean of the known grades of each problem, NaN where there is none. grades: (P, K), NaN where unknown."""
    known = ~np.isnan(grades)
    with np.errstate(invalid="ignore"):
        return np.where(known, grades, 0.0).sum(axis=1) / known.sum(axis=1)


def pass_at_k(draws: np.ndarray, solved: np.ndarray, k: int) -> np.ndarray:
    """(P,) unbiased chance that one of k answers is right: 1 − C(n−c, k)/C(n, k) (Chen et al., arXiv 2107.03374).

    draws: (P,) graded answers n of each problem. solved: (P,) how many were right, c. Where n < k no unbiased estimate
    exists: k is then n. NaN where n is 0.
    """
    if k < 1:
        raise ConfigError(f"pass@k needs k >= 1, got {k}")
    n, c = np.asarray(draws, dtype=float)[:, None], np.asarray(solved, dtype=float)[:, None]
    # C(n−c, k)/C(n, k) = Π_{j<k} (n−c−j)/(n−j), without a factorial.
    j = np.arange(k, dtype=float)[None, :]
    inside = j < n
    factors = np.where(inside, np.maximum(n - c - j, 0.0) / np.where(inside, n - j, 1.0), 1.0)
    return np.where(n[:, 0] > 0, 1.0 - factors.prod(axis=1), math.nan)


def nanmean(values: np.ndarray, axis: int | None = None) -> Any:
    """The mean of what is known; NaN without a warning where nothing is."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0.0).sum(axis) / known.sum(axis)


def interval(mean: float, resampled: np.ndarray) -> dict[str, float]:
    """{"mean", "low", "high"}."""
    known = resampled[~np.isnan(resampled)]
    low, high = np.quantile(known, [0.025, 0.975]) if len(known) else (math.nan, math.nan)
    return {"mean": float(mean), "low": float(low), "high": float(high)}


def bootstrap_interval(
    values: np.ndarray,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = 0.95,
    weights: np.ndarray | None = None,
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of `values` (P,), NaNs left out; (NaN, NaN) if nothing is left.

    Problems are resampled, not draws: the interval speaks of other problems of the same kind. weights: (P,) positive,
    how much each counts in the mean; alike by default.
    """
    known = values[~np.isnan(values)]
    share = np.ones(len(known)) if weights is None else weights[~np.isnan(values)]
    if not len(known):
        return math.nan, math.nan
    rng = np.random.default_rng(seed)
    block = max(1, 4_000_000 // len(known))  # rows at once: 32 MB of indices
    draws = (rng.integers(0, len(known), (min(block, resamples - at), len(known))) for at in range(0, resamples, block))
    means = np.concatenate([(known * share)[drawn].sum(axis=1) / share[drawn].sum(axis=1) for drawn in draws])
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


@dataclass(frozen=True, slots=True)
class Measured:
    """A mean over problems and its interval; NaN where no problem defines the number."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return "-" if math.isnan(self.mean) else f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def measured_mean(values: np.ndarray) -> Measured:
    known = values[~np.isnan(values)]
    mean = math.fsum(known) / len(known) if len(known) else math.nan
    return Measured(mean, *bootstrap_interval(values))


class Resamples:
    """The bootstrap's resamples of P problems, as (R, P) counts: one matrix product gives all their sums."""

    def __init__(self, problems: int, *, seed: int = 0, resamples: int = RESAMPLES) -> None:
        rng = np.random.default_rng(seed)
        self.counts = rng.multinomial(problems, np.full(problems, 1 / problems), resamples).astype(float)

    def means(self, values: np.ndarray) -> np.ndarray:
        """Means of `values` (P, …) in each resample, (R, …), and NaNs left out; NaN where nothing is left."""
        known = ~np.isnan(values)
        with np.errstate(invalid="ignore"):
            return (self.counts @ np.where(known, values, 0.0)) / (self.counts @ known)


class CrossedResamples:
    """R bootstrap resamples of a (S, P) table: its seeds and its problems, each drawn with replacement.

    The two are drawn independently of each other, since every seed answers the same problems (a crossed, or pigeonhole,
    bootstrap). The answers of a cell are not drawn anew: they differ between seeds anyway. With one seed the interval
    speaks of problems only; with few seeds it is somewhat too narrow for them, as every bootstrap of few is.
    Two tables of the same shape meet the same resamples.
    """

    def __init__(self, seeds: int, problems: int, *, seed: int = 0, resamples: int = RESAMPLES) -> None:
        rng = np.random.default_rng(seed)
        self.seeds = rng.multinomial(seeds, np.full(seeds, 1 / seeds), resamples).astype(float)
        self.problems = rng.multinomial(problems, np.full(problems, 1 / problems), resamples).astype(float)

    def means(self, values: np.ndarray) -> np.ndarray:
        """(R,) means of `values` (S, P) in each resample, NaNs left out."""
        known = ~np.isnan(values)
        total = ((self.seeds @ np.where(known, values, 0.0)) * self.problems).sum(axis=1)
        with np.errstate(invalid="ignore"):
            return total / ((self.seeds @ known) * self.problems).sum(axis=1)


def grade_table(grades: Sequence[Mapping[str, float | None]], problems: Sequence[str]) -> np.ndarray:
    """(S, P) from each seed's mean grade by problem id; NaN where a problem has none."""
    return np.array([[np.nan if (g := row.get(p)) is None else g for p in problems] for row in grades], dtype=float)


def accuracy(values: np.ndarray) -> dict[str, Any]:
    """{"acc", "ci": [low, high]} of a (S, P) table: its mean, and the interval over seeds and problems."""
    return _named("acc", values)


def difference(mine: np.ndarray, theirs: np.ndarray) -> dict[str, Any]:
    """{"diff", "ci"} of two (S, P) tables, paired: the same seeds in the same order, and the same problems.

    Pairing by problem removes that problems differ in difficulty; pairing by seed, that seeds differ in the order of
    the questions.
    """
    return _named("diff", mine - theirs)


def _named(name: str, values: np.ndarray) -> dict[str, Any]:
    found = interval(nanmean(values), CrossedResamples(*values.shape).means(values))
    return {name: found["mean"], "ci": [found["low"], found["high"]]}
