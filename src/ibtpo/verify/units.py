r"""Units behind a number: `12 km/h`, `12 \mathrm{~km} / \mathrm{h}`, `9.8\,\mathrm{m}/\mathrm{s}^2`, `$5 per kg`.

The rule: a unit may be left out, on either side. Where both sides have one and this module knows both, they must not
contradict each other: 5 m is 500 cm, but neither 5 km nor 5 kg. Powers are not compared (cm for cm^2), nor are units
that it does not know.
"""

import itertools
import re
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from .latex import TEXT, TEXT_SPAN
from .numbers import Number, read_number

_F = Fraction
# Names of a unit -> (its dimension, how many of the dimension's own unit it is). Names are matched without a plural s.
_TABLE: dict[str, tuple[str, Fraction]] = {}
for _dimension, _rows in {
    "length": {
        "m meter metre": _F(1), "km kilometer kilometre": _F(1000), "dm decimeter decimetre": _F(1, 10),
        "cm centimeter centimetre": _F(1, 100), "mm millimeter millimetre": _F(1, 1000), "nm nanometer": _F(1, 10**9),
        "ft foot feet": _F(3048, 10000), "inch inches": _F(254, 10000), "yd yard": _F(9144, 10000),
        "mi mile": _F(1609344, 1000),
    },
    "mass": {
        "g gram gm": _F(1), "kg kilogram": _F(1000), "mg milligram": _F(1, 1000), "t ton tonne": _F(10**6),
        "lb pound gbp": _F(45359237, 100000), "oz ounce": _F(45359237, 1600000),
    },
    "time": {
        "s sec second": _F(1), "min minute": _F(60), "h hr hour": _F(3600), "day": _F(86400), "week": _F(604800),
        "ms millisecond": _F(1, 1000),
    },
    "months": {"month": _F(1), "yr year": _F(12)},
    "volume": {
        "l L liter litre": _F(1), "dl dL": _F(1, 10), "cl cL": _F(1, 100), "ml mL milliliter millilitre": _F(1, 1000),
    },
    "money": {"dollar usd": _F(1), "cent": _F(1, 100)},
    "euro": {"euro eur": _F(1)}, "yen": {"yen jpy yuan cny rmb": _F(1)}, "rupee": {"rupee inr Rs": _F(1)},
    "ruble": {"ruble rub": _F(1)}, "won": {"won krw": _F(1)},
    "angle": {"degree deg": _F(1)},
    "radian": {"rad radian": _F(1)},
    "energy": {"J joule": _F(1), "kJ kilojoule": _F(1000), "kwh": _F(3600000)},
    "power": {"W watt": _F(1), "kW kilowatt": _F(1000), "MW": _F(10**6)},
    "force": {"N newton": _F(1), "kN": _F(1000)},
    "pressure": {"Pa pascal": _F(1), "kPa": _F(1000), "MPa": _F(10**6), "atm": _F(101325)},
    "voltage": {"V volt": _F(1), "kV": _F(1000), "mV": _F(1, 1000)},
    "current": {"A amp ampere": _F(1), "mA": _F(1, 1000)},
    "frequency": {"Hz hertz": _F(1), "kHz": _F(1000), "MHz": _F(10**6)},
    "amount": {"mol mole": _F(1), "mmol": _F(1, 1000)},
    "temperature": {"K kelvin": _F(1)}, "celsius": {"celsius": _F(1)}, "fahrenheit": {"fahrenheit": _F(1)},
    "charge": {"C coulomb": _F(1)},
    "resistance": {"Omega ohm": _F(1)},
}.items():  # fmt: skip
    _TABLE |= {name: (_dimension, factor) for names, factor in _rows.items() for name in names.split()}
_SPEEDS = {"mph": "mi/h", "kmh": "km/h", "kph": "km/h", "kmph": "km/h"}

_MONEY = {"money", "euro", "yen", "rupee", "ruble", "won"}
_DEGREE_OF = {"angle", "celsius", "fahrenheit"}  # what a lone degree sign may mean

