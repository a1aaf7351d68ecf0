"""Checks before any training whether the verifier accepts the gold answer of every problem, and no other problem's.

A verifier that rejects right answers, or accepts wrong ones, trains a model on noise.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import permutations
from typing import Any

from .._text import short
from ..tasks.problems import Problem, verifier_for
from ..verify import Verdict, Verifier
from ..verify.math import gold_text

SHOWN = 10  # rows of each kind in the printed report
_BATCH = 512  # rows the verifier gets at once


@dataclass
class CheckReport:
    """What `check_data` found. Printed, it is a short report; `to_json` holds everything.

    n: how many problems were checked.
    passed: how many gold answers scored at least 1.
    failing: (id, answer, verdict) of the others.
    errors: how many of the failing ones are verifier errors rather than rejected answers.
    negative: how many controls were made; each gives one problem's gold answer to the next problem.
    negative_same: in how many of them two problems for the math verifier have the very same answer, which must be
        accepted.
    negative_accepted: (id, answer, next id, next answer) of the other controls that were accepted: the two answers are
        equal in value though written differently, or the verifier is too lenient.
    negative_errors: how many controls gave a verifier error.
    seconds: the time it took.
    """

    n: int = 0
    passed: int = 0
    failing: list[tuple[str, str | None, Verdict]] = field(default_factory=list)
    errors: int = 0
    negative: int = 0
    negative_same: int = 0
    negative_accepted: list[tuple[str, str | None, str, str | None]] = field(default_factory=list)
    negative_errors: int = 0
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether every gold answer passed."""
        return self.passed == self.n

    def __str__(self) -> str:
        share = 100 * self.passed / self.n if self.n else 0.0
        lines = [f"gold answers accepted: {self.passed} of {self.n} ({share:.2f} %), verifier errors: {self.errors}"]
        for identity, answer, verdict in self.failing[:SHOWN]:
            lines.append(f"  {identity}: {short(answer, 80, str)}: {verdict.error or f'reward {verdict.reward:g}'}")
        lines += _more(len(self.failing))
        if self.negative:
            different = self.negative - self.negative_same
            lines.append(
                f"other problems' answers accepted: {len(self.negative_accepted)} of {different} "
                f"(and {self.negative_same} pairs with the same answer), verifier errors: {self.negative_errors}"
            )
            for identity, answer, next_id, next_answer in self.negative_accepted[:SHOWN]:
                lines.append(
                    f"  {identity}: {short(answer, 80, str)} accepted for {next_id}: {short(next_answer, 80, str)}"
                )
            lines += _more(len(self.negative_accepted))
        return "\n".join([*lines, f"{self.seconds:.1f} s"])

    def to_json(self) -> str:
        """The whole report as the text of one JSON object, with every failing row."""
        return json.dumps(
            {
                "n": self.n,
                "passed": self.passed,
                "ok": self.ok,
                "errors": self.errors,
                "failing": [
                    {"id": identity, "answer": answer, "reward": verdict.reward, "error": verdict.error}
                    for identity, answer, verdict in self.failing
                ],
                "negative": self.negative,
                "negative_same": self.negative_same,
                "negative_errors": self.negative_errors,
                "negative_accepted": [
                    {"id": identity, "answer": answer, "other_id": other, "other_answer": other_answer}
                    for identity, answer, other, other_answer in self.negative_accepted
                ],
                "seconds": round(self.seconds, 3),
            },
            ensure_ascii=False,
        )


def check_data(
    problems: Sequence[Problem],
    verifier: Verifier,
    *,
    negative: bool = True,
    gold: Callable[[Problem], str] | None = None,
) -> CheckReport:
    """Scores each problem's gold answer, and as a control gives it to the next problem too.

    problems: the problems to check.
    verifier: what grades the completions.
    negative: whether the controls are made.
    gold: makes the completion of a problem that must be accepted; default `gold_completion`.

    Raises `VerifierError` if the verifier itself cannot be used; what it says of a row is in the report.
    """
    started = time.monotonic()
    report = CheckReport(n=len(problems))
    completions = [(gold or gold_completion)(problem) for problem in problems]
    for problem, verdict in zip(problems, _score(verifier, problems, completions), strict=True):
        if verdict.reward is not None and verdict.reward >= 1.0:
            report.passed += 1
        else:
            report.failing.append((problem.id, problem.answer, verdict))
            report.errors += verdict.error is not None
    if negative and len(problems) > 1:
        others = [*problems[1:], problems[0]]
        report.negative = len(others)
        for mine, other, verdict in zip(problems, others, _score(verifier, others, completions), strict=True):
            report.negative_errors += verdict.error is not None
            if verifier_for(mine) == "math" and mine.answer == other.answer:
                report.negative_same += 1
            elif verdict.reward is not None and verdict.reward >= 1.0:
                report.negative_accepted.append((mine.id, mine.answer, other.id, other.answer))
    report.seconds = time.monotonic() - started
    return report


def gold_completion(problem: Problem) -> str:
    r"""A completion that must be accepted: a solution of a walk or of countdown, `\boxed{answer}` for all else."""
    kind = verifier_for(problem)
    if kind == "walk":
        from ..tasks.walk import gold_answer

        return gold_answer(problem.columns)
    if kind == "countdown":
        return f"Answer: {solve_countdown(problem.columns['numbers'], problem.columns['target'])}"
    return rf"\boxed{{{gold_text(problem.answer)}}}"


def solve_countdown(numbers: Sequence[int], target: int) -> str | None:
    """An expression that makes `target` from all of `numbers` with + - * / and brackets, or None if there is none.

    All ways are tried, with exact fractions; six numbers take seconds.
    """
    return _combine(tuple((Fraction(n), str(n)) for n in numbers), Fraction(target))


def _combine(parts: tuple[tuple[Fraction, str], ...], target: Fraction) -> str | None:
    """The expression that makes `target` of all parts, each a value and how it is written; None if there is none.

    Replaces two parts by their sum, difference, product or quotient, in all ways, until one part is left.
    """
    if len(parts) == 1:
        return parts[0][1] if parts[0][0] == target else None
    for i, j in permutations(range(len(parts)), 2):
        (a, left), (b, right) = parts[i], parts[j]
        rest = tuple(p for k, p in enumerate(parts) if k not in (i, j))
        results = [(a - b, "-")] + ([(a / b, "/")] if b else []) + ([(a + b, "+"), (a * b, "*")] if i < j else [])
        for value, operator in results:
            if found := _combine(((value, f"({left} {operator} {right})"), *rest), target):
                return found
    return None


def _score(verifier: Verifier, problems: Sequence[Problem], completions: Sequence[str]) -> list[Verdict]:
    """The verdict on each completion, as an answer to the problem at the same place."""
    rows: list[dict[str, Any]] = [
        {**problem.columns, "prompt": problem.prompt, "completion": completion, "completion_ids": []}
        for problem, completion in zip(problems, completions, strict=True)
    ]
    return [
        verdict for start in range(0, len(rows), _BATCH) for verdict in verifier.score(rows[start : start + _BATCH])
    ]


def _more(total: int) -> list[str]:
    """The line that says how many rows are not printed, if any."""
    return [f"  … and {total - SHOWN} more"] if total > SHOWN else []
