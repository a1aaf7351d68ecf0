r"""Symbolic comparison by math-verify (https://github.com/huggingface/Math-Verify), and what is mended of it here.

All use of math-verify is in this module. Its own time limits use signals, which work in the main thread only, so they
are off; the deadline is that of the verifier's process (`pool.VerifierPool`). Faults of version 0.9, and what is done:

- A float is rounded to 6 places and a small difference chopped to 0, so that 10^-7 equals 0 and 10^-20 equals 10^-21:
  numbers that it calls equal are compared once more, to 50 digits.
- `\sqrt{ab}` is not `\sqrt{a}\sqrt{b}` for letters of any sign: letters under a root are taken as positive here.
- A relation and an interval are compared only if the gold answer is the relation, and unions of relations not at all:
  both are made into sets here (`read_set`).
- A list is a set to it, so that 3, 3, 5 equals 3, 5; a ratio is a division, and `2 1/4` is 2/4: `math` takes lists,
  ratios and plain numbers apart before it asks.
- An odd root of a negative number is complex to it: `\sqrt[3]{-8}` is made -2 (`_ODD_ROOT`).
- It works out whatever it reads, `9^{9^{9}}` included: what would never end is not read (`numbers.is_huge`).
- The letter i is a variable: it is made the imaginary unit.
- `\pm` is not expanded, `1.5e10` is 1.5·e·10, old LaTeX and Unicode are not read: `latex`, `numbers` and
  `equivalence` do that.
"""

import logging
import re
from functools import lru_cache
from typing import Any

from ..errors import DependencyError
from .numbers import is_huge

_EXACT_DIGITS = 50  # to which exact values are compared
_SAME_EXACT = 1e-40  # relative difference of exact values that are equal
_SAME_ROUNDED = 1e-5  # relative difference of values of which one is a decimal
_CLOSE_ROUNDED = 1e-2  # decimals above it are left to math-verify's 6 places
_POINTS = ((3, 7), (13, 5), (29, 31))  # fractions that letters take where an identity is tried out
_ODD_ROOT = re.compile(r"\\sqrt\[(\d*[13579])\]\{-([^{}+-]*)\}")  # the real one: \sqrt[3]{-8} is -2
_MOST_DEGREE = 8  # of a polynomial whose inequality is solved
_MOST_MEMBERS = 20  # of a union: sympy takes minutes for hundreds
_CHAIN = re.compile(r"\\le(?![a-zA-Z])|\\ge(?![a-zA-Z])|\\ne(?![a-zA-Z])|<|>")
_OR = re.compile(
    r"\\(?:text|mbox|textrm|mathrm)\s*\{\s*,?\s*or\s*,?\s*\}|(?<![a-zA-Z])or(?![a-zA-Z])|\\lor(?![a-zA-Z])|\\vee(?![a-zA-Z])|\\cup(?![a-zA-Z])"
)
_BOTH = re.compile(
    r"\\(?:text|mbox|textrm|mathrm)\s*\{\s*,?\s*and\s*,?\s*\}|(?<![a-zA-Z])and(?![a-zA-Z])|\\land(?![a-zA-Z])|\\wedge(?![a-zA-Z])|,(?=[^,]*\\ne(?![a-zA-Z]))"
)
# "and", a comma or a U between intervals is their union.
_INTERVAL_LIST = re.compile(r"(?<=[)\]}])\s*(?:,?\s*(?:\band\b|\\text\s*\{\s*and\s*\})|,|\bU\b)\s*(?=[(\[]|\\\{)")
_BUILDER = re.compile(
    r"\\\{\s*[a-zA-Z]\s*(?:\\in\s*\\mathbb\s*\{?R\}?\s*)?(?:\||:|\\mid(?![a-zA-Z])|\\colon(?![a-zA-Z]))(?P<condition>.*)\\\}",
    re.DOTALL,
)
_INTERVAL = re.compile(r"(?P<left>[\[(])(?P<start>.+?),(?P<end>.+)(?P<right>[\])])", re.DOTALL)


@lru_cache(maxsize=4096)
def parse(text: str) -> Any | None:
    """The sympy object that a cleaned text in LaTeX stands for, or None if it cannot be read as a whole."""
    if not text or is_huge(text):
        return None
    text = _ODD_ROOT.sub(r"(-\\sqrt[\1]{\2})", re.sub(r"(?<!\\)%", r"\\%", text))
    reader, _, boxed, _ = _math_verify()
    # Without "first_match", a box that cannot be read would pass for any fraction inside it.
    value = _first(reader(rf"\boxed{{{text}}}", boxed, parsing_timeout=None, extraction_mode="first_match"))
    return value if re.search(r"\\(?:sum|prod)|_\{?i", text) else _complex(value)


