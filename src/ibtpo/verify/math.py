r"""`math_reward`: is the final answer of a completion mathematically equal to the gold answer?

Three stages, cheapest first: the same text after a light normalisation; exact comparison of plain numbers; symbolic
comparison by math-verify (https://github.com/huggingface/Math-Verify). Differences from math-verify alone:

- Only the last complete `\boxed{...}` counts; an unfinished box is no answer. Several boxes are never merged.
- A text answer (`\text{even}`, `(C)`, `8:34 p.m.`) is compared as text: as a product of letters, "east" equals "seat".
- Units are stripped only where they are words (`\text{ cm}`, "18 dollars"), never single letters as in `2t`.
- The base of `2516_8` counts, two numbers side by side are not a sum, and 0.0 is not 10^-7.

math-verify's own time limits use signals, which fail off the main thread: they are off. The deadline is the verifier
process's (`pool.VerifierPool`).
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

_BOX = re.compile(r"\\(?:boxed|fbox)(?![a-zA-Z])")
_BRACES = re.compile(
    r"\\(?:boxed|fbox)(?:(?P<box>\s*\{)|(?P<bare>\s+[^\s{}$\\]+|\d[^\s{}$\\]*))|\\.|[{}]", re.DOTALL
)  # `\.` skips escaped braces: those are a set's, not the box's
_HASHES = re.compile(r"^\s*####\s*(.+?)\s*$", re.MULTILINE)
_ANCHOR = re.compile(r"(?i)(?:\banswer\b[^\n.:=]{0,60}?(?:\bis\b|[:=])|答案[是为：:]+)[\s:：*]*(?P<answer>[^\n]*)")
_MATH_SPAN = re.compile(r"\$\$(.+?)\$\$|\$([^$\n]+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_SENTENCE_END = re.compile(r"\.(?=\s|\**\s*$)|。")

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
_GROUPED = re.compile(r"[-+]?\d{1,3}(?:[, ]\d{3})+(?:\.\d+)?")
_PLAIN = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)")
_BASED = re.compile(r"([0-9A-Za-z]+)_\{?(\d+)\}?")
_SIDE_BY_SIDE = re.compile(r"\d\s+\d")
_WORDS = re.compile(r"[A-Za-z]{3,}(?:[ '-]+[A-Za-z]+)*")
_CLOCK = re.compile(r"\d\s*[ap]\.?\s?m\.?$", re.IGNORECASE)

_UNICODE = str.maketrans(
    {"−": "-", "–": "-", "×": r"\times ", "·": r"\cdot ", "π": r"\pi ", "∞": r"\infty ", "°": r"^\circ", "²": "^2"}
    | {"³": "^3", "（": "(", "）": ")", "，": ",", "\u00a0": " ", "€": "", "£": "", "¥": ""}
)
_REWRITES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\(?:left|right)\s*\.", ""),
        (r"\\(?:left|right|[bB]igg?[lrm]?|displaystyle|textstyle)(?![a-zA-Z])", ""),
        (r"(?:,\s*\\!|\{,\}(?:\\!)?)(?=\d{3}(?!\d))", ""),
        (r"(?<!\\)\\!", ""),
        (r"(?<!\\)\\[,;: ]|\\q?quad(?![a-zA-Z])|~", " "),
        (r"\{\s*,\s*\}", ","),
        (r",\s*,", ","),
        (r"\\phantom\s*(?:\{[^{}]*\}|.)", ""),
        (r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"),
        (r"\\frac\s*\\pi\s*(\d)", r"\\frac{\\pi}{\1}"),
        (_TEXT + r"\{\s*(-?\d[\d.,]*)\s*\}", r"\1"),
        (r"\\\$|\$|\\\(|\\\)|\\\[|\\\]", ""),
        (r"\\approx(?![a-zA-Z])(?=\s*-?[\d.]+\s*(?:\\(?:text|mbox).*)?$)", ""),
    )
)
_PROSE_CHARS = 300  # how much prose is searched for an expression: the search is quadratic
_PARSE_CHARS = 2000  # a longer answer is compared as text only


def math_reward(completions: Sequence[Any], answer: Sequence[Any], **kwargs: Any) -> list[float | None]:
    r"""TRL reward function: 1.0 if the final answer equals the gold one, else 0.0, None where a row has no gold.

    completions: (R,) texts, or conversations whose last message is the answer.
    answer: (R,) gold answers in LaTeX or plain text, or numbers; a `\boxed{}` or `#### 18` inside one is followed.
    Raises `DependencyError` without math-verify.
    """
    return [
        None if (gold := gold_text(row)) is None else float(is_correct(completion_text(completion), gold))
        for completion, row in zip(completions, answer, strict=True)
    ]


def gold_text(answer: Any) -> str | None:
    """A gold answer as text, or None where there is none (None, NaN, empty)."""
    if answer is None or (isinstance(answer, float) and math.isnan(answer)):
        return None
    text = str(answer).strip()
    return explicit_answer(text) or text or None


def is_correct(text: str, gold: str) -> bool:
    r"""Whether the final answer of `text` equals `gold`.

    The final answer is the last complete `\boxed{}`; else what follows the last `####`; else what follows the last
    "answer is" or "answer:"; else the last expression of the text.
    """
    if _BOX.search(text):
        boxed = last_boxed(text)
        return boxed is not None and equivalent(gold, boxed)
    stated = explicit_answer(text)
    if stated is not None:
        return equivalent(gold, stated)
    text = text.replace(r"\$", "").strip()  # a dollar sign of money would pair with one of maths
    tail, stated_in_words = _final_words(text)
    sentence = _SENTENCE_END.split(tail, maxsplit=1)[0].strip(" *")
    if equivalent(gold, sentence):
        return True
    spans = [next(filter(None, groups)) for groups in _MATH_SPAN.findall(tail)]
    if spans:
        return equivalent(gold, ", ".join(spans) if stated_in_words else spans[-1])
    if stated_in_words and _parse(_clean(sentence)) is not None:
        return False
    return _same_value(gold, _parse_prose(tail if stated_in_words else text[-_PROSE_CHARS:]))


def _final_words(text: str) -> tuple[str, bool]:
    """What follows the last "answer is" (to the end of its line or formula), else the last line; and which it is."""
    for anchor in reversed(list(_ANCHOR.finditer(text))):
        line = anchor["answer"].strip(" *")
        formula = _MATH_SPAN.match(text, anchor.start("answer"))
        if formula and "\n" in formula[0] and len(formula[0]) < _PROSE_CHARS:
            return formula[0], True
        if line:
            return line[:_PROSE_CHARS], True
    return text[-_PROSE_CHARS:].rpartition("\n")[2].strip(" *"), False


def boxed_contents(text: str) -> list[tuple[int, str]]:
    r"""(start, content) of every `\boxed{...}` or `\fbox{...}` whose braces balance, and of `\boxed 5`; by start."""
    found: list[tuple[int, str]] = []
    open_braces: list[tuple[int, int] | None] = []  # (start of the box, start of its content); None: any other brace
    for token in _BRACES.finditer(text):  # one pass: a degenerate completion repeats an unfinished box for pages
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
    r"""The content of the last complete `\boxed{...}`, or None."""
    boxes = boxed_contents(text)
    return boxes[-1][1] if boxes else None


def explicit_answer(text: str) -> str | None:
    r"""What the last complete `\boxed{}` or, without one, the last line starting with `####` says, or None."""
    boxed = last_boxed(text)
    if boxed is not None:
        return boxed
    hashes = _HASHES.findall(text)
    return hashes[-1] if hashes else None


def equivalent(gold: str, answer: str) -> bool:
    """Whether two answers (without a box or prose around them) are equal. Not symmetric: `x = 5` may answer 5."""
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
        # The base may be left out by either side: questions often fix it.
        gold_digits, gold_base = gold_based.groups() if gold_based else (gold_key, None)
        digits, base = answer_based.groups() if answer_based else (answer_key, None)
        return gold_digits == digits and (base == gold_base or base is None or gold_base is None)
    if len(answer) > _PARSE_CHARS or _SIDE_BY_SIDE.search(answer):
        return False  # math-verify reads "4 5" as the mixed number 4 + 5
    return _same_value(gold, _parse(answer), clean=True)


def _clean(text: str) -> str:
    """LaTeX to parse: no dollars, spacing, sizing, final full stop or trailing unit."""
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
    """For comparison as text: text macros opened, spaces gone except between two digits."""
    text = _TEXT_SPAN.sub(r"\1", text).strip().rstrip(".,;")
    text = re.sub(r"_\{(\w+)\}", r"_\1", text)
    return re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", text)


def _fold(key: str) -> str:
    key = key.replace(".", "")
    if key.startswith("(") and key.endswith(")"):
        key = key[1:-1]
    return key.casefold()


def _is_text(text: str) -> bool:
    r"""A word, a name, a choice's letter, a time of day: nothing that algebra applies to.

    Three bare lower-case letters may be a product (abc); four or more, or with a capital, are taken for a word.
    """
    if _CLOCK.search(_TEXT_SPAN.sub(r"\1", text)):
        return True
    outside = _TEXT_SPAN.sub("", text)
    if outside != text and not any(char.isalnum() for char in outside):
        return True
    return bool(_WORDS.fullmatch(text)) and (len(text) > 3 or not text.islower()) and len(set(text)) > 1


def _number(text: str) -> Decimal | None:
    return Decimal(text) if _PLAIN.fullmatch(text) else None


def _same_value(gold: str, answer: Any | None, *, clean: bool = False) -> bool:
    """Symbolic comparison of gold text with a parsed answer."""
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
    """math-verify compares a decimal after rounding to 6 places: two different small numbers both become 0."""
    from sympy import Float

    if not any(getattr(side, "atoms", lambda _: ())(Float) for side in (gold, answer)):
        return False
    try:
        exact, given = complex(gold.doit().evalf()), complex(answer.doit().evalf())
    except (TypeError, ValueError, AttributeError, OverflowError):
        return False  # not numbers
    return abs(exact - given) > 1e-4 * abs(exact) and abs(exact) < 1e-2


@lru_cache(maxsize=4096)
def _parse(text: str) -> Any | None:
    """A sympy object, or None if the LaTeX cannot be read as a whole."""
    if not text:
        return None
    parse, _, boxed, _ = _math_verify()
    # Without first_match a box that cannot be read passes for any fraction within it.
    return _first_expression(parse(rf"\boxed{{{text}}}", boxed, parsing_timeout=None, extraction_mode="first_match"))


def _parse_prose(text: str) -> Any | None:
    """The last expression of prose, or None."""
    parse, _, _, prose = _math_verify()
    return _first_expression(parse(text, prose, parsing_timeout=None))


def _first_expression(extracted: list[Any]) -> Any | None:
    return next((item for item in extracted if not isinstance(item, str)), None)


@lru_cache(maxsize=1)
def _math_verify() -> tuple[Any, Any, list[Any], list[Any]]:
    """parse, verify, and the extraction settings for a box and for prose."""
    try:
        from latex2sympy2_extended import NormalizationConfig
        from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify
    except ImportError as error:
        raise DependencyError(
            "the math verifier needs math-verify; install it with: pip install 'ibtpo[math]'"
        ) from error
    # Both warn that their time limits are off, which is on purpose here.
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
