"""The curve over checkpoints: each number with its interval over problems, and what changed from first to last.

Legend: P problems, the same and in the same order at every checkpoint. Intervals are 95 % bootstrap intervals over the
problems. A change is judged on the P differences, not on two intervals: the problems' own spread falls out of those.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import IBTPOError
from ..evaluation.statistics import Measured, measured_mean
from ..metrics import Record

TOTALS = ("trajectories", "generated_tokens", "verifier_errors")  # sums, not means, and without an interval


def measure(records: Sequence[Record]) -> dict[str, Any]:
    """(P,) records as one row of the curve: means as {"mean", "low", "high"}, totals as numbers."""
    return {
        name: int(sum(r[name] for r in records)) if name in TOTALS else asdict(measured_mean(_column(records, name)))
        for name in records[0]
    }


def what_changed(first: Sequence[Record], last: Sequence[Record]) -> list[str]:
    """What Cov(η1, η2), Eff-Rate and Avg-Rate did between two checkpoints, a sentence each with its evidence.

    first, last: (P,) records of the same problems.
    """
    changes = {name: _Change.of(first, last, name) for name in ("cov_eta", "eff_rate", "avg_rate")}
    return [
        f"Cov(η1,η2) {changes['cov_eta']}: {_about_confidence(changes['cov_eta'])}",
        f"Eff-Rate {changes['eff_rate']}: {_about_signal(changes['eff_rate'])}",
        f"Avg-Rate {changes['avg_rate']}",
    ]


@dataclass(frozen=True, slots=True)
class _Change:
    first: Measured
    last: Measured
    by: Measured
    problems: int

    @classmethod
    def of(cls, first: Sequence[Record], last: Sequence[Record], name: str) -> "_Change":
        a, b = _column(first, name), _column(last, name)
        both = ~np.isnan(a) & ~np.isnan(b)
        return cls(measured_mean(a), measured_mean(b), measured_mean((b - a)[both]), int(both.sum()))

    @property
    def direction(self) -> str:
        """ "fell", "rose", or "" where the interval of the difference holds 0."""
        return "fell" if self.by.high < 0 else "rose" if self.by.low > 0 else ""

    def __str__(self) -> str:
        if self.first == self.last:
            return f"is {self.last}"
        if self.direction or math.isnan(self.by.mean):
            return f"{self.direction or 'went'} from {self.first} to {self.last}"
        return (
            f"did not clearly change ({self.first} to {self.last}, a difference of {self.by} over {self.problems} "
            f"problems)"
        )


def _about_confidence(c: _Change) -> str:
    if math.isnan(c.last.mean):
        return "no tree has siblings, so nothing can be said about confidence"
    if c.last.low > 0:
        return "confidence follows correctness" + (", though less than before" if c.direction == "fell" else "")
    if c.last.high < 0:
        return "the model is confident in the wrong branches"
    if c.direction == "fell" and c.first.low > 0:
        return "confidence no longer follows correctness"
    return "it cannot be told from 0, where confidence does not follow correctness"


def _about_signal(c: _Change) -> str:
    if math.isnan(c.last.mean):
        return "nothing was graded"
    if c.last.mean == 0:
        return "no group carries a signal"
    return {
        "fell": "fewer groups carry a signal",
        "rose": "more groups carry a signal",
        "": f"{100 * c.last.mean:.0f} % of the groups carry a signal",
    }[c.direction]


def _column(records: Sequence[Record], name: str) -> np.ndarray:
    return np.array([r[name] for r in records], dtype=float)


def find_checkpoints(models: Sequence[str]) -> list[str]:
    """Names of models, each folder with checkpoint-* in it replaced by those in order of step.

    Raises `ConfigError` for a name that stands for nothing, before an hour is spent on the others.
    """
    from ..engines.models import NAMED, resolve_model

    found: list[str] = []
    for name in models:
        inside = [p for folder in (Path(name), Path(name) / "checkpoints") for p in folder.glob("checkpoint-*")]
        steps = sorted((p for p in inside if p.is_dir() and step_of(p) is not None), key=lambda p: step_of(p) or 0)
        if not steps and name not in NAMED:
            resolve_model(name)
        found += [str(p) for p in steps] or [name]
    return list(dict.fromkeys(found))


def step_of(path: Path) -> int | None:
    kind, _, number = path.name.rpartition("-")
    return int(number) if kind == "checkpoint" and number.isdecimal() else None


def labels(names: Sequence[str]) -> list[str]:
    """A short name for each, different from all others: the last parts of its path, as many as that takes."""
    parts = [Path(name).parts for name in names]

    def short(i: int, n: int) -> str:
        return "_".join(p.strip("/\\") for p in parts[i][-n:])

    out = []
    for i in range(len(names)):
        n = 1
        while n < len(parts[i]) and sum(short(j, n) == short(i, n) for j in range(len(names))) > 1:
            n += 1
        out.append(short(i, n))
    return out


class BrokenError(IBTPOError):
    """A checkpoint that cannot be measured; the others can."""