def _complex(value: Any | None) -> Any | None:
    """A sympy object in which the letter i is the imaginary unit."""
    from sympy import I

    letters = [symbol for symbol in getattr(value, "free_symbols", ()) if symbol.name == "i"]
    return value.subs(dict.fromkeys(letters, I)) if letters and value is not None else value


def parse_prose(text: str) -> Any | None:
    """The sympy object of the last expression in prose, or None."""
    reader, _, _, prose = _math_verify()
    return _first(reader(text, prose, parsing_timeout=None))


def same_value(value: Any | None, answer: Any | None) -> bool:
    """Whether two sympy objects, the gold answer's first, are equal."""
    if value is None or answer is None:
        return False
    left: Any = getattr(answer, "lhs", None)
    if getattr(left, "is_Add", False) and left.free_symbols and answer.rhs == 0 and not hasattr(value, "lhs"):
        return False  # the equation of a curve, "2x - y - 18 = 0", is not the answer 0
    _, verify, *_ = _math_verify()
    if verify(value, answer, timeout_seconds=None):
        return not _differ(value, answer)
    return _same_for_positive_letters(value, answer)


def same_sets(gold: str, answer: str) -> bool | None:
    r"""Whether two texts, of which at least one has a relation, are the same set: `x<2` and `(-\infty, 2)`.

    None where one of them cannot be read as a set.
    """
    if not (_is_set(gold) and _is_set(answer)):
        return None
    if max(len(_OR.split(gold)), len(_OR.split(answer))) > _MOST_MEMBERS:
        return False
    first, second = read_set(gold), read_set(answer)
    if first is None or second is None:
        return None
    try:
        return bool(first == second or first.symmetric_difference(second).is_empty)
    except Exception:  # sympy fails in many ways on sets it cannot compare
        return None


def _is_set(text: str) -> bool:
    r"""Whether a text has a relation, an interval, a union or a set in it."""
    return bool(
        _CHAIN.search(text) or _OR.search(text) or _INTERVAL.search(text) or r"\mathbb" in text or r"\{" in text
    )


@lru_cache(maxsize=1024)
def read_set(text: str) -> Any | None:
    r"""The sympy set of a cleaned text: intervals, relations in one letter, `\{…\}`, `\mathbb{R}`, with ∪, "or", ∖."""
    from sympy import Intersection, S, Union

    text = re.sub(r"^\s*[a-zA-Z]\s*\\in(?![a-zA-Z])", "", text).strip()
    if builder := _BUILDER.fullmatch(text):
        return read_set(builder["condition"].strip())
    text = _INTERVAL_LIST.sub(r"\\cup ", text)
    parts = [part.strip() for part in _OR.split(text)]
    if len(parts) > 1:
        members = [read_set(part) for part in parts]
        return None if any(member is None for member in members) else Union(*members)
    both = [part.strip() for part in _BOTH.split(text)]
    if len(both) > 1 and all(map(_CHAIN.search, both)):
        members = [read_set(part) for part in both]
        return None if any(member is None for member in members) else Intersection(*members)
    whole, *without = re.split(r"\\setminus(?![a-zA-Z])|\\backslash(?![a-zA-Z])|-(?=\s*\\\{)", text)
    if without:
        base, removed = read_set(whole.strip()), [read_set(part.strip()) for part in without]
        return None if base is None or any(part is None for part in removed) else base - Union(*removed)
    if text == r"\emptyset":
        return S.EmptySet
    if re.fullmatch(r"\\mathbb\s*\{?R\}?", text):
        return S.Reals
    readers = (_read_interval, _read_relations, _read_finite)
    return next((found for reader in readers if (found := reader(text)) is not None), None)


def _read_interval(text: str) -> Any | None:
    from sympy import Interval

    match = _INTERVAL.fullmatch(text)
    if match is None:
        return None
    start, end = parse(match["start"].strip()), parse(match["end"].strip())
    try:
        return Interval(start.doit(), end.doit(), match["left"] == "(", match["right"] == ")")  # type: ignore[union-attr]
    except Exception:  # what was read is no number
        return None


