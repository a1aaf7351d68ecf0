r"""`math_reward`: is the final answer of a completion mathematically equal to the gold answer?

There are three stages, the cheapest first: whether the texts are the same after a light normalisation; exact comparison
of plain numbers; symbolic comparison by math-verify (https://github.com/huggingface/Math-Verify). The differences from
math-verify alone:

- Only the last complete `\boxed{...}` counts; an unfinished box is no answer. Several boxes are never merged.
- A text answer (`\text{even}`, `(C)`, `8:34 p.m.`) is compared as text: as a product of letters, "east" equals "seat".
- Units are stripped only where they are words (`\text{ cm}`, "18 dollars"), never single letters as in `2t`.
- The base of `2516_8` counts, two numbers side by side are not a sum, and 0.0 is not 10^-7.

math-verify's own time limits use signals, which work in the main thread only, so they are switched off. The deadline is
that of the verifier's process (`pool.VerifierPool`).
"""

import logging
import math
import re
from collections.abc import Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Any

from ..errors import DependencyError
from . import completion_text

# Where a text says its answer: in a box, after "####", after "answer is", in a formula.
_BOX = re.compile(r"\\(?:boxed|fbox)(?![a-zA-Z])")
_BRACES = re.compile(
    r"\\(?:boxed|fbox)(?:(?P<box>\s*\{)|(?P<bare>\s+[^\s{}$\\]+|\d[^\s{}$\\]*))|\\.|[{}]", re.DOTALL
)  # `\.` skips escaped braces: those are a set's, not the box's
_HASHES = re.compile(r"^\s*####\s*(.+?)\s*$", re.MULTILINE)
_ANCHOR = re.compile(r"(?i)(?:\banswer\b[^\n.:=]{0,60}?(?:\bis\b|[:=])|答案[是为：:]+)[\s:：*]*(?P<answer>[^\n]*)")
_MATH_SPAN = re.compile(r"\$\$(.+?)\$\$|\$([^$\n]+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_SENTENCE_END = re.compile(r"\.(?=\s|\**\s*$)|。")

# Words within LaTeX, and units.
_TEXT = r"\\(?:text|mbox|textbf|textit|textrm|textnormal|textsf|mathrm|mathbf|mathit|mathsf|operatorname)\s*"
_TEXT_SPAN = re.compile(_TEXT + r"\{([^{}]*)\}")
_TEXT_AND = re.compile(_TEXT + r"\{\s*,?\s*(?:and|or)\s*,?\s*\}")
_TEXT_UNIT = re.compile(r"(?<=\S)\s*" + _TEXT + r"\{[^{}]*\}(?:\^\{?\d\}?)?$")
_SHORT_UNIT = r"(?:cm|km|mm|kg|mg|ml|mL|mph|ft|lbs?|hrs?|mins?|secs?)"
_NUMBER_UNIT = re.compile(
    rf"(?P<number>-?\d[\d,]*(?:\.\d+)?(?:/\d+)?)(?:\s*{_SHORT_UNIT}|\s+(?:[mshgL]|(?=[a-zA-Z]*[aeiou])[a-zA-Z]{{3,}}))"
    r"(?:\s+[a-zA-Z]+)*(?:\^\{?\d\}?)?"
)
_DEGREES = re.compile(r"\s*(?:\^\s*\{?\s*\\circ\s*\}?|\\degree)$")
# What kind of answer a text is.
_GROUPED = re.compile(r"[-+]?\d{1,3}(?:[, ]\d{3})+(?:\.\d+)?")
_PLAIN = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)")
_BASED = re.compile(r"([0-9A-Za-z]+)_\{?(\d+)\}?")
_SIDE_BY_SIDE = re.compile(r"\d\s+\d")
_WORDS = re.compile(r"[A-Za-z]{3,}(?:[ '-]+[A-Za-z]+)*")
_CLOCK = re.compile(r"\d\s*[ap]\.?\s?m\.?$", re.IGNORECASE)

