r"""Numbers as answers write them, read exactly: `1,234.5`, `1.5e10`, `6.02\times 10^{23}`, `2\frac{1}{4}`, `5e-8`.

No value passes through a float, so `10^{-20}` is not 0, and 0.1 + 0.2 would be 0.3.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

ROUNDED_DIGITS = 6  # a decimal of at least so many significant digits may stand for what it is rounded from
_MAX_EXPONENT = 4000  # of ten: beyond it a number is left to symbolic comparison
_MAX_CHARS = 400

_DECIMAL = r"(?:\d+\.?\d*|\.\d+)"
_POWER = re.compile(
    rf"(?:(?P<factor>{_DECIMAL})\s*(?:\\times|\\cdot|\*|x)\s*)?10\s*(?:\^|\*\*)\s*"
    r"(?:\{\s*(?P<braced>[-+]?\d{1,6})\s*\}|\(\s*(?P<round>[-+]?\d{1,6})\s*\)|(?P<bare>-?\d{1,6}))"
)
_SCIENTIFIC = re.compile(rf"(?P<decimal>{_DECIMAL})[eE](?P<exponent>[-+]?\d{{1,6}})")
_FRACTION = re.compile(
    rf"\\frac\{{\s*(?P<top>[-+]?{_DECIMAL})\s*\}}\{{\s*(?P<bottom>[-+]?{_DECIMAL})\s*\}}"
    rf"|(?P<over>{_DECIMAL})\s*/\s*(?P<under>{_DECIMAL})"
)
_MIXED = re.compile(
    r"(?P<whole>\d+)(?:\s*\{?\s*\\frac\{\s*(?P<top>\d+)\s*\}\{\s*(?P<bottom>\d+)\s*\}\s*\}?|\s+(?P<over>\d+)\s*/\s*(?P<under>\d+))"
)
_REPEATING = re.compile(
    r"(?P<before>\d*)\.(?P<fixed>\d*)(?:\\(?:overline|bar|dot)\s*\{(?P<line>\d+)\}|\((?P<round>\d+)\)"
    r"|\\dot\{(?P<first>\d)\}(?P<middle>\d*)\\dot\{(?P<last>\d)\})"
)
_DOTTED = re.compile(r"(?P<start>\d*\.\d*?)(?P<period>\d{1,6}?)(?P=period){2,}\s*(?:\.\.\.|\\[lc]?dots)")
_GROUPED = re.compile(r"\d{1,3}(?:[, ]\d{3})+(?:\.\d+)?")
_PLAIN = re.compile(_DECIMAL)


@dataclass(frozen=True, slots=True)
class Number:
    """An exact number, and how precisely it was written.

    value: the number.
    rounding: half a unit in the last place of a decimal with at least `ROUNDED_DIGITS` significant digits, else None.
    """

    value: Fraction
    rounding: Fraction | None = None

    def times(self, factor: Fraction) -> "Number":
        """The number times a positive factor."""
        return Number(self.value * factor, None if self.rounding is None else self.rounding * factor)


def same_number(a: Number, b: Number) -> bool:
    """Whether two numbers are equal, or one is the other, a fraction, rounded: 0.333333 for 1/3, but not 0.33.

    Two decimals are equal only if they are exactly.
    """
    if a.value == b.value:
        return True
    if (a.rounding is None) == (b.rounding is None):
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
    return None if found is None else Number(sign * found.value, found.rounding)


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


def _decimal(digits: str, exponent: int) -> Number | None:
    """The number `digits` times ten to the exponent; None for an exponent beyond bounds."""
    if abs(exponent) > _MAX_EXPONENT:
        return None
    scale = Fraction(10) ** exponent
    whole, _, places = digits.partition(".")
    significant = len((whole + places).lstrip("0"))
    rounded = bool(places) and significant >= ROUNDED_DIGITS
    return Number(Fraction(digits) * scale, scale / (2 * 10 ** len(places)) if rounded else None)


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
