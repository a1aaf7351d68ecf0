r"""`equivalent`: do two answers say the same? The cheapest comparison that applies decides.

1. The same text after `latex.clean`; words (`\text{even}`, `(C)`, `8:34 p.m.`) are compared as text only, since as a
   product of letters "east" equals "seat".
2. Lists and sets, tuples and intervals: part by part. In a list the order does not matter, but how often a part occurs
   does; `\pm` is two parts.
3. Numbers, exactly; percentages and units by the rules below; ratios and times (`3:4`, `12:30`) number by number.
4. All else: symbolically, by math-verify (`symbolic`).

Percent: with a sign on both sides the numbers are compared. With a sign on one side only it may have been left out or
carried out, so that 12.5 % is 12.5 and is 0.125. Units: see `units`.
"""

import itertools
import re
from collections.abc import Sequence
from fractions import Fraction

from .latex import TEXT, TEXT_SPAN, clean
from .numbers import open_mixed, read_number, same_number
from .symbolic import parse, same_sets, same_value
from .units import Unit, contradict, read_amount, read_compound, split_unit

_CLEAN_CHARS = 8000  # characters; a longer answer is compared as it stands
_PARSE_CHARS = 2000  # characters; a longer answer is compared as text only, in one spelling
_MOST_PARTS = 60  # of a list; a longer one is compared in order

_BASED = re.compile(r"\(?([0-9A-Za-z]+)\)?_\{?(\d+)\}?")
_SIDE_BY_SIDE = re.compile(r"\d\s+\d")
_WORDS = re.compile(r"[A-Za-z]{3,}(?:[ '-]+[A-Za-z]+)*")
_TIME = re.compile(
    r"(?P<hour>\d{1,2})\s*:\s*(?P<minute>\d{2})(?:\s*(?P<half>[ap])\.?\s?m\.?)?(?:\s*o'clock)?", re.IGNORECASE
)
_CLOCK = re.compile(r"\d\s*[ap]\.?\s?m\.?$", re.IGNORECASE)
_GROUPED = re.compile(r"[-+]?\d{1,3}(?:[, ]\d{3})+(?:\.\d+)?")
_AND = re.compile(
    TEXT
    + r"\{\s*[,;]?\s*(?:and|or)\s*,?\s*\}|(?<![a-zA-Z\\{])(?:and|or)(?![a-zA-Z])|\\(?:lor|land|vee|wedge)(?![a-zA-Z])|;"
)
_MIXED_AND = re.compile(r"(-?\d+)\s*(?:and|" + TEXT + r"\{\s*and\s*\})\s*(\d+\s*/\s*\d+|\\frac\{\d+\}\{\d+\})")
_PRIME = re.compile(r"(?<=[A-Za-z)])'")
_MODULO = re.compile(
    r"(?:[A-Za-z]\s*\\equiv(?![a-zA-Z])\s*)?(?P<value>[^\\]+?)\s*(?:\\pmod\s*\{?\s*(?P<of>\w+)\s*\}?|\(\s*\\?(?:b?mod|"
    + TEXT
    + r"\{\s*mod\s*\})\s*(?P<by>\w+)\s*\))"
)
_PLUS_MINUS = re.compile(r"\\(pm|mp)(?![a-zA-Z])\s*")
_NEEDLESS_PLUS = re.compile(r"(^|[=({,\[])\s*\+")
_LEFT_SIDE = r"(?P<left>(?:[A-Za-z\\ '(),|{}:]|_\{?\w+\}?)*[A-Za-z}](?:[ ')]|_\{?\w+\}?)*)"
_ASSIGNED = re.compile(_LEFT_SIDE + r"\s*=\s*(?:[^=<>]*=\s*)*(?P<right>[^=<>]+)")
_SET_NAMED = re.compile(
    r"[A-Za-z](?:_\{?\w+\}?)?(?:\s*\\cup\s*[A-Za-z]|\s*\\cap\s*[A-Za-z])?\s*=\s*(?P<right>\\\{.*\\\})"
)
_MEMBER = re.compile(r"[A-Za-z]\s*\\in(?![a-zA-Z])\s*(?P<right>.+)")
_LONG_WORD = re.compile(r"(?<![A-Za-z\\])(?=[A-Za-z]*[aeiouyAEIOUY])[A-Za-z]{3,}")
_SHORT_WORDS = {
    "yes",
    "no",
    "odd",
    "one",
    "two",
    "six",
    "ten",
    "all",
    "red",
    "sun",
    "mon",
    "tue",
    "wed",
    "thu",
    "fri",
    "sat",
}
_FUNCTIONS = {
    "sin",
    "cos",
    "tan",
    "cot",
    "sec",
    "csc",
    "sinh",
    "cosh",
    "tanh",
    "arcsin",
    "arccos",
    "arctan",
    "log",
    "exp",
    "sqrt",
    "gcd",
    "lcm",
    "max",
    "min",
    "mod",
    "det",
    "lim",
}
_RELATION = re.compile(r"<|>|\\(?:le|ge|ne|cup|setminus|mathbb|in)(?![a-zA-Z])")
_TO = re.compile(r"(?P<left>\S+)\s*(?:\bto\b|" + TEXT + r"\{\s*to\s*\})\s*(?P<right>\S+)")