def _read_relations(text: str) -> Any | None:
    r"""The set of a relation in one letter, or of a chain such as `-1 < x \le 2`."""
    from sympy import S, Symbol

    signs, sides = _CHAIN.findall(text), _CHAIN.split(text)
    if not signs or len(signs) > 2 or "," in text:
        return None
    letter = Symbol("x", real=True)
    values = []
    for side in sides:
        value = parse(side.strip())
        if value is None or len(getattr(value, "free_symbols", "xx")) > 1:
            return None
        values.append(value.doit())
    letters = {symbol.name for value in values for symbol in value.free_symbols}
    if len(letters) != 1:
        return None
    values = [value.subs(dict.fromkeys(value.free_symbols, letter)) for value in values]
    found: Any = S.Reals
    relations = {r"\le": "<=", r"\ge": ">=", r"\ne": "!=", "<": "<", ">": ">"}
    try:
        from sympy import Rel, degree

        for left, sign, right in zip(values, signs, values[1:], strict=False):
            if (left - right).is_polynomial(letter) and degree(left - right, letter) > _MOST_DEGREE:
                return None
            found &= Rel(left, right, relations[sign]).as_set()
    except Exception:  # sympy cannot solve it
        return None
    return found


def _read_finite(text: str) -> Any | None:
    from sympy import FiniteSet

    text = text[2:-2] if text.startswith(r"\{") and text.endswith(r"\}") else text
    values = [parse(part.strip()) for part in text.split(",")]
    if not values or any(value is None or getattr(value, "free_symbols", True) for value in values):
        return None
    try:
        return FiniteSet(*(value.doit() for value in values))  # type: ignore[union-attr]
    except Exception:  # not numbers
        return None


def _differ(gold: Any, answer: Any) -> bool:
    """Whether two numbers that are equal to math-verify differ when they are compared to 50 digits."""
    from sympy import Float

    try:
        exact, given = gold.doit(), answer.doit()
        if not exact.is_number or not given.is_number:
            return False
        rounded = exact.has(Float) or given.has(Float)
        exact, given = exact.evalf(_EXACT_DIGITS), given.evalf(_EXACT_DIGITS)
        size, difference = max(abs(exact), abs(given)), abs(exact - given)
        if rounded:
            return bool(size < _CLOSE_ROUNDED and difference > _SAME_ROUNDED * size)
        return bool(difference > _SAME_EXACT * size)
    except Exception:  # they are no numbers
        return False


def _same_for_positive_letters(gold: Any, answer: Any) -> bool:
    """Whether two expressions with roots of letters are equal for positive letters, tried out at three points."""
    from sympy import Abs, Pow, Rational, log

    try:
        if (not gold.is_Pow and not gold.free_symbols) or {s.name for s in gold.free_symbols} != {
            s.name for s in answer.free_symbols
        }:
            return False
        if gold.has(Abs) or answer.has(Abs) or not (gold.is_commutative and answer.is_commutative):
            return False
        if hasattr(gold, "lhs") or hasattr(answer, "lhs"):
            if not (hasattr(gold, "lhs") and hasattr(answer, "lhs")) or gold.lhs != answer.lhs:
                return False
            gold, answer = gold.rhs, answer.rhs
        powers = gold.atoms(Pow) | answer.atoms(Pow)
        if not gold.has(log) and all(power.exp.is_integer for power in powers if power.base.free_symbols):
            return False
        names = sorted(s.name for s in gold.free_symbols)
        for top, bottom in _POINTS:
            at = {name: Rational(top + 2 * i, bottom + i) for i, name in enumerate(names)}
            values = [
                side.subs({s: at[s.name] for s in side.free_symbols}).doit().evalf(_EXACT_DIGITS)
                for side in (gold, answer)
            ]
            if not all(value.is_number for value in values) or not abs(values[0] - values[1]) < 1e-30 * (
                1 + abs(values[0])
            ):
                return False
        return True
    except Exception:  # sets, matrices and the like
        return False


def _first(extracted: list[Any]) -> Any | None:
    """The first sympy object in what math-verify extracted, which holds strings for what it could not read."""
    return next((item for item in extracted if not isinstance(item, str)), None)


@lru_cache(maxsize=1)
def _math_verify() -> tuple[Any, Any, list[Any], list[Any]]:
    """math-verify's `parse` and `verify`, and the settings to extract an answer from a box and from prose."""
    try:
        from latex2sympy2_extended import NormalizationConfig
        from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify
    except ImportError as error:
        raise DependencyError(
            "the math verifier needs math-verify; install it with: pip install 'ibtpo[math]'"
        ) from error
    # Both warn that their time limits are off, which is meant to be so here.
    for name in ("math_verify.parser", "math_verify.grader"):
        logging.getLogger(name).setLevel(logging.ERROR)
    normalise = NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="last", equations=False
    )
    latex = LatexExtractionConfig(boxed_match_priority=0, normalization_config=normalise)
    return parse, verify, [latex], [latex, ExprExtractionConfig()]