# Words that may follow a number without being its unit.
_NO_UNITS = r"(?:and|or|but|not|if|when|where|mod|sin|cos|tan|cot|csc|log|exp|sqrt|for|choose|times|plus|minus)\b"
_SHORT = sorted((name for name in {*_TABLE, *_SPEEDS} if 1 < len(name) <= 4), key=len, reverse=True)
_POWER = r"(?:\s*\^\s*(?:\{\s*-?\d\s*\}|-?\d)|(?<=[a-z])[23](?!\d))?"
_MACRO = TEXT + r"\{[^{}]*\}"
_DEGREES = r"(?:\^\s*\{?\s*\\circ\s*\}?|\\degree|°)\s*(?:[CF](?![a-zA-Z])|" + _MACRO + ")?"
_KNOWN = rf"(?:{'|'.join(map(re.escape, _SHORT))}|[mshgLlNJWVAKCt]|\\Omega)(?![a-zA-Z])"
_WORD = rf"(?!{_NO_UNITS})(?=[a-zA-Z]*[aeiouyAEIOUY])[a-zA-Z]{{3,}}"
_ANY_WORD = rf"(?!{_NO_UNITS})[a-zA-Z]{{2,}}"
_JOIN = r"\s*(?:/|\\cdot|\\times|\*|\bper\b)\s*|\s+|-"
# What may stand as a unit, by how it is joined to the number before it.
_COMPOUND = rf"(?:{_MACRO}|{_KNOWN}|{_ANY_WORD}){_POWER}"
_UNIT = re.compile(
    rf"(?P<value>(?=\S).*?(?:[\d)}}!%]|\\pi))(?:"
    rf"(?P<degrees>\s*{_DEGREES})"
    rf"|(?P<macro>\s*{_MACRO}{_POWER}(?:(?:{_JOIN}){_COMPOUND})*)"
    rf"|(?P<spaced>\s+(?:(?:sq|cu)\.?\s+)?(?:{_KNOWN}|{_WORD}){_POWER}(?:(?:{_JOIN}){_COMPOUND})*)"
    rf"|(?P<close>(?:{'|'.join(map(re.escape, _SHORT))})(?![a-zA-Z]){_POWER}(?:(?:{_JOIN}){_COMPOUND})*)"
    rf"|(?P<slash>(?:{_KNOWN}){_POWER}\s*/\s*{_COMPOUND}(?:(?:{_JOIN}){_COMPOUND})*)"
    rf"|(?P<over>\s*(?:/|per\b)\s*(?:(?:{_MACRO}|{_KNOWN}|{_WORD}){_POWER})(?:(?:{_JOIN}){_COMPOUND})*)"
    r")\.?"
)
_SCALE = re.compile(r"degrees?\s+([CF])(?![a-zA-Z])|degrees?\s+(?=(?i:celsius|fahrenheit))")
_CURRENCY = re.compile(
    rf"^(?P<sign>[-+]?)\s*(?:{TEXT}\{{\s*)?(?P<code>USD?|CAD|EUR|GBP|INR|CNY|RMB|JPY|KRW|RUB|pound|yen|rupee|ruble|won|Rs)\.?\s*\}}?"
    r"\s*(?P<number>[-+]?(?:\d[\d,]*)?\.?\d+)"
)
_UPRIGHT_FRACTION = re.compile(rf"\\frac\{{\s*({_MACRO}|{_KNOWN})\s*\}}\{{\s*((?:{_MACRO}|{_KNOWN}){_POWER})\s*\}}")
_PART = re.compile(
    rf"(?P<number>\d+(?:\.\d+)?)\s*(?:{TEXT}\{{\s*(?P<macro>[a-zA-Z]+)\.?\s*\}}|(?P<bare>[a-zA-Z]+))[\s,]*(?:and\s+)?"
)


@dataclass(frozen=True, slots=True)
class Unit:
    """What of a unit is compared.

    powers: its dimensions and the power of each, such as (("length", 1), ("time", -1)).
    factor: how many of the dimensions' own units it is.
    """

    powers: tuple[tuple[str, int], ...]
    factor: Fraction

    @property
    def dimensions(self) -> set[str]:
        """The names of its dimensions."""
        return {name for name, _ in self.powers}


