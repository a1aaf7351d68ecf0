"""Turns values into text for people: numbers, tables and messages, as every part of the package shows them."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

# Characters that can make a text appear in another order than it is stored in, and Unicode's line separators.
BIDI = "\u061c\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
_HIDDEN = re.compile(f"[\x00-\x1f\x7f-\x9f{BIDI}\ud800-\udfff]")


def without_nan(value: Any) -> Any:
    """The same value with None in place of every NaN and infinity inside it, since JSON has neither."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {k: without_nan(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(v) for v in value]
    return value


def cell(value: Any, digits: int = 4) -> str:
    """A value as a cell of a table shows it: "-" for None and NaN, "yes" or "no" for a bool.

    digits: how many a float gets after the point; a whole number of at least 10 gets neither digits nor point.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) >= 10 else f"{value:.{digits}f}"
    return str(value)


def table(rows: Sequence[Sequence[Any]], header: Sequence[str] = (), *, left: int = 1) -> str:
    """Lays rows out in aligned columns.

    rows: values, which `cell` turns into text. Without a header there must be at least one row.
    header: a title for each column.
    left: how many columns are aligned to the left; those after them are aligned to the right.
    """
    lines = [list(header)] * bool(header) + [[cell(v) for v in row] for row in rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            f"{v:<{w}}" if i < left else f"{v:>{w}}" for i, (v, w) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def percent(value: float | None, interval: Any) -> str:
    """A share and its interval in percent, such as "19.1 % [16.4, 22.1]".

    value: the share in 0 … 1, or None if nothing was graded.
    interval: its lower and upper end.
    """
    if value is None:  # every verdict was an error
        return "nothing graded"
    return f"{100 * value:.1f} % [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"


def short(value: Any, most: int = 300, show: Callable[[Any], str] = repr) -> str:
    """A value as one line of text for a message.

    most: characters, after which the text is cut off.
    show: turns the value into text.
    """
    text = " ".join(show(value).split())
    return text if len(text) <= most else text[:most] + "…"


def describe(error: BaseException) -> str:
    """The type and the message of an exception, on one line; the type alone where it has no message to show."""
    name = type(error).__name__
    try:
        return f"{name}: {short(error, show=str)}" if str(error) else name
    except Exception:  # an exception of the user's own may fail in its `__str__`
        return name


def visible(text: str, keep: str = "\n\t") -> str:
    """The text with everything in it made visible: hidden characters are spelt out, as in [U+202E].

    Hidden are control characters, those that change the order of a text on the screen, and lone surrogates.

    keep: hidden characters that stay as they are.
    """
    return _HIDDEN.sub(lambda m: m[0] if m[0] in keep else f"[U+{ord(m[0]):04X}]", text)


def half_character(text: str) -> str | None:
    """The first lone surrogate in a text, as an escape such as \\ud800, or None if there is none.

    A surrogate is one half of a character. No file, pipe or tokenizer takes it without the other half.
    """
    try:
        text.encode()
    except UnicodeEncodeError as e:
        return f"\\u{ord(text[e.start]):04x}"
    return None
