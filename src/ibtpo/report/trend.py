"""Is a noisy training curve going anywhere? A test for trends that takes autocorrelation into account.

The Mann-Kendall test tells a trend from noise. It counts how many pairs of values rise and how many fall, so it assumes
nothing of the curve's shape but that it is monotone, and nothing of the noise but that it is not heavier in one
direction. It does assume that values are independent, but those of neighbouring steps are alike. Its variance is
therefore enlarged by n/n* = 1 + 2 Σ (1 − k/n) r^k (Yue and Wang 2004), with r the lag-1 autocorrelation of what remains
around the Theil-Sen line, whose slope is the median of the slopes between all pairs of steps, or around the means of
the curve's fourths, whichever is less.

How large a change is, the means of the curve's first and last fourth say. Noise that wanders slowly, compared with the
length of the run, can still pass for a trend; docs/report.md says how often.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

LEAST_STEPS = 12  # with fewer, neither the test's normal approximation nor the mean of a fourth can be trusted
LEAST_QUARTER = 8  # values a fourth needs for a spread of its own; shorter ones take the spread within all four
MOST_POINTS = 200  # longer curves are averaged over equal blocks of steps first: the test looks at all pairs
ALPHA = 0.005  # two-sided level of the test; small, since a curve is tested twice: as a whole and in its second half
SIGMAS = 3.0  # standard errors by which a mean must lie beyond a threshold


@dataclass(frozen=True)
class Level:
    """The mean of a curve over some of its steps.

    mean: the mean.
    error: its standard error, autocorrelation taken into account.
    begin: the first of the steps.
    end: the last of the steps.
    """

    mean: float
    error: float
    begin: int
    end: int

    def above(self, threshold: float) -> bool:
        """Whether the mean is above `threshold` by more than chance: by more than `SIGMAS` standard errors."""
        return self.mean - SIGMAS * self.error > threshold

    def below(self, threshold: float) -> bool:
        """Whether the mean is below `threshold` by more than chance: by more than `SIGMAS` standard errors."""
        return self.mean + SIGMAS * self.error < threshold


@dataclass(frozen=True)
class Trend:
    """Where a curve began and ended, and whether the way there can be chance.

    first: the level of its first fourth.
    last: the level of its last fourth.
    p: two-sided p-value of the Mann-Kendall test.
    rising: whether more pairs of values rise than fall.
    n: how many values it has.
    """

    first: Level
    last: Level
    p: float
    rising: bool
    n: int

    @property
    def change(self) -> float:
        """The mean of the last fourth minus that of the first."""
        return self.last.mean - self.first.mean

    @property
    def ratio(self) -> float:
        """The mean of the last fourth over that of the first; infinite if that is 0."""
        return self.last.mean / self.first.mean if self.first.mean else math.inf


def trend(steps: np.ndarray, values: np.ndarray) -> Trend | None:
    """The trend of a curve; None if it has fewer than `LEAST_STEPS` values.

    steps: (n,) ascending.
    values: (n,) one a step; NaNs are left out.
    """
    known = np.isfinite(values)
    steps, values = steps[known], values[known]
    if len(values) < LEAST_STEPS:
        return None
    n = len(values)
    x, y = steps.astype(float), values
    if n > MOST_POINTS:
        cuts = np.linspace(0, n, MOST_POINTS + 1).round().astype(int)[:-1]
        size = np.diff(np.append(cuts, n))
        x, y = np.add.reduceat(x, cuts) / size, np.add.reduceat(y, cuts) / size
    i, j = np.triu_indices(len(y), 1)  # all pairs of values, each once
    slope = float(np.median((y[j] - y[i]) / (x[j] - x[i])))
    blocks = np.array_split(y, 4)
    inflation = _inflation(y - slope * x, blocks, float(np.abs(y).max()))
    # Mann-Kendall: s is the number of rising pairs minus that of falling ones. Without a trend it is about normal, with
    # mean 0 and the variance below, which ties make smaller. The 1 taken off s corrects for its being a whole number.
    s = float(np.sign(y[j] - y[i]).sum())
    m = len(y)
    ties = np.unique(y, return_counts=True)[1]
    variance = (m * (m - 1) * (2 * m + 5) - float((ties * (ties - 1) * (2 * ties + 5)).sum())) / 18 * inflation
    z = (abs(s) - 1) / math.sqrt(variance) if variance > 0 and s else 0.0
    p = math.erfc(max(z, 0.0) / math.sqrt(2))

    quarter, quarter_n = m // 4, n // 4
    pooled = sum(float(((b - b.mean()) ** 2).sum()) for b in blocks) / (m - 4)

    def error(variance: float) -> float:
        return math.sqrt(variance * inflation / quarter)

    def level(part: slice, begin: int, end: int) -> Level:
        values = y[part]
        if values.min() == values.max():  # computed, the spread of equal values would be a residue of rounding, not 0
            return Level(float(values[0]), 0.0 if quarter >= LEAST_QUARTER else error(pooled), begin, end)
        variance = float(values.var(ddof=1)) if quarter >= LEAST_QUARTER else pooled
        return Level(float(values.mean()), error(variance), begin, end)

    first = level(slice(None, quarter), int(steps[0]), int(steps[quarter_n - 1]))
    last = level(slice(-quarter, None), int(steps[-quarter_n]), int(steps[-1]))
    return Trend(first, last, p, s > 0, n)


def find_trend(steps: np.ndarray, values: np.ndarray, large: Callable[[Trend], bool]) -> Trend | None:
    """The trend of a curve, or else of its second half, that is beyond chance and large; None if neither is.

    steps: (n,) ascending.
    values: (n,) one a step; NaNs are left out.
    large: whether a trend changes the curve by enough to matter.
    """
    half = len(values) // 2
    for window in (slice(None), slice(half, None)):
        t = trend(steps[window], values[window])
        if t is not None and t.p < ALPHA and large(t):
            return t
    return None


def running_mean(values: np.ndarray, width: int) -> np.ndarray:
    """The mean of each value and its neighbours.

    values: (n,) NaNs are left out.
    width: how many values a mean covers, itself among them; fewer at the ends.

    Returns (n,) means, NaN where nothing is left.
    """
    known = np.isfinite(values)
    total = np.concatenate([[0.0], np.cumsum(np.where(known, values, 0.0))])
    count = np.concatenate([[0], np.cumsum(known)])
    centre = np.arange(len(values))
    low, high = np.maximum(centre - (width - 1) // 2, 0), np.minimum(centre + width // 2 + 1, len(values))
    seen = count[high] - count[low]
    return np.where(seen > 0, (total[high] - total[low]) / np.maximum(seen, 1), math.nan)


def smoothing_width(n: int) -> int:
    """How many steps a running mean covers in a curve of n steps: an eighth of them, an odd number from 5 to 51."""
    return min(51, max(5, n // 8)) | 1


def since(steps: np.ndarray, values: np.ndarray, holds: Callable[[float], bool]) -> int | None:
    """The step from which on a condition holds of a curve's running mean, to the end; None if it fails at the end.

    steps: (n,) ascending.
    values: (n,) one a step; NaNs are left out.
    holds: the condition.
    """
    known = np.isfinite(values)
    mean = running_mean(values[known], smoothing_width(int(known.sum())))
    found = None
    for step, value in zip(steps[known][::-1].tolist(), mean[::-1].tolist(), strict=True):
        if not holds(value):
            break
        found = int(step)
    return found


def _inflation(line: np.ndarray, blocks: list[np.ndarray], scale: float) -> float:
    """n/n* of the module's docstring: by how much autocorrelation enlarges the variance of the test.

    line: (n,) what remains around the Theil-Sen line.
    blocks: the values of each fourth.
    scale: the largest absolute value, to know what is rounding.

    The autocorrelation is measured around the line and around the means of the fourths, and the smaller one counts:
    around a straight line even a clean jump looks like wandering noise.
    """
    n = len(line)
    r = min(_lag_one([line], scale), _lag_one(blocks, scale))
    k = np.arange(1, n)
    return 1 + 2 * float(((1 - k / n) * r**k).sum())


def _lag_one(parts: list[np.ndarray], scale: float) -> float:
    """The lag-1 autocorrelation within `parts`, each around its own mean, limited to 0..0.95.

    scale: the largest absolute value, to know what is rounding.
    """
    centred = [part - part.mean() for part in parts]
    n = sum(map(len, parts))
    total = sum(float((c**2).sum()) for c in centred)
    if total <= (1e-12 * scale) ** 2 * n:  # constant, but for rounding
        return 0.0
    r = sum(float((c[1:] * c[:-1]).sum()) for c in centred) / total
    # In a series of m values the estimate is too small by about (1 + 3 r)/m, and a part has n/len(parts) values.
    return min(0.95, max(0.0, r + len(parts) * (1 + 3 * r) / n))
