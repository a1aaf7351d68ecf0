r"""Numbers as answers write them, read exactly: `1,234.5`, `1.5e10`, `6.02\times 10^{23}`, `2\frac{1}{4}`, `5e-8`.

No value passes through a float, so `10^{-20}` is not 0, and 0.1 + 0.2 would be 0.3.
"""

import itertools
import math
import re
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache

ROUNDED_DIGITS = 6  # a decimal of at least so many significant digits may stand for what it is rounded from
_COMPUTED_DIGITS = 15  # a decimal of at least so many significant digits was computed: others may round it
_FLOAT_DIGITS = 17  # the most that a computer prints of a float, whose last ones may be wrong
_MAX_EXPONENT = 4000  # of ten: beyond it a number is left to symbolic comparison
_MAX_CHARS = 400
_MAX_DIGITS = 10**5  # of a power, a factorial or a binomial that may be worked out

_DECIMAL = r"(?:\d+\.?\d*|\.\d+)"
_POWER = re.compile(
    rf"(?:(?P<factor>{_DECIMAL})\s*(?:\\times|\\cdot|\*|x)\s*)?10\s*(?:\^|\*\*)\s*"
    r"(?:\{\s*(?P<braced>[-+]?\d{1,6})\s*\}|\(\s*(?P<round>[-+]?\d{1,6})\s*\)|(?P<bare>-?\d{1,6}))"
)
_SCIENTIFIC = re.compile(rf"(?P<decimal>{_DECIMAL})(?:[eE]|\s?E\s?)(?P<exponent>[-+]?\d{{1,6}})")
_FRACTION = re.compile(
    rf"\\frac\{{\s*(?P<top>[-+]?{_DECIMAL})\s*\}}\{{\s*(?P<bottom>[-+]?{_DECIMAL})\s*\}}"
    rf"|(?P<over>{_DECIMAL})\s*/\s*(?P<under>{_DECIMAL})"
)
_MIXED = re.compile(
    r"(?P<whole>\d+)(?:\s*\{?\s*\\frac\{\s*(?P<top>\d+)\s*\}\{\s*(?P<bottom>\d+)\s*\}\s*\}?|\s+(?P<over>\d+)\s*/\s*(?P<under>\d+))"
)
_MIXED_WITHIN = re.compile(rf"(?<![\w.}}^_])(?:{_MIXED.pattern})(?!\d|\s*/)")
_REPEATING = re.compile(
    r"(?P<before>\d*)\.(?P<fixed>\d*)(?:\\(?:overline|bar|dot)\s*\{(?P<line>\d+)\}|\((?P<round>\d+)\)"
    r"|\\dot\{(?P<first>\d)\}(?P<middle>\d*)\\dot\{(?P<last>\d)\})"
)
_MAX_SIGNS = 150  # + - * / and their like
_MAX_DEPTH = 25  # of brackets
_TOWER = re.compile(r"(?=(?<!\d)(?P<base>\d+)\s*\^\s*[{(]?\s*(?P<exponent>\d+)(?:\s*\^\s*[{(]?\s*(?P<top>\d+))?)")
_FACTORIAL = re.compile(r"(?P<of>\d+)\s*!(?P<again>\s*[)}]*\s*!)?|\\binom\{\s*(?P<all>\d[^{}]*(?:\{\d+\})?)\}")
_DOTTED = re.compile(r"(?P<start>\d*\.\d*?)(?P<period>\d{1,6}?)(?P=period){2,}\s*(?:\.\.\.|\\[lc]?dots)")
_GROUPED = re.compile(r"\d{1,3}(?:[, ]\d{3})+(?:\.\d+)?")
_PLAIN = re.compile(_DECIMAL)


@dataclass(frozen=True, slots=True)
class Number:
    """An exact number, and how precisely it was written.

    value: the number.
    rounding: half a unit in the last place of a decimal with at least `ROUNDED_DIGITS` significant digits, else None.
    digits: how many significant digits that decimal has.
    """

    value: Fraction
    rounding: Fraction | None = None
    digits: int = field(default=0, compare=False)

    def times(self, factor: Fraction) -> "Number":
        """The number times a positive factor."""
        return Number(self.value * factor, None if self.rounding is None else self.rounding * factor, self.digits)


def same_number(a: Number, b: Number) -> bool:
    """Whether two numbers are equal, or one is the other, a fraction, rounded: 0.333333 for 1/3, but not 0.33.

    Two decimals are equal only if they are exactly, or one is the other rounded and that has digits as a computer
    prints them: 3.141593 for 3.141592653589793.
    """
    if a.value == b.value:
        return True
    if a.rounding is not None and b.rounding is not None:
        return max(a.digits, b.digits) >= _COMPUTED_DIGITS and abs(a.value - b.value) <= max(a.rounding, b.rounding)
    if a.rounding is None and b.rounding is None:
        return False
    (rounded, exact) = (a, b) if b.rounding is None else (b, a)
    if _terminates(exact.value):
        return False
    assert rounded.rounding is not None, "one of both is rounded"
    return abs(a.value - b.value) <= rounded.rounding