def split_unit(text: str) -> tuple[str, Unit | None]:
    """A cleaned answer without the unit behind its number, and the unit if this module knows it.

    An answer that has no number, or no unit, comes back as it is.
    """
    text = _CURRENCY.sub(_money_behind, text)
    if not any(char.isdigit() for char in text) and r"\pi" not in text:
        return text, None
    text = re.sub(r"(?<=%)\s+[a-zA-Z\s]+$", "", _UPRIGHT_FRACTION.sub(r" \1/\2", text))
    match = _UNIT.fullmatch(text)
    if match is None or not re.search(r"\d|\\pi", match["value"]):
        return text, None
    value = match["value"]
    return value.strip(), read_unit(text[len(value) :])


def contradict(a: Unit, b: Unit) -> bool:
    """Whether two units measure different things: km and kg, dollars and euros, but not ° and °C.

    Of money per something, either part may be left out.
    """
    money = [unit.dimensions & _MONEY for unit in (a, b)]
    rest = [unit.dimensions - _MONEY for unit in (a, b)]
    if all(money) and (money[0] != money[1] or not all(rest)):
        return money[0] != money[1]
    return rest[0] != rest[1] and not ({"angle"} in rest and rest[0] | rest[1] <= _DEGREE_OF)


def _money_behind(prefix: re.Match[str]) -> str:
    """An amount of money with the currency's code behind the number."""
    code = "" if prefix["code"] == "US" else rf" \text{{ {prefix['code']}}}"
    return prefix["sign"] + prefix["number"] + code


@lru_cache(maxsize=1024)
def read_unit(text: str) -> Unit | None:
    """The unit that a text names, or None if one of its words is not known."""
    text = re.sub(r"\^\s*\{?\s*\\circ\s*\}?|\\degree|°", " degree ", TEXT_SPAN.sub(r" \1 ", text))
    text = _SCALE.sub(lambda m: {"C": "celsius", "F": "fahrenheit"}.get(m[1], ""), text)
    text = re.sub(r"\\(?:cdot|times)|\*|-(?=[a-zA-Z])", " ", text).replace("\\", "")
    powers: Counter[str] = Counter()
    factor, under = Fraction(1), False
    for word, power in re.findall(r"(/|[A-Za-z]+)\s*(?:\^?\s*\{?\s*(-?\d))?", text):
        if word in ("/", "per"):
            under = True
        elif word in ("square", "sq", "cubic", "cu", "a", "an", "each"):
            continue
        elif word.lower() in _SPEEDS:
            powers.update(length=1, time=-1)
            length, time = _SPEEDS[word.lower()].split("/")
            factor *= _TABLE[length][1] / _TABLE[time][1]
        elif (known := _look_up(word)) is not None:
            exponent = -int(power or 1) if under else int(power or 1)
            powers[known[0]] += exponent
            factor *= known[1] ** exponent
        else:
            return None
    return Unit(tuple(sorted(powers.items())), factor) if powers else None


def read_amount(text: str) -> tuple[Number, str] | None:
    """A number with a known unit of one dimension, or several that add up (`1 h 20 min`), in the dimension's own unit.

    Returns the number and the dimension, or None for anything else.
    """
    if (several := read_compound(text)) is not None:
        return several
    value, unit = split_unit(text)
    number = read_number(value)
    if number is None or unit is None or len(unit.powers) != 1 or unit.powers[0][1] != 1:
        return None
    return number.times(unit.factor), unit.powers[0][0]


def read_compound(text: str) -> tuple[Number, str] | None:
    """An amount of several units of one dimension, the largest first: 4800 and "time" for `1 hour 20 minutes`."""
    at, total, found = 0, Fraction(0), []
    while match := _PART.match(text, at):
        known = _look_up(match["macro"] or match["bare"])
        if known is None:
            return None
        found.append(known)
        number = read_number(match["number"])
        assert number is not None, "digits are a number"
        total += number.value * known[1]
        at = match.end()
    falling = all(a[0] == b[0] and a[1] > b[1] for a, b in itertools.pairwise(found))
    return (Number(total), found[0][0]) if len(found) > 1 and falling and at == len(text) else None


def _look_up(word: str) -> tuple[str, Fraction] | None:
    """Dimension and factor of a unit's name, also in the plural and with another case where it is a long name."""
    for name in (word, word.lower(), word.removesuffix("s"), word.lower().removesuffix("s")):
        if name in _TABLE and (name == word or len(word) > 2):
            return _TABLE[name]
    return None