# Different ways to write the same thing, and the one that is compared.
_UNICODE = str.maketrans(
    {"−": "-", "–": "-", "×": r"\times ", "·": r"\cdot ", "π": r"\pi ", "∞": r"\infty ", "°": r"^\circ", "²": "^2"}
    | {"³": "^3", "（": "(", "）": ")", "，": ",", "\u00a0": " ", "€": "", "£": "", "¥": ""}
)
_REWRITES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\(?:left|right)\s*\.", ""),  # invisible delimiters
        (r"\\(?:left|right|[bB]igg?[lrm]?|displaystyle|textstyle)(?![a-zA-Z])", ""),  # sizes
        (r"(?:,\s*\\!|\{,\}(?:\\!)?)(?=\d{3}(?!\d))", ""),  # between thousands: 10,\!000 and 10{,}000
        (r"(?<!\\)\\!", ""),  # less space
        (r"(?<!\\)\\[,;: ]|\\q?quad(?![a-zA-Z])|~", " "),  # more space
        (r"\{\s*,\s*\}", ","),
        (r",\s*,", ","),
        (r"\\phantom\s*(?:\{[^{}]*\}|.)", ""),
        (r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"),
        (r"\\frac\s*\\pi\s*(\d)", r"\\frac{\\pi}{\1}"),  # \frac\pi2
        (_TEXT + r"\{\s*(-?\d[\d.,]*)\s*\}", r"\1"),  # a number within a text macro
        (r"\\\$|\$|\\\(|\\\)|\\\[|\\\]", ""),  # dollars and other marks of a formula
        (r"\\approx(?![a-zA-Z])(?=\s*-?[\d.]+\s*(?:\\(?:text|mbox).*)?$)", ""),  # before a lone number
    )
)
_PROSE_CHARS = 300  # characters of prose that are searched for an expression: the search takes quadratic time
_PARSE_CHARS = 2000  # characters; a longer answer is compared as text only


def math_reward(completions: Sequence[Any], answer: Sequence[Any], **kwargs: Any) -> list[float | None]:
    r"""TRL reward function: 1.0 if the final answer equals the gold one, else 0.0.

    completions: (R,) texts, or conversations whose last message is the answer.
    answer: (R,) gold answers in LaTeX or plain text, or numbers. Of a longer text, its `\boxed{}` or `#### 18` counts.

    Returns (R,) rewards, None where a row has no gold answer.

    Raises `DependencyError` when math-verify is needed and not installed.
    """
    return [
        None if (gold := gold_text(row)) is None else float(is_correct(completion_text(completion), gold))
        for completion, row in zip(completions, answer, strict=True)
    ]


def gold_text(answer: Any) -> str | None:
    """A gold answer as text: its box or `####` line if it has one. None for None, NaN and an empty text."""
    if answer is None or (isinstance(answer, float) and math.isnan(answer)):
        return None
    text = str(answer).strip()
    return explicit_answer(text) or text or None


def is_correct(text: str, gold: str) -> bool:
    r"""Whether the final answer of a completion equals the gold answer.

    The final answer is the last complete `\boxed{}`; without a box it is what follows the last `####`, else what
    follows the last "answer is" or "answer:", else the last expression of the text.

    text: the completion.
    gold: the gold answer, without a box or prose around it.
    """
    if _BOX.search(text):
        boxed = last_boxed(text)
        return boxed is not None and equivalent(gold, boxed)
    stated = explicit_answer(text)
    if stated is not None:
        return equivalent(gold, stated)
    text = text.replace(r"\$", "").strip()  # a dollar sign that stands for money would pair with one around a formula
    tail, stated_in_words = _final_words(text)
    sentence = _SENTENCE_END.split(tail, maxsplit=1)[0].strip(" *")
    if equivalent(gold, sentence):
        return True
    spans = [next(filter(None, groups)) for groups in _MATH_SPAN.findall(tail)]
    if spans:
        return equivalent(gold, ", ".join(spans) if stated_in_words else spans[-1])
    if stated_in_words and _parse(_clean(sentence)) is not None:
        return False  # all of the stated answer is an expression, and not the gold one: no part of it counts
    return _same_value(gold, _parse_prose(tail if stated_in_words else text[-_PROSE_CHARS:]))