def equivalent(gold: str, answer: str) -> bool:
    """Whether an answer equals the gold answer, both without a box or prose around them.

    `x = 5` equals 5. Whether words or values are compared, `gold` decides.
    """
    if max(len(gold), len(answer)) > _CLEAN_CHARS:
        return gold.strip() == answer.strip()
    return _same(clean(gold), clean(answer))


def reads_whole(text: str) -> bool:
    """Whether all of a text is an answer, with no prose around it: a number, a list, an expression."""
    text = clean(text)
    if _has_prose(split_unit(text)[0]):
        return False
    return all(_ratio(part) or read_number(split_unit(part)[0]) or parse(part) is not None for part in _parts(text))


def _same(gold: str, answer: str) -> bool:
    """`equivalent` for cleaned texts."""
    gold_key, answer_key = _key(gold), _key(answer)
    if not answer_key:
        return False
    if gold_key == answer_key:
        return True
    if max(len(gold), len(answer)) > _PARSE_CHARS:
        return False
    if _CLOCK.search(TEXT_SPAN.sub(r"\1", gold)) and (minute := _clock(gold)) is not None:
        return minute == _clock(answer)
    if _is_text(gold):
        return _fold(gold_key) == _fold(answer_key)
    moduli = [_MODULO.fullmatch(side) for side in (gold, answer)]
    if any(moduli):
        values = [m["value"] if m else side for m, side in zip(moduli, (gold, answer), strict=True)]
        bases = {m["of"] or m["by"] for m in moduli if m}
        return len(bases) == 1 and _same(*values)
    gold, answer = _without_set_name(gold, answer)
    if _RELATION.search(gold) or _RELATION.search(answer):
        same = same_sets(gold, answer)
        if same is not None:
            return same
    if read_compound(gold) or read_compound(answer):
        first, second = read_amount(gold), read_amount(answer)
        return bool(first and second and first[1] == second[1] and same_number(first[0], second[0]))
    gold_parts, answer_parts = _parts(gold), _parts(answer)
    if len(gold_parts) == 1 and len(answer_parts) == 2 and _MIXED_AND.fullmatch(answer):
        answer_parts = [_MIXED_AND.sub(r"\1 \2", answer)]  # "2 and 1/4"
    if len(gold_parts) > 1 or len(answer_parts) > 1:
        return _same_parts(gold, gold_parts, answer, answer_parts)
    gold, answer = _without_name(gold_parts[0], answer_parts[0])
    gold_tuple, answer_tuple = _tuple(gold), _tuple(answer)
    if gold_tuple and answer_tuple:
        return gold_tuple[0] == answer_tuple[0] and _same_in_order(gold_tuple[1], answer_tuple[1])
    if (gold, answer) != (gold_parts[0], answer_parts[0]):
        return _same(gold, answer)
    return _same_single(gold, answer)