@lru_cache(maxsize=4096)
def read_number(text: str) -> Number | None:
    r"""The number that a cleaned text (see `latex.clean`) is; None where it is more, such as `2+3` or `\sqrt{2}`."""
    text = text.strip()
    if not text or len(text) > _MAX_CHARS or not any(char.isdigit() for char in text):
        return None
    sign = 1
    if text[0] in "+-":
        sign = -1 if text[0] == "-" else 1
        text = text[1:].lstrip()
    found = _unsigned(text)
    return None if found is None else Number(sign * found.value, found.rounding, found.digits)


def open_mixed(text: str) -> str:
    r"""A cleaned text with its mixed numbers as fractions: `2\frac{1}{4}\pi` and `2 1/4 \pi` as `\frac{9}{4}\pi`."""
    return _MIXED_WITHIN.sub(_as_fraction, text)


def _as_fraction(mixed: re.Match[str]) -> str:
    top, bottom = int(mixed["top"] or mixed["over"]), int(mixed["bottom"] or mixed["under"])
    if not 0 < top < bottom:
        return mixed[0]
    return rf"\frac{{{int(mixed['whole']) * bottom + top}}}{{{bottom}}}"


def _unsigned(text: str) -> Number | None:
    if _PLAIN.fullmatch(text):
        return _decimal(text, 0)
    if _GROUPED.fullmatch(text):
        return _decimal(re.sub("[, ]", "", text), 0)
    if match := _SCIENTIFIC.fullmatch(text):
        return _decimal(match["decimal"], int(match["exponent"]))
    if match := _POWER.fullmatch(text):
        return _decimal(match["factor"] or "1", int(match["braced"] or match["round"] or match["bare"]))
    if match := _MIXED.fullmatch(text):
        top, bottom = int(match["top"] or match["over"]), int(match["bottom"] or match["under"])
        return Number(int(match["whole"]) + Fraction(top, bottom)) if 0 < top < bottom else None
    if match := _FRACTION.fullmatch(text):
        under = Fraction(match["bottom"] or match["under"])
        return Number(Fraction(match["top"] or match["over"]) / under) if under else None
    if match := _REPEATING.fullmatch(text):
        period = match["line"] or match["round"] or f"{match['first']}{match['middle']}{match['last']}"
        return _repeating(match["before"], match["fixed"], period)
    if match := _DOTTED.fullmatch(text):
        before, fixed = match["start"].split(".")
        return _repeating(before, fixed, match["period"])
    return None


def is_huge(text: str) -> bool:
    r"""Whether to work out a cleaned text would take minutes or fill memory: `9^{9^{9}}`, `(9!)!`, 500 parentheses."""
    depths = itertools.accumulate((char in "([{") - (char in ")]}") for char in text)
    if max(depths, default=0) > _MAX_DEPTH or sum(map(text.count, "+-*/^=<>")) > _MAX_SIGNS:
        return True
    for power in _TOWER.finditer(text):
        base, exponent, top = (
            min(int(group[:9]), 10**8) for group in (*power.group("base", "exponent"), power["top"] or "1")
        )
        if base > 1 and math.log10(base) * 10 ** min(top * math.log10(max(exponent, 1)), 9) > _MAX_DIGITS:
            return True
    for found in _FACTORIAL.finditer(text):
        if found["all"]:
            number = read_number(found["all"])
            if number and number.value > _MAX_DIGITS:
                return True
        elif len(found["of"]) > 4 or (found["again"] and int(found["of"]) > 6):
            return True
    return False


def _decimal(digits: str, exponent: int) -> Number | None:
    """The number `digits` times ten to the exponent; None for an exponent beyond bounds."""
    if abs(exponent) > _MAX_EXPONENT:
        return None
    scale = Fraction(10) ** exponent
    whole, _, places = digits.partition(".")
    significant = len((whole + places).lstrip("0"))
    value = Fraction(digits) * scale
    if not places or significant < ROUNDED_DIGITS:
        return Number(value)
    rounding = scale / (2 * 10 ** len(places))
    if _COMPUTED_DIGITS <= significant <= _FLOAT_DIGITS:
        rounding = max(rounding, value / 2**52)
    return Number(value, rounding, significant)


def _repeating(before: str, fixed: str, period: str) -> Number:
    r"""The value of a decimal whose period never ends, such as 0.1\overline{6}."""
    whole = Fraction(int(before + fixed or "0"))
    repeated = Fraction(int(period), 10 ** len(period) - 1)
    return Number((whole + repeated) / 10 ** len(fixed))


def _terminates(value: Fraction) -> bool:
    """Whether a fraction is a decimal with finitely many digits."""
    rest: int = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    return rest == 1