def _final_words(text: str) -> tuple[str, bool]:
    """The words of a text that hold its final answer, and whether an "answer is" stands before them.

    They are what follows the last "answer is", to the end of its line or of the formula it starts, else the last line.
    """
    for anchor in reversed(list(_ANCHOR.finditer(text))):
        line = anchor["answer"].strip(" *")
        formula = _MATH_SPAN.match(text, anchor.start("answer"))
        if formula and "\n" in formula[0] and len(formula[0]) < _PROSE_CHARS:
            return formula[0], True
        if line:
            return line[:_PROSE_CHARS], True
    return text[-_PROSE_CHARS:].rpartition("\n")[2].strip(" *"), False


def boxed_contents(text: str) -> list[tuple[int, str]]:
    r"""All complete boxes of a text, as (start, content) in the order of their starts.

    Complete is a `\boxed{...}` or `\fbox{...}` whose braces balance, and a `\boxed 5` without braces.
    """
    found: list[tuple[int, str]] = []
    open_braces: list[tuple[int, int] | None] = []  # (start of the box, start of its content); None: any other brace
    for token in _BRACES.finditer(text):  # one pass only: a degenerate completion repeats an unfinished box for pages
        if token["box"]:
            open_braces.append((token.start(), token.end()))
        elif token["bare"]:
            found.append((token.start(), token["bare"].strip()))
        elif token[0] == "{":
            open_braces.append(None)
        elif token[0] == "}" and open_braces and (box := open_braces.pop()) is not None:
            found.append((box[0], text[box[1] : token.start()].strip()))
    return sorted(found)


def last_boxed(text: str) -> str | None:
    r"""The content of the last complete `\boxed{...}` of a text, or None."""
    boxes = boxed_contents(text)
    return boxes[-1][1] if boxes else None


def explicit_answer(text: str) -> str | None:
    r"""What the last complete `\boxed{}` or, without a box, the last line that starts with `####` says, or None."""
    boxed = last_boxed(text)
    if boxed is not None:
        return boxed
    hashes = _HASHES.findall(text)
    return hashes[-1] if hashes else None


def equivalent(gold: str, answer: str) -> bool:
    """Whether an answer equals the gold answer, both without a box or prose around them.

    `x = 5` equals 5. Whether words or values are compared, `gold` decides.
    """
    gold, answer = _clean(gold), _clean(answer)
    gold_key, answer_key = _key(gold), _key(answer)
    if not answer_key:
        return False
    if gold_key == answer_key:
        return True
    if _is_text(gold):
        return _fold(gold_key) == _fold(answer_key)
    gold_number, answer_number = _number(gold), _number(answer)
    if gold_number is not None and answer_number is not None:
        return gold_number == answer_number
    gold_based, answer_based = _BASED.fullmatch(gold_key), _BASED.fullmatch(answer_key)
    if gold_based or (answer_based and gold_number is not None):
        # Either side may leave out the base, which the question often gives.
        gold_digits, gold_base = gold_based.groups() if gold_based else (gold_key, None)
        digits, base = answer_based.groups() if answer_based else (answer_key, None)
        return gold_digits == digits and (base == gold_base or base is None or gold_base is None)
    if len(answer) > _PARSE_CHARS or _SIDE_BY_SIDE.search(answer):
        return False  # math-verify would read "4 5" as the mixed number 4 + 5
    return _same_value(gold, _parse(answer), clean=True)


def _clean(text: str) -> str:
    """The LaTeX of an answer, ready to parse: without dollars, spacing, sizing, a final full stop or a unit."""
    text = _TEXT_AND.sub(", ", text.translate(_UNICODE))
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    text = text.strip().rstrip(".,;").strip()
    text = re.sub(r"^=\s*", "", text)
    if not _CLOCK.search(_TEXT_SPAN.sub(r"\1", text)):
        stripped = _TEXT_UNIT.sub("", text).rstrip(" .")
        if any(char.isdigit() for char in stripped) or r"\pi" in stripped:
            text = stripped
        if unit := _NUMBER_UNIT.fullmatch(text):
            text = unit["number"]
    text = _DEGREES.sub("", text)
    return re.sub(r"[, ]", "", text) if _GROUPED.fullmatch(text) else text