def _same_parts(gold: str, gold_parts: list[str], answer: str, answer_parts: list[str]) -> bool:
    """Whether two answers are equal of which at least one is a list of several parts."""
    for whole, alone, others in ((gold, gold_parts, answer_parts), (answer, answer_parts, gold_parts)):
        if len(alone) == 1 and (pair := _tuple(_without_name(alone[0], "")[0])) is not None:
            plain = pair[0] == "()" or (pair[0] == "[]" and len(pair[1]) > 2)  # [1, 2] may be an interval
            return plain and whole[:1] != "\\" and _same_in_order(pair[1], others)
    if gold.startswith(r"\{") and answer.startswith(r"\{"):
        gold_parts, answer_parts = _distinct(gold_parts), _distinct(answer_parts)
    if len(gold_parts) != len(answer_parts):
        return False
    if len(gold_parts) > _MOST_PARTS:
        return _same_in_order(gold_parts, answer_parts)
    left = list(answer_parts)
    for part in gold_parts:
        place = next((i for i, other in enumerate(left) if _same(part, other)), None)
        if place is None:
            return False
        del left[place]
    return True


def _same_in_order(gold: Sequence[str], answer: Sequence[str]) -> bool:
    """Whether two sequences have equal parts at each place."""
    return len(gold) == len(answer) and all(map(_same, gold, answer))


def _distinct(parts: list[str]) -> list[str]:
    """The parts of a set, each once."""
    found: list[str] = []
    for part in parts:
        if not any(_same(other, part) for other in found):
            found.append(part)
    return found


def _same_single(gold: str, answer: str) -> bool:
    """Whether two answers of one part each are equal."""
    gold_ratio, answer_ratio = _ratio(gold), _ratio(answer)
    if gold_ratio or answer_ratio:
        if gold_ratio and (to := _TO.fullmatch(answer)):
            answer_ratio = [to["left"], to["right"]]
        if gold_ratio and not _CLOCK.search(gold):
            answer_ratio = _ratio(_CLOCK.sub(lambda m: m[0][0], TEXT_SPAN.sub(r"\1", answer))) or answer_ratio
        if not (gold_ratio and answer_ratio) or list(map(_has_zero, gold_ratio[1:])) != list(
            map(_has_zero, answer_ratio[1:])
        ):
            return False  # 12:05 is not 12:5
        return _same_in_order(gold_ratio, answer_ratio)
    if gold.endswith("%") != answer.endswith("%") or (gold.endswith("%") and answer.endswith("%")):
        return _same_percent(gold, answer)
    return _same_amount(gold, answer)


def _same_percent(gold: str, answer: str) -> bool:
    """The rule for percentages, see the head of this file. At least one side ends with a sign."""
    bare = [side.removesuffix("%").strip() for side in (gold, answer)]
    if _same_amount(*bare):
        return True
    if gold.endswith("%") and answer.endswith("%"):
        return False
    hundredth = [rf"\frac{{{side[:-1].strip()}}}{{100}}" if side.endswith("%") else side for side in (gold, answer)]
    numbers = [read_number(side) for side in bare]
    if numbers[0] and numbers[1]:
        scaled = [
            n.times(Fraction(1, 100)) if s.endswith("%") else n
            for n, s in zip(numbers, (gold, answer), strict=True)
            if n
        ]
        return same_number(scaled[0], scaled[1])
    return _same_amount(*hundredth)


