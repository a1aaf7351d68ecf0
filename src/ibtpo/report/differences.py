"""Held-out accuracy of runs problem by problem: what each changed, and how runs of one kind differ from another's.

Runs whose settings are the same but for the seed form a group. Differences are paired over the problems, which all runs
of a comparison share, and over the seeds where groups have some in common; intervals are those of
`evaluation.statistics.crossed_interval`, Student's t over seeds and problems.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import DataError
from ..evaluation.statistics import accuracy, difference, grade_table, nanmean
from ..storage.read_run import Run

Grades = dict[str, float | None]  # the mean grade of each problem by its id, None where none is known
# Settings that change nothing of what a run learns.
ASIDE = ("seed", "threads", "save_trees_every", "verifier_workers", "report_to", "logging_steps", "max_in_flight")


@dataclass(frozen=True)
class Group:
    """Runs of one kind.

    name: the method, and the settings by which it differs from other groups of that method.
    runs: their numbers in the comparison, in order of seed.
    seeds: their seeds; where two runs have the same, the second is called `3 (2)`.
    """

    name: str
    runs: list[int]
    seeds: list[str]


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and problems with its 95 % interval, NaN at both ends where there is only one of each."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Line:
    """A group's line in the table of a comparison; what is not known is None.

    group: the group.
    measured: the seeds that were measured after training.
    problems: how many problems the runs of the comparison have in common.
    before, after: accuracy before and after training.
    each: accuracy after training of each seed measured.
    change: after minus before, of the seeds that have both, paired.
    minus_first: the accuracy after training minus that of the first group, paired.
    pairs: which seeds that difference pairs, in words.
    pairs_count: how many.
    passed: pass@k after training, the mean over the seeds.
    tokens: generated tokens of a run, the mean over the seeds.
    """

    group: Group
    measured: list[str]
    problems: int
    before: Estimate | None
    after: Estimate | None
    each: list[float]
    change: Estimate | None
    minus_first: Estimate | None
    pairs: str
    pairs_count: int
    passed: float | None
    tokens: float


def graded(run: Run) -> tuple[Grades | None, Grades | None]:
    """The grades of a run's held-out problems before and after training; None for what was not measured or stored.

    Raises `DataError`, naming file and line, for grades that are no numbers.
    """
    rows = [(i, row) for i, row in enumerate(run.held_out, 1)]
    before = next((_grades(run, i, row) for i, row in rows if row["step"] == 0), None)
    after = _grades(run, *rows[-1]) if rows and "after" in run.evals and rows[-1][1]["step"] > 0 else None
    return before, after


def _grades(run: Run, line: int, row: dict[str, Any]) -> Grades | None:
    """The grades in a row of `evals.jsonl`. line: the row's, from 1."""
    grades = row.get("grades")
    if grades is None:
        return None
    numbers = isinstance(grades, dict) and all(
        v is None or (type(v) in (int, float) and math.isfinite(v)) for v in grades.values()
    )
    if not numbers:
        raise DataError(f"{run.path / 'evals.jsonl'}:{line}: grades must be a number or null for each problem's id")
    return grades


def paired_change(run: Run) -> Estimate | None:
    """By how much a run's accuracy changed, paired over the problems; None where the grades are not known."""
    before, after = graded(run)
    if before is None or after is None:
        return None
    problems = [p for p in before if before[p] is not None and after.get(p) is not None]
    return _difference([after], [before], problems) if problems else None


def group_runs(runs: Sequence[Run], names: Sequence[str]) -> list[Group]:
    """The runs by what they differ in beside the seed; groups in the order of their first runs.

    names: what the runs are called, for those that do not say their method.
    """
    found: dict[str, list[int]] = {}
    kinds = [{k: v for k, v in run.config.items() if k not in ASIDE} for run in runs]
    for i, kind in enumerate(kinds):
        found.setdefault(repr(sorted(kind.items(), key=lambda item: str(item[0]))), []).append(i)
    groups = []
    for members in found.values():
        kind = kinds[members[0]]
        method = kind.get("method")
        others = [kinds[m[0]] for m in found.values() if m != members and kinds[m[0]].get("method") == method]
        keys = [k for k in kind if any(o.get(k) != kind[k] for o in others)]
        words = [str(method) if method is not None else names[members[0]], *(f"{k}={kind[k]}" for k in keys)]
        seeds = {i: str(runs[i].config.get("seed", "–")) for i in members}
        members = sorted(members, key=lambda i: (len(seeds[i]), seeds[i]))
        groups.append(Group(", ".join(words), members, numbered([seeds[i] for i in members])))
    return groups


