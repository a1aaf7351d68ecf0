"""Checks before any training whether the verifier accepts the gold answer of every problem, and no other problem's.

A verifier that rejects right answers, or accepts wrong ones, trains a model on noise.
"""

import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import permutations
from typing import Any

from .._text import short
from ..tasks.code import reference_solution
from ..tasks.problems import Problem, verifier_for
from ..verify import Verdict, Verifier
from ..verify.math import gold_text

SHOWN = 10  # rows of each kind in the printed report
_MOST_WORDS = 4  # of three letters or more, in an answer that is not all words; with more it is prose
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}")
_LONE_NUMBER = re.compile(r"(?<![\d.,:_^{}%a-zA-Z\\])(\d+)(?![\d.,:_^{}%!a-zA-Z])")
_BATCH = 512  # rows the verifier gets at once


@dataclass
class CheckReport:
    """What `check_data` found. Printed, it is a short report; `to_json` holds everything.

    n: how many problems were checked.
    passed: how many gold answers scored at least 1, both as they stand and rewritten.
    failing: (id, answer, verdict) of those that do not score 1 as they stand.
    unmatched: (id, answer, rewritten, verdict) of those that do so only as they stand: written in another way, see
        `rewritten_completion`, they are refused, so that only the identical text could ever score 1.
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
    unmatched: list[tuple[str, str | None, str, Verdict]] = field(default_factory=list)
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
        if self.unmatched:
            lines.append(f"accepted only as they stand, not written in another way: {len(self.unmatched)}")
            for identity, answer, rewritten, verdict in self.unmatched[:SHOWN]:
                found = verdict.error or f"reward {verdict.reward:g}"
                lines.append(f"  {identity}: {short(answer, 80, str)}: written as {short(rewritten, 80, str)}: {found}")
            lines += _more(len(self.unmatched))
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
                "unmatched": [
                    {
                        "id": identity,
                        "answer": answer,
                        "rewritten": rewritten,
                        "reward": verdict.reward,
                        "error": verdict.error,
                    }
                    for identity, answer, rewritten, verdict in self.unmatched
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
    """Scores each problem's gold answer, as it stands and rewritten, and as a control gives it to the next problem too.

    problems: the problems to check.
    verifier: what grades the completions.
    negative: whether the controls are made.
    gold: makes the completion of a problem that must be accepted; default `gold_completion`. The verifiers `math` and
        `choice` must then accept `rewritten_completion`, too; a verifier of your own may want another form.

    Raises `VerifierError` if the verifier itself cannot be used; what it says of a row is in the report.
    """
    started = time.monotonic()
    report = CheckReport(n=len(problems))
    completions = [(gold or gold_completion)(problem) for problem in problems]
    verdicts = _score(verifier, problems, completions)
    rewrites = gold is None and set(verifier.names) <= {"math_reward", "choice_reward"}
    others = [rewritten_completion(problem) if rewrites else None for problem in problems]
    asked = {i: text for i, text in enumerate(others) if text is not None and _accepted(verdicts[i])}
    again = dict(zip(asked, _score(verifier, [problems[i] for i in asked], list(asked.values())), strict=True))
    for i, (problem, verdict) in enumerate(zip(problems, verdicts, strict=True)):
        if not _accepted(verdict):
            report.failing.append((problem.id, problem.answer, verdict))
            report.errors += verdict.error is not None
        elif i in again and not _accepted(again[i]):
            report.unmatched.append((problem.id, problem.answer, asked[i], again[i]))
            report.errors += again[i].error is not None
        else:
            report.passed += 1
    if negative and len(problems) > 1:
        following = [*problems[1:], problems[0]]
        report.negative = len(following)
        for mine, other, verdict in zip(problems, following, _score(verifier, following, completions), strict=True):
            report.negative_errors += verdict.error is not None
            if verifier_for(mine) == "math" and mine.answer == other.answer:
                report.negative_same += 1
            elif _accepted(verdict):
                report.negative_accepted.append((mine.id, mine.answer, other.id, other.answer))
    report.seconds = time.monotonic() - started
    return report


def gold_completion(problem: Problem) -> str:
    r"""A completion that must be accepted: the reference program, a solution of a walk or of countdown, else a box."""
    kind = verifier_for(problem)
    if kind == "walk":
        from ..tasks.walk import gold_answer

        return gold_answer(problem.columns)
    if kind == "reasoning_gym":
        return f"<answer>{problem.answer}</answer>"
    if kind == "code":
        return f"```python\n{reference_solution(problem.columns) or ''}\n```"
    if kind == "countdown":
        return f"Answer: {solve_countdown(problem.columns['numbers'], problem.columns['target'])}"
    return rf"\boxed{{{gold_text(problem.answer)}}}"


def rewritten_completion(problem: Problem) -> str | None:
    """A completion with the gold answer written in another way: other spacing, LaTeX, case or place in a sentence.

    It is None for tasks whose answers are not compared with a text. What is rewritten has the same value, but not the
    same letters, so that a verifier has to understand the answer.
    """
    kind = verifier_for(problem)
    if kind != "math":
        return None
    text = gold_text(problem.answer)
    return None if text is None else f"Hence we are done.\n\nThe final answer is $\\boxed{{{rewrite(text)}}}$."


def rewrite(answer: str) -> str:
    r"""An answer in another form of the same value: `\frac` as `\dfrac`, `12` as `12.0`, words in the other case.

    answer: a gold answer for the math verifier, or an option's letter.
    """
    if re.fullmatch(r"\(?[A-Ja-j]\)?", answer):
        return rf"\textbf{{({answer.strip('()')})}}"
    if re.fullmatch(r"-?\d+", answer):
        return f"{answer}.0"
    if re.fullmatch(r"-?\d*\.\d+", answer):
        return f"{answer}0"
    if re.fullmatch(r"[A-Za-z]{3,}(?:[ ,.'-]+[A-Za-z]+)*\.?", answer):
        return rf"\text{{{answer.swapcase()}}}"
    if len(_WORD.findall(answer)) > _MOST_WORDS:
        return answer.swapcase()  # prose: as good a form of it as any, and as far from what a model would write
    grouped = re.search(r"\d,\\?!?\s*\d{3}", answer)
    spaced = answer if grouped else re.sub(r"\s*([+=,;])\s*", r" \1 ", answer)
    spaced = re.sub(r"\\frac(?![a-zA-Z])", r"\\dfrac", spaced)
    if (
        grouped
        or (number := _LONE_NUMBER.search(spaced)) is None
        or re.search(r"\\[a-z]+\s*$", spaced[: number.start()])
    ):
        return spaced
    # A group around one number changes no value, but a text that cannot be read as mathematics is no longer the same.
    return f"{spaced[: number.start()]}{{{number[0]}}}{spaced[number.end() :]}"


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


def _accepted(verdict: Verdict) -> bool:
    """Whether a verdict says that the answer is right."""
    return verdict.reward is not None and verdict.reward >= 1.0


def _more(total: int) -> list[str]:
    """The line that says how many rows are not printed, if any."""
    return [f"  … and {total - SHOWN} more"] if total > SHOWN else []