def _same_amount(gold: str, answer: str) -> bool:
    """Whether two numbers or expressions are equal, each with or without a unit."""
    (gold, gold_unit), (answer, answer_unit) = split_unit(gold), split_unit(answer)
    if gold.endswith("%") or answer.endswith("%"):
        return _same_percent(gold, answer)
    if gold_unit and answer_unit and gold_unit != answer_unit:
        if contradict(gold_unit, answer_unit):
            return False
        ratio = answer_unit.factor / gold_unit.factor
        if ratio != 1 and gold_unit.powers == answer_unit.powers:
            if (wanted := read_number(gold)) and (number := read_number(answer)):
                return same_number(wanted, number.times(ratio))
            answer = rf"({answer}) \cdot \frac{{{ratio.numerator}}}{{{ratio.denominator}}}"
    gold, answer = open_mixed(gold), open_mixed(answer)
    if _key(gold) == _key(answer):
        return True
    gold, answer = _in_radians(gold, gold_unit, answer), _in_radians(answer, answer_unit, gold)
    gold_number, answer_number = read_number(gold), read_number(answer)
    if gold_number and answer_number:
        return same_number(gold_number, answer_number)
    gold_based, answer_based = _BASED.fullmatch(_key(gold)), _BASED.fullmatch(_key(answer))
    if gold_based or (answer_based and gold_number):
        # Either side may leave out the base, which the question often gives.
        gold_digits, gold_base = gold_based.groups() if gold_based else (_key(gold), None)
        digits, base = answer_based.groups() if answer_based else (_key(answer), None)
        return gold_digits == digits and (base == gold_base or base is None or gold_base is None)
    if len(_PRIME.findall(gold)) != len(_PRIME.findall(answer)):
        return False  # math-verify would not see the difference
    if _SIDE_BY_SIDE.search(answer) or _has_prose(answer, gold):
        return False  # math-verify would read "4 5" as the mixed number 4 + 5, and words as products of letters
    return same_value(parse(gold), parse(answer))


def _in_radians(text: str, unit: Unit | None, other: str) -> str:
    r"""An angle in degrees in radians, if the other side has no unit but a `\pi`: 45° for \frac{\pi}{4}."""
    if unit is None or unit.dimensions != {"angle"} or r"\pi" not in other or r"\pi" in text:
        return text
    return rf"\frac{{{text}}}{{180}}\pi"


def _parts(text: str) -> list[str]:
    r"""The parts of a list or of a set in braces, with `\pm` as two; a text that is no list is its only part."""
    if text.startswith(r"\{") and text.endswith(r"\}") and r"\}" not in text[2:-2]:
        text = text[2:-2]
    text = text.strip()
    if _GROUPED.fullmatch(text):
        return [text]
    text = re.sub(r",\s*(?:,\s*)+", ", ", _AND.sub(", ", text)) if not _WORDS.fullmatch(text) else text
    return [part for piece in _split(text, ",") for part in _both_signs(piece)]


def _split(text: str, mark: str) -> list[str]:
    """A text cut at a mark where it stands outside of all brackets. A comma between thousands is no mark."""
    places, depth = [], 0
    for i, char in enumerate(text):
        if char in "([{":
            depth += 1
        elif char in ")]}":
            depth -= 1
        elif char == mark and depth == 0:
            places.append(i)
    if mark == "," and any(text[i + 1 : i + 2] == " " for i in places):
        places = [i for i in places if not re.match(r"\d,\d{3}(?!\d)", text[max(i - 1, 0) :])]
    cut = [-1, *places, len(text)]
    return [text[start + 1 : end].strip() for start, end in itertools.pairwise(cut)]


def _both_signs(text: str) -> list[str]:
    r"""A part with `\pm` as two parts, with the upper signs and with the lower ones."""
    if not _PLUS_MINUS.search(text):
        return [text]
    signs = ({"pm": "+", "mp": "-"}, {"pm": "-", "mp": "+"})
    return [_NEEDLESS_PLUS.sub(r"\1", _PLUS_MINUS.sub(lambda m, s=sign: s[m[1]], text)) for sign in signs]  # type: ignore[misc]


