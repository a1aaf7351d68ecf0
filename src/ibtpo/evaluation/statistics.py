"""Averages over problems, and intervals around them.

An interval says how much an average would differ on other problems of the same kind, or with other seeds as well, at
95 % unless said otherwise. Over many problems it is a percentile bootstrap: the problems are drawn anew with
replacement, many times, and the interval holds the middle 95 % of the averages. Over seeds, of which there are few, a
bootstrap is too narrow (of three seeds it holds the truth in 8 cases of 10), and Student's t takes its place.

- `bootstrap_interval`: for the mean of one column of problems;
- `Resamples`: for many columns over the same problems, all with the same draws, so that differences are paired;
- `crossed_interval`: for a table of seeds and problems, both of which are drawn.

Legend: P problems, K draws a problem, S seeds, R resamples. NaN stands for what is not known and is left out.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import ConfigError

RESAMPLES = 2000  # how often the problems are drawn anew
FULL_MARKS = 1 - 1e-6  # a grade that reaches this counts as solved in pass@k


def avg_at_k(grades: np.ndarray) -> np.ndarray:
    """avg@k: the mean grade of each problem.

    grades: (P, K) NaN where unknown.

    Returns (P,) means of the known grades, NaN for a problem that has none.
    """
    known = ~np.isnan(grades)
    with np.errstate(invalid="ignore"):
        return np.where(known, grades, 0.0).sum(axis=1) / known.sum(axis=1)


def pass_at_k(draws: np.ndarray, solved: np.ndarray, k: int) -> np.ndarray:
    """pass@k: the chance that at least one of k answers to a problem is right.

    draws: (P,) how many answers of each problem were graded, n.
    solved: (P,) how many of them were right, c.
    k: how many answers are tried, at least 1.

    Returns (P,) the unbiased estimates 1 − C(n−c, k)/C(n, k) (Chen et al. 2021, arXiv 2107.03374). Where n < k there is
    none, and n takes the place of k; NaN where n is 0. Raises `ConfigError` if k < 1.
    """
    if k < 1:
        raise ConfigError(f"pass@k needs k >= 1, got {k}")
    n, c = np.asarray(draws, dtype=float)[:, None], np.asarray(solved, dtype=float)[:, None]
    # C(n−c, k)/C(n, k) = Π_{j<k} (n−c−j)/(n−j): a product of fractions cannot overflow as factorials can.
    j = np.arange(k, dtype=float)[None, :]
    inside = j < n
    factors = np.where(inside, np.maximum(n - c - j, 0.0) / np.where(inside, n - j, 1.0), 1.0)
    return np.where(n[:, 0] > 0, 1.0 - factors.prod(axis=1), math.nan)


def nanmean(values: np.ndarray, axis: int | None = None) -> Any:
    """The mean of the known values, as `numpy.nanmean`, but without a warning where nothing is known.

    values: an array of any shape, NaN where not known.
    axis: the axis to average over; None for all of them.

    Returns the means, NaN where nothing is known.
    """
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0.0).sum(axis) / known.sum(axis)


def interval(mean: float, resampled: np.ndarray) -> dict[str, float]:
    """A mean with the 95 % percentile interval of its resamples, as {"mean": …, "low": …, "high": …}.

    mean: the mean of the values as measured.
    resampled: (R,) its value in each resample; NaNs are left out.
    """
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
    """The percentile bootstrap interval of a mean over problems.

    values: (P,) one a problem; NaNs are left out.
    seed: seed of the resamples.
    resamples: how many there are.
    level: share of the resampled means that the interval holds.
    weights: (P,) positive; how much each problem counts in the mean; all alike by default.

    Problems are resampled, not their draws: the interval speaks of other problems of the same kind.
    Returns (low, high); (NaN, NaN) if no value is known.
    """
    known = values[~np.isnan(values)]
    share = np.ones(len(known)) if weights is None else weights[~np.isnan(values)]
    if not len(known):
        return math.nan, math.nan
    rng = np.random.default_rng(seed)
    block = max(1, 4_000_000 // len(known))  # resamples drawn at once, so that the indices take 32 MB at most
    draws = (rng.integers(0, len(known), (min(block, resamples - at), len(known))) for at in range(0, resamples, block))
    means = np.concatenate([(known * share)[drawn].sum(axis=1) / share[drawn].sum(axis=1) for drawn in draws])
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


@dataclass(frozen=True, slots=True)
class Measured:
    """A mean over problems and its 95 % interval; all three are NaN if the number is not defined for any problem.

    mean: the mean.
    low: lower end of the interval.
    high: upper end of the interval.
    """

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return "-" if math.isnan(self.mean) else f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def measured_mean(values: np.ndarray) -> Measured:
    """The mean of `values` (P,) over problems and its `bootstrap_interval`; NaNs are left out."""
    known = values[~np.isnan(values)]
    mean = math.fsum(known) / len(known) if len(known) else math.nan
    return Measured(mean, *bootstrap_interval(values))


class Resamples:
    """R resamples of P problems, kept so that the means of several columns meet the same ones.

    problems: P.
    seed: seed of the resamples.
    resamples: R.

    A resample is kept as how often it holds each problem, so that one matrix product gives the sums of all.
    """

    def __init__(self, problems: int, *, seed: int = 0, resamples: int = RESAMPLES) -> None:
        rng = np.random.default_rng(seed)
        self.counts = rng.multinomial(problems, np.full(problems, 1 / problems), resamples).astype(float)

    def means(self, values: np.ndarray) -> np.ndarray:
        """(R, …) means of `values` (P, …) over the problems in each resample; NaN where none of them is known."""
        known = ~np.isnan(values)
        with np.errstate(invalid="ignore"):
            return (self.counts @ np.where(known, values, 0.0)) / (self.counts @ known)


@functools.cache
def t_quantile(degrees: int, level: float = 0.95) -> float:
    """The t within ±t of which Student's t lies with a chance of `level`: 2.776 for four degrees of freedom and 95 %.

    degrees: the degrees of freedom, at least 1.
    level: the chance, between 0 and 1.
    """
    # With t = √degrees · tan(u), the density of u is proportional to cos(u)^(degrees − 1), which ends at π/2.
    u = np.linspace(0.0, math.pi / 2, 20_001)
    density = np.cos(u) ** (degrees - 1)
    share = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
    return math.sqrt(degrees) * math.tan(float(np.interp(level, share / share[-1], u)))


def crossed_interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """The interval of the mean of a table whose seeds and whose problems are both drawn from many.

    values: (S, P) NaN where not known.
    level: the chance with which such intervals hold the mean.

    Every seed answers the same problems, so the value of a cell is a mean, plus an effect of the seed, an effect of the
    problem, and what is left, each drawn independently (a two-way random-effects model). The seeds' part of the mean's
    variance is that of the S means of rows. The problems' part is that of the P means of columns, less what the S draws
    of a column explain by themselves, which the seeds' part holds already. Each part is widened by Student's t of its
    own degrees of freedom, S − 1 and P − 1, and the half-width is the root of the sum of both squares (Graybill and
    Wang 1980, "Confidence intervals on nonnegative linear combinations of variances"). Where one part is all of the
    variance, that is the exact t interval. With one seed the interval speaks of other problems only, and with one
    problem of other seeds only.

    Returns (low, high); (NaN, NaN) if neither is known of two.
    """
    known = ~np.isnan(values)
    values = values[known.any(axis=1)][:, known.any(axis=0)]
    S, P = values.shape
    rows, columns, mean = nanmean(values, axis=1), nanmean(values, axis=0), nanmean(values)
    square = 0.0
    if S > 1:
        square += t_quantile(S - 1, level) ** 2 * float(rows.var(ddof=1)) / S
    if P > 1:
        of_columns = float(columns.var(ddof=1))
        rest = values - rows[:, None] - columns + mean
        degrees = max(1, int(np.isfinite(rest).sum()) - S - P + 1)
        noise = float(np.nansum(rest**2)) / degrees / S if S > 1 else 0.0
        square += t_quantile(P - 1, level) ** 2 * max(0.0, of_columns - noise) / P
    if max(S, P) < 2:
        return math.nan, math.nan
    half = math.sqrt(square)
    return float(mean - half), float(mean + half)


def grade_table(grades: Sequence[Mapping[str, float | None]], problems: Sequence[str]) -> np.ndarray:
    """The table of mean grades that `accuracy` and `difference` take.

    grades: for each of S seeds, the mean grade of each problem by its id; None or absent if it has none.
    problems: the ids of P problems, in the order of the columns.

    Returns (S, P), NaN where there is no grade.
    """
    return np.array([[np.nan if (g := row.get(p)) is None else g for p in problems] for row in grades], dtype=float)


def accuracy(values: np.ndarray) -> dict[str, Any]:
    """The mean of a table of grades `values` (S, P) and its interval over other seeds and problems.

    Returns {"acc": mean, "ci": [low, high]}.
    """
    return _named("acc", values)


def difference(mine: np.ndarray, theirs: np.ndarray, *, level: float = 0.95) -> dict[str, Any]:
    """The mean difference of two tables of grades, and its interval over other seeds and problems.

    mine: (S, P) grades.
    theirs: (S, P) grades of the same problems, with the same seeds in the same order.
    level: of the interval; for n differences that shall all be held with 95 %, 1 − 0.05/n (Bonferroni).

    The tables are paired cell by cell, so the interval is free of what both share: how hard each problem is, and the
    order in which each seed asks the questions. Returns {"diff": mean of mine − theirs, "ci": [low, high]}.
    """
    return _named("diff", mine - theirs, level)


def _named(name: str, values: np.ndarray, level: float = 0.95) -> dict[str, Any]:
    """The mean of a (S, P) table under `name`, and its interval over both under "ci"."""
    return {name: float(nanmean(values)), "ci": list(crossed_interval(values, level))}
