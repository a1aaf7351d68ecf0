"""Accuracy over seeds and problems, with intervals that speak of other seeds and other problems of the same kind.

Legend: S seeds, P problems, R resamples. A run gives each problem its mean grade over k answers: a (S, P) table an arm.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..comparison import interval, nanmean
from ..evaluation import RESAMPLES


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


def table(grades: Sequence[Mapping[str, float | None]], problems: Sequence[str]) -> np.ndarray:
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