def _tuple(text: str) -> tuple[str, list[str]] | None:
    """The brackets, such as "[)", and the parts of a tuple or an interval; None for anything else."""
    text = text.replace(r"\langle", "(").replace(r"\rangle", ")")
    if len(text) < 2 or text[0] not in "([" or text[-1] not in ")]":
        return None
    inside = text[1:-1]
    depth = 0
    for char in inside:
        depth += (char in "([{") - (char in ")]}")
        if depth < 0:
            return None
    parts = _split(inside, ",") if depth == 0 else []
    return (text[0] + text[-1], parts) if len(parts) > 1 else None


def _without_name(gold: str, answer: str) -> tuple[str, str]:
    r"""Both answers without a name before them, `x = 5` as 5 and `x \in A` as A, unless the names differ."""
    names, values = [], []
    for side in (gold, answer):
        match = ("=" in side and _ASSIGNED.fullmatch(side)) or _MEMBER.fullmatch(side)
        names.append("" if not match else _key(match.groupdict().get("left", "")))
        values.append(side if not match else match["right"].strip())
    names = ["y" if re.fullmatch(r"[a-z]\(x\)", name) else name for name in names]
    if names[0] and names[1] and names[0] != names[1]:
        return gold, answer
    if any("=" in value for value in values):
        return gold, answer  # another equation on one side: symbolic comparison may solve it
    return values[0], values[1]


def _without_set_name(gold: str, answer: str) -> tuple[str, str]:
    r"""Both answers without a name before a set or a tuple, `S = \{1, 2\}`, if only one side has it."""
    named = [_SET_NAMED.fullmatch(side) for side in (gold, answer)]
    if all(named):
        return gold, answer
    return named[0]["right"] if named[0] else gold, named[1]["right"] if named[1] else answer


def _ratio(text: str) -> list[str] | None:
    """The numbers of a ratio or a time of day, such as 6, 3 and 1 of `6:3:1`; None for anything else."""
    if ":" not in text or r"\{" in text or TEXT_SPAN.search(text):
        return None
    parts = _split(text[1:-1] if re.fullmatch(r"\([^(),]*\)", text) else text, ":")
    words = any(re.search(r"[^\W\d_]{3,}", part) for part in parts if "\\" not in part)
    return parts if len(parts) > 1 and all(parts) and not words else None


def _has_zero(part: str) -> bool:
    """Whether a part of a ratio or a time is written with a leading zero."""
    return part.startswith("0") and len(part) > 1


def _clock(text: str) -> int | None:
    """The minute of the day of a time with minutes, read in 24 hours where it has no a.m. or p.m."""
    match = _TIME.fullmatch(TEXT_SPAN.sub(r"\1", text).strip())
    if match is None:
        return None
    hour, half = int(match["hour"]), (match["half"] or "").lower()
    if half and 1 <= hour <= 12:
        hour = hour % 12 + (12 if half == "p" else 0)
    return 60 * hour + int(match["minute"])


def _key(text: str) -> str:
    """What of an answer is compared as text: text macros are opened, spaces are gone except between two digits."""
    text = TEXT_SPAN.sub(r"\1", text).strip().rstrip(".,;")
    text = re.sub(r"([_^])\{(\w)\}|_\{(\w+)\}", lambda m: m[1] + m[2] if m[1] else f"_{m[3]}", text)
    text = re.sub(r"[, ]", "", text) if _GROUPED.fullmatch(text) else text
    return re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", text).removeprefix("+")


def _has_prose(text: str, gold: str = "") -> bool:
    """Whether a text has words other than the names of functions, and other than letters of the gold answer."""
    words = _LONG_WORD.findall(TEXT_SPAN.sub(" ", text))
    return any(word not in _FUNCTIONS and not set(word) <= set(gold) for word in words)


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
    if _CLOCK.search(TEXT_SPAN.sub(r"\1", text)):
        return True
    outside = TEXT_SPAN.sub("", text)
    if outside != text and not any(char.isalnum() for char in outside):
        return True
    if text.lower() in _SHORT_WORDS:
        return True
    return bool(_WORDS.fullmatch(text)) and (len(text) > 3 or not text.islower()) and len(set(text)) > 1