def numbered(names: Sequence[str]) -> list[str]:
    """The names, where one that occurred before gets a number: `a`, `a (2)`."""
    found: list[str] = []
    for name in names:
        own, n = name, 2
        while own in found:
            own, n = f"{name} ({n})", n + 1
        found.append(own)
    return found


def compare_groups(runs: Sequence[Run], groups: Sequence[Group]) -> list[Line]:
    """The table of a comparison, a line a group; differences are to the first group of which a run was measured."""
    grades = [graded(run) for run in runs]
    tables = [g for pair in grades for g in pair if g is not None]
    problems = [p for p in tables[0] if all(p in g for g in tables)] if tables else []
    reference: dict[str, Grades] = {}
    lines = []
    for group in groups:
        members = list(zip(group.seeds, group.runs, strict=True))
        after = {seed: a for seed, i in members if (a := grades[i][1]) is not None} if problems else {}
        before = {seed: b for seed, i in members if (b := grades[i][0]) is not None} if problems else {}
        both = [seed for seed in after if seed in before]
        mine, theirs, pairs = _pairs(after, reference) if reference and after else ([], [], "")
        values = grade_table(list(after.values()), problems) if after else np.empty((0, 0))
        passes = [p for _, i in members if (p := (runs[i].evals.get("after") or {}).get("pass")) is not None]
        lines.append(
            Line(
                group, list(after), len(problems),
                before=_accuracy(list(before.values()), problems), after=_accuracy(list(after.values()), problems),
                each=[float(nanmean(row)) for row in values],
                change=_difference([after[s] for s in both], [before[s] for s in both], problems) if both else None,
                minus_first=_difference(mine, theirs, problems) if mine else None, pairs=pairs, pairs_count=len(mine),
                passed=float(np.mean(passes)) if passes else None,
                tokens=float(np.mean([runs[i].curves.tokens[-1:].sum() for i in group.runs])),
            )
        )  # fmt: skip
        reference = reference or after
    return lines


def _pairs(mine: dict[str, Grades], theirs: dict[str, Grades]) -> tuple[list[Grades], list[Grades], str]:
    """Which runs of two groups are compared with each other, and that in words.

    Those of the same seed, which share the order of the questions. Without a common seed the runs are pairs in order of
    seed: any pairing that does not look at the results is right, though it has nothing to take out of the interval.
    """
    common = [seed for seed in mine if seed in theirs]
    if common:
        words = f"seed{'s' * (len(common) > 1)} {', '.join(common)}"
        return [mine[s] for s in common], [theirs[s] for s in common], words
    n = min(len(mine), len(theirs))
    words = ", ".join(f"{a} with {b}" for a, b in zip(list(mine)[:n], list(theirs)[:n], strict=True))
    return list(mine.values())[:n], list(theirs.values())[:n], f"no common seed: {words}"


def _accuracy(grades: Sequence[Grades], problems: Sequence[str]) -> Estimate | None:
    """The mean of the grades, a mapping a seed, over seeds and problems; None without any."""
    if not grades:
        return None
    found = accuracy(grade_table(grades, problems))
    return Estimate(found["acc"], *found["ci"])


def _difference(mine: Sequence[Grades], theirs: Sequence[Grades], problems: Sequence[str]) -> Estimate:
    """The mean of mine minus theirs, a mapping a seed each, over seeds and problems."""
    found = difference(grade_table(mine, problems), grade_table(theirs, problems))
    return Estimate(found["diff"], *found["ci"])
