"""Countdown: does a completion's last answer combine exactly the given numbers into the target?

This is for data with the columns `numbers` (any count) and `target`. Answers come as `Answer: (3 * 7) - 2`,
`<answer>…</answer>` or `\\boxed{…}`. Only the last one decides; the steps before it do not.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any

from .tags import ANSWER_TAGS, THINKING_TAGS, final_texts

# Bounds on the parser's work, whatever the text.
MAX_EXPRESSION = 500  # characters
MAX_DEPTH = 50  # of nested parentheses and signs
MAX_BITS = 4096  # no number of a parsed expression may grow past this

# Each form is bounded and has no quantifier inside another: one pass over the text, without backtracking.
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
    prompts: Sequence[Any] | None = None,
    thinking_tags: str = THINKING_TAGS,
    answer_tags: str = ANSWER_TAGS,
    **kwargs: Any,
) -> list[float | None]:
    """TRL reward function: 1.0 for a right answer, 0.0 otherwise.

    completions: (R,) texts, or TRL's lists of messages, of which the last counts.
    numbers: (R,) lists of the integers that must each be used exactly once.
    target: (R,) numbers to arrive at.
    answer: (R,) targets for the rows that have no `target`.
    prompts, thinking_tags, answer_tags: see `tags.final_texts`.

    Returns (R,) rewards, None where a row has no numbers or no target. Nothing in a completion or a row makes it raise.
    """
    rows: list[float | None] = []
    whole = final_texts(completions, prompts, thinking_tags=thinking_tags, answer_tags="")
    tagged = final_texts(whole, answer_tags=answer_tags)
    for i, (text, answer_only) in enumerate(zip(whole, tagged, strict=True)):
        if text != answer_only and "<answer>" not in text.lower():  # tags of the user's own
            text = f"<answer>{answer_only}</answer>"
        given = _numbers(_at(numbers, i))
        wanted = _number(_at(target, i))
        if wanted is None:
            wanted = _number(_at(answer, i))
        if given is None or wanted is None:
            rows.append(None)
        else:
            rows.append(float(is_right(text, given, wanted)))
    return rows


def is_right(text: str, numbers: Iterable[int], target: int | Fraction) -> bool:
    """Whether the last answer in a text is right, in exact arithmetic.

    text: a completion.
    numbers: the integers that must each be used exactly once.
    target: what the answer must be equal to.
    """
    expression = find_expression(text)
    parsed = evaluate(expression) if expression is not None else None
    return parsed is not None and parsed[0] == target and Counter(parsed[1]) == Counter(numbers)


def find_expression(text: str) -> str | None:
    """The expression of the last answer in a text, or None where there is no answer.

    An answer is a line with `Answer:`, a box or a tag. A `= 24` or a full stop at its end is cut off.
    """
    matches = list(_ANSWER.finditer(text))
    if not matches:
        return None
    found = matches[-1]
    expression = found["tag"] or found["boxed"] or found["line"] or ""
    nested = _ANSWER.search(expression)
    if nested is not None:  # one form inside another: "Answer: \boxed{…}", "Answer: <answer>…"
        return find_expression(expression)
    if found["boxed"] is not None:
        expression = _until_brace(expression)
    expression = expression.translate(_SPELLING).replace("\\times", "*").replace("\\cdot", "*").replace("\\div", "/")
    expression = expression.replace("\\left", "").replace("\\right", "")
    # Cuts "= 24", a special token such as </s>, Markdown marks and the full stop.
    return expression.split("=")[0].split("<")[0].strip("*`. \t\r\n")


def _until_brace(text: str) -> str:
    """`text` up to the brace that closes the box it is in; empty if the box is not closed."""
    depth = 0
    for i, char in enumerate(text):
        depth += (char == "{") - (char == "}")
        if depth < 0:
            return text[:i]
    return ""


def evaluate(expression: str) -> tuple[Fraction, list[int]] | None:
    """The value of an arithmetic expression over + - * / and parentheses, and the numbers it uses.

    Returns None for what is no such expression, divides by zero, or goes beyond this module's bounds.
    """
    if len(expression) > MAX_EXPRESSION or not expression.isascii():
        return None
    tokens = _TOKEN.findall(expression)
    if "".join(tokens) != "".join(expression.split()):  # it holds something that is no token
        return None
    # Blanks are skipped, but do not join numbers: "3 7" is two tokens, of which the parser takes only the first.
    parser = _Parser(tokens)
    try:
        value = parser.sum(0)
    except (_NotAnExpressionError, ZeroDivisionError):
        return None
    return (value, parser.used) if parser.at == len(tokens) else None


class _NotAnExpressionError(Exception):
    """The tokens are no arithmetic expression, or one that goes beyond the bounds."""


class _Parser:
    """A recursive-descent parser that computes the value as it reads. It has one method for each rule of the grammar:

    - sum = product (± product)*
    - product = atom (*/ atom)*
    - atom = ±atom | number | (sum)
    """

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens
        self.at = 0
        self.used: list[int] = []

    def take(self, *allowed: str) -> str | None:
        """Steps over the next token and returns it if it is one of `allowed`; else None."""
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
    """The value itself. Raises `_NotAnExpressionError` when it has grown past `MAX_BITS`."""
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise _NotAnExpressionError
    return value


def _at(column: Sequence[Any] | None, i: int) -> Any:
    """Row i of a column; None if the column or the row is missing."""
    return column[i] if column is not None and i < len(column) else None


def _number(value: Any) -> Fraction | None:
    """The exact number that a target or answer stands for; None if it is none."""
    if isinstance(value, str) and len(value) > MAX_EXPRESSION:
        return None
    try:
        return Fraction(value)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return None


def _numbers(value: Any) -> list[int] | None:
    """The integers of a row's `numbers`; None if they are missing, empty or something else."""
    if value is None or isinstance(value, str):
        return None
    try:
        numbers = [int(number) for number in value]
    except (TypeError, ValueError, OverflowError):
        return None
    return numbers or None
