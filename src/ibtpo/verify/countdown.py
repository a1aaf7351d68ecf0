"""Countdown: does the last answer line combine exactly the given numbers into the target?

For data with `numbers` (any count) and `target`. Answers come as `Answer: (3 * 7) - 2`, `<answer>…</answer>` or
`\\boxed{…}`. Only the answer decides; the steps before it do not.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any

from . import completion_text

MAX_EXPRESSION = 500  # characters; bounds the parser's work and its recursion (MAX_DEPTH) on any text
MAX_DEPTH = 50
MAX_BITS = 4096  # no number of a parsed expression may grow past this

# Every form ends at a bound so that one pass over the text finds all: no nested quantifier, no backtracking.
_ANSWER = re.compile(
    rf"<answer>(?P<tag>[^<]{{0,{MAX_EXPRESSION}}})</answer>"
    rf"|\\boxed\{{(?P<boxed>[^\n]{{0,{MAX_EXPRESSION}}})"
    rf"|answer[ \t]*:(?P<line>[^\n]{{0,{MAX_EXPRESSION}}})",
    re.IGNORECASE,
)
_TOKEN = re.compile(r"[0-9]+|[-+*/()]")
_SPELLING = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-", "–": "-", "$": " ", "[": "(", "]": ")"})


def countdown_reward(
    completions: Sequence[Any],
    numbers: Sequence[Any] | None = None,
    target: Sequence[Any] | None = None,
    answer: Sequence[Any] | None = None,
    question: Sequence[str] | None = None,
    **kwargs: Any,
) -> list[float | None]:
    """TRL reward function: 1.0 for a right answer, 0.0 otherwise, None where a row has no numbers or target.

    completions: (R,) texts, or TRL's conversational lists of messages (the last one counts).
    numbers: (R,) lists of the integers that must each be used exactly once.
    target: (R,) integers; `answer` is taken where it is missing.
    Never raises for what a completion or row contains.
    """
    del question, kwargs
    rows: list[float | None] = []
    for i, completion in enumerate(completions):
        given = _numbers(_at(numbers, i))
        wanted = _number(_at(target, i))
        if wanted is None:
            wanted = _number(_at(answer, i))
        if given is None or wanted is None:
            rows.append(None)
        else:
            rows.append(float(is_right(completion_text(completion), given, wanted)))
    return rows


def is_right(text: str, numbers: Iterable[int], target: int | Fraction) -> bool:
    """Whether the last answer in `text` uses exactly `numbers` and equals `target`, in exact arithmetic."""
    expression = find_expression(text)
    parsed = evaluate(expression) if expression is not None else None
    return parsed is not None and parsed[0] == target and Counter(parsed[1]) == Counter(numbers)


def find_expression(text: str) -> str | None:
    """The expression of the last answer line, box or tag, or None. A trailing `= 24` or full stop is cut off."""
    matches = list(_ANSWER.finditer(text))
    if not matches:
        return None
    found = matches[-1]
    expression = found["tag"] or found["boxed"] or found["line"] or ""
    nested = _ANSWER.search(expression)
    if nested is not None:  # "Answer: \boxed{…}" and "Answer: <answer>…"
        return find_expression(expression)
    if found["boxed"] is not None:
        expression = _until_brace(expression)
    expression = expression.translate(_SPELLING).replace("\\times", "*").replace("\\cdot", "*").replace("\\div", "/")
    expression = expression.replace("\\left", "").replace("\\right", "")
    # Cuts "= 24", a special token such as </s>, Markdown marks and the full stop.
    return expression.split("=")[0].split("<")[0].strip("*`. \t\r\n")


def _until_brace(text: str) -> str:
    depth = 0
    for i, char in enumerate(text):
        depth += (char == "{") - (char == "}")
        if depth < 0:
            return text[:i]
    return ""


def evaluate(expression: str) -> tuple[Fraction, list[int]] | None:
    """Value and numbers used of an arithmetic expression over + - * / and parentheses, or None if it is not one."""
    if len(expression) > MAX_EXPRESSION or not expression.isascii():
        return None
    tokens = _TOKEN.findall(expression)
    if "".join(tokens) != "".join(expression.split()):
        return None
    # Removing blanks must not join numbers: "3 7" is two tokens and fails in the parser.
    parser = _Parser(tokens)
    try:
        value = parser.sum(0)
    except (_NotAnExpressionError, ZeroDivisionError):
        return None
    return (value, parser.used) if parser.at == len(tokens) else None


class _NotAnExpressionError(Exception):
    pass


class _Parser:
    """Recursive descent: sum = product (± product)*, product = atom (*/ atom)*, atom = ±atom | number | (sum)."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens
        self.at = 0
        self.used: list[int] = []

    def take(self, *allowed: str) -> str | None:
        if self.at < len(self.tokens) and self.tokens[self.at] in allowed:
            self.at += 1
            return self.tokens[self.at - 1]
        return None

    def sum(self, depth: int) -> Fraction:
        value = self.product(depth)
        while op := self.take("+", "-"):
            right = self.product(depth)
            value = _bounded(value + right if op == "+" else value - right)
        return value

    def product(self, depth: int) -> Fraction:
        value = self.atom(depth)
        while op := self.take("*", "/"):
            right = self.atom(depth)
            value = _bounded(value * right if op == "*" else value / right)
        return value

    def atom(self, depth: int) -> Fraction:
        if depth > MAX_DEPTH or self.at >= len(self.tokens):
            raise _NotAnExpressionError
        if sign := self.take("+", "-"):
            value = self.atom(depth + 1)
            return value if sign == "+" else -value
        if self.take("("):
            value = self.sum(depth + 1)
            if not self.take(")"):
                raise _NotAnExpressionError
            return value
        token = self.tokens[self.at]
        if not token.isdigit():
            raise _NotAnExpressionError
        self.at += 1
        self.used.append(int(token))
        return _bounded(Fraction(self.used[-1]))


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise _NotAnExpressionError
    return value


def _at(column: Sequence[Any] | None, i: int) -> Any:
    return column[i] if column is not None and i < len(column) else None


def _number(value: Any) -> Fraction | None:
    if isinstance(value, str) and len(value) > MAX_EXPRESSION:
        return None
    try:
        return Fraction(value)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return None


def _numbers(value: Any) -> list[int] | None:
    if value is None or isinstance(value, str):
        return None
    try:
        numbers = [int(number) for number in value]
    except (TypeError, ValueError, OverflowError):
        return None
    return numbers or None