def _key(text: str) -> str:
    """What of an answer is compared as text: text macros are opened, spaces are gone except between two digits."""
    text = _TEXT_SPAN.sub(r"\1", text).strip().rstrip(".,;")
    text = re.sub(r"_\{(\w+)\}", r"_\1", text)
    return re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", text)


def _fold(key: str) -> str:
    """A key for answers that are words: without full stops, parentheses around all of it, and upper case."""
    key = key.replace(".", "")
    if key.startswith("(") and key.endswith(")"):
        key = key[1:-1]
    return key.casefold()


def _is_text(text: str) -> bool:
    r"""Whether an answer is a word, a name, a choice's letter or a time of day: nothing that algebra applies to.

    Three bare lower-case letters may be a product (abc). Four or more, or three with a capital, are taken for a word.
    """
    if _CLOCK.search(_TEXT_SPAN.sub(r"\1", text)):
        return True
    outside = _TEXT_SPAN.sub("", text)
    if outside != text and not any(char.isalnum() for char in outside):
        return True
    return bool(_WORDS.fullmatch(text)) and (len(text) > 3 or not text.islower()) and len(set(text)) > 1


def _number(text: str) -> Decimal | None:
    """The exact value of a plain decimal number; None for anything else."""
    return Decimal(text) if _PLAIN.fullmatch(text) else None


def _same_value(gold: str, answer: Any | None, *, clean: bool = False) -> bool:
    """Whether a parsed answer equals the gold answer symbolically. clean: `gold` went through `_clean` already."""
    if not clean:
        gold = _clean(gold)
    value = _parse(gold) if not _is_text(gold) else None
    if value is None or answer is None:
        return False
    left: Any = getattr(answer, "lhs", None)
    if getattr(left, "is_Add", False) and left.free_symbols and answer.rhs == 0 and not hasattr(value, "lhs"):
        return False  # the equation of a curve, "2x - y - 18 = 0", is not the answer 0
    _, verify, *_ = _math_verify()
    return bool(verify(value, answer, timeout_seconds=None)) and not _lost_in_rounding(value, answer)


def _lost_in_rounding(gold: Any, answer: Any) -> bool:
    """Whether two small numbers are equal to math-verify only because it rounds decimals to 6 places."""
    from sympy import Float

    if not any(getattr(side, "atoms", lambda _: ())(Float) for side in (gold, answer)):
        return False
    try:
        exact, given = complex(gold.doit().evalf()), complex(answer.doit().evalf())
    except (TypeError, ValueError, AttributeError, OverflowError):
        return False  # they are no numbers
    return abs(exact - given) > 1e-4 * abs(exact) and abs(exact) < 1e-2


@lru_cache(maxsize=4096)
def _parse(text: str) -> Any | None:
    """The sympy object that a text in LaTeX stands for, or None if it cannot be read as a whole."""
    if not text:
        return None
    parse, _, boxed, _ = _math_verify()
    # Without "first_match", a box that cannot be read would pass for any fraction inside it.
    return _first_expression(parse(rf"\boxed{{{text}}}", boxed, parsing_timeout=None, extraction_mode="first_match"))


def _parse_prose(text: str) -> Any | None:
    """The sympy object of the last expression in prose, or None."""
    parse, _, _, prose = _math_verify()
    return _first_expression(parse(text, prose, parsing_timeout=None))


def _first_expression(extracted: list[Any]) -> Any | None:
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


def prepare() -> None:
    """Imports and warms up math-verify, so that the first row does not pay for it."""
    math_reward([r"\boxed{\frac{2}{4}}"], [r"\frac{1}{2}"])
