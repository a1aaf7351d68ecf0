"""A comparison for a paper: its table as Markdown and as LaTeX, and its main picture.

What a run calls itself comes from its settings, which anybody may have written: in both languages it is text, and
whatever would be markup is escaped.
"""

import math
import re
from collections.abc import Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from .._text import visible
from .charts import COLOURS, INK, ON_WHITE, plain_label
from .differences import Estimate, Line

_TEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"{\char34}", "`": r"\textasciigrave{}",
    "λ": r"$\lambda$", "β": r"$\beta$", "η": r"$\eta$", "ε": r"$\varepsilon$", "−": "$-$", "†": r"\dag{}", "–": "--",
    "\u00a0": "~", "\u202f": r"\,",
}  # fmt: skip


def header(lines: Sequence[Line], k: int | None) -> list[str]:
    """The titles of the table's columns. k: answers a problem."""
    first = next((line.group.name for line in lines if line.after), "")
    at = "k" if k is None else str(k)
    return [
        "method", "seeds", "before, %", f"after: avg@{at}, %", "change, points", f"minus {first}, points",
        f"pass@{at}, %", "each seed, %", "tokens",
    ]  # fmt: skip


def cells(line: Line) -> list[str]:
    """A line of the table, as text, with spaces that do not break where a line must not end."""
    each = ", ".join(f"{100 * v:.1f}" for v in line.each)
    tokens = f"{line.tokens:,.0f}".replace(",", "\u202f")
    return [
        line.group.name, ", ".join(line.measured) or "none measured", percent(line.before),
        percent(line.after) + _one_seed(len(line.measured), line.after),
        points(line.change) + _one_seed(len(line.measured), line.change),
        points(line.minus_first) + _one_seed(line.pairs_count, line.minus_first),
        "–" if line.passed is None else f"{100 * line.passed:.1f}", each or "–", tokens,
    ]  # fmt: skip


def percent(value: Estimate | None) -> str:
    """An accuracy with its interval, such as "31.2 [28.0, 34.4]"; "–" for None."""
    return _with_interval(value, "")


def points(value: Estimate | None) -> str:
    """A difference with its interval, such as "+3.1 [+0.2, +6.0]"; "–" for None."""
    return _with_interval(value, "+")


def _with_interval(value: Estimate | None, sign: str) -> str:
    if value is None or math.isnan(value.mean):
        return "–"
    ends = [f"{100 * v:{sign}.1f}" for v in (value.low, value.high)]
    interval = "" if math.isnan(value.low) else f" [{ends[0]},\u00a0{ends[1]}]"
    return (f"{100 * value.mean:{sign}.1f}" + interval).replace("-", "−")


def _one_seed(seeds: int, value: Estimate | None) -> str:
    """The mark of an interval that rests on one seed, so that it speaks of other problems only."""
    return "\u00a0†" if seeds == 1 and value is not None else ""


def how(lines: Sequence[Line]) -> str:
    """How the numbers were made, in sentences, for under the table."""
    problems = max(line.problems for line in lines)
    text = (
        f"Accuracy on {problems} held-out problems that all runs answered. 95 % intervals: Student's t over seeds and "
        "problems, both drawn; differences paired over problems, and over seeds where they are the same. Each interval "
        "stands for itself: of twenty differences that are nothing, one leaves out 0."
    )
    apart = [f"{line.group.name}: {line.pairs}" for line in lines if line.pairs.startswith("no common")]
    one = any(c.endswith("†") for line in lines for c in cells(line))
    text += " † One seed: the interval speaks of other problems only, not of other seeds." if one else ""
    return text + "".join(f" {words}." for words in apart)


def markdown(lines: Sequence[Line], k: int | None) -> str:
    """The table in Markdown, and under it how it was made."""
    rows = [header(lines, k), *map(cells, lines)]
    text = [f"| {' | '.join(map(_markdown, row))} |" for row in rows]
    text.insert(1, f"|{' --- |' * len(rows[0])}")
    return "\n".join([*text, "", _markdown(how(lines)), ""])


def latex(lines: Sequence[Line], k: int | None) -> str:
    """The table in LaTeX, as wide as the text at most; it needs the packages booktabs and graphicx."""
    titles = [_latex(title) if i < 2 else _title(title) for i, title in enumerate(header(lines, k))]
    rows = [[_value(cell) if 2 <= i < 6 else _latex(cell) for i, cell in enumerate(cells(line))] for line in lines]
    # {}: a name that begins with [ or * would be taken for an argument of the command before.
    first, *rest = ["{}" + " & ".join(row) + r" \\[2pt]" for row in [titles, *rows]]
    columns = "l" * 2 + "r" * (len(titles) - 2)
    body = [r"\toprule", first, r"\midrule", *rest, r"\bottomrule"]
    text = "\n".join(
        [r"\begin{table}", r"\providecommand{\under}[2]{\begin{tabular}[t]{@{}r@{}}#1\\[-2pt]#2\end{tabular}}",
         r"\centering\footnotesize\setlength{\tabcolsep}{4pt}",
         r"\resizebox{\ifdim\width>\linewidth \linewidth\else\width\fi}{!}{%",
         rf"\begin{{tabular}}{{{columns}}}", *body, r"\end{tabular}}",
         rf"\caption{{{_latex(how(lines))}}}", r"\end{table}", ""]
    )  # fmt: skip
    more = "" if text.isascii() else "; other scripts than Latin need XeLaTeX or LuaLaTeX"
    return rf"% \usepackage{{booktabs,graphicx}}{more}" + "\n" + text


def _title(text: str) -> str:
    """A column's title in LaTeX, its unit on a line of its own, so that nine columns fit a page."""
    name, comma, unit = text.rpartition(", ")
    return rf"\under{{{_latex(name)}{comma.strip()}}}{{{_latex(unit)}}}" if comma else _latex(text)


def _value(text: str) -> str:
    """A value in LaTeX, its interval below it."""
    value, bracket, rest = text.partition(" [")
    ends, _, mark = rest.partition("]")
    return rf"\under{{{_latex(value + mark)}}}{{\scriptsize [{_latex(ends)}]}}" if bracket else _latex(text)


def _markdown(text: str) -> str:
    """Text that Markdown shows as it is, on one line and in one cell."""
    return re.sub(r"([\\`*_{}\[\]<>#|!~$&])", r"\\\1", " ".join(visible(text).split()))


def _latex(text: str) -> str:
    """Text that LaTeX sets as it is, on one line."""
    text = re.sub(r"[^\S\u00a0\u202f]+", " ", visible(text)).strip()
    parts = re.split(r"(?<=[-'])(?=[-'])", text)  # two of these would become one sign
    return "{}".join("".join(_TEX.get(c, c) for c in part) for part in parts)


def forest(lines: Sequence[Line], settings: Any = ON_WHITE) -> Figure:
    """Draws accuracy after training of each group, a small dot a seed, and beside it the difference to the first.

    lines: the table; groups that were not measured are left out.
    settings: `ON_WHITE` for a file, `SETTINGS` for a page, whose colours it then takes.
    """
    shown = [line for line in lines if line.after]
    with rc_context(settings):
        figure = Figure(figsize=(8.4, 1.15 + 0.42 * len(shown)), layout="constrained")
        FigureCanvasSVG(figure)
        left, right = figure.subplots(1, 2, sharey=True)
        for y, line in enumerate(shown):
            colour = COLOURS[y % len(COLOURS)]
            _bar(left, y, line.after, colour)
            left.plot(line.each, [y + 0.22] * len(line.each), "o", markersize=3, color=colour, alpha=0.7)
            if line.minus_first:
                _bar(right, y, line.minus_first, colour)
        right.axvline(0, color=INK, linewidth=1)
        left.set_yticks(range(len(shown)), [plain_label(line.group.name) for line in shown])
        left.set_ylim(len(shown) - 0.5, -0.5)
        left.set_xlabel("held-out accuracy after training, %")
        right.set_xlabel(f"minus {plain_label(shown[0].group.name)}, points")
        for axes in (left, right):
            axes.grid(axis="y", visible=False)
            axes.grid(axis="x", visible=True)
            axes.tick_params(length=3)
            axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g}"))
    return figure


def forest_alt(lines: Sequence[Line]) -> str:
    """The picture of `forest` in words."""
    return "; ".join(
        f"{line.group.name}: {percent(line.after)} %"
        + (f", minus the first {points(line.minus_first)} points" if line.minus_first else "")
        for line in lines
        if line.after
    )


def _bar(axes: Any, y: int, value: Estimate | None, colour: str) -> None:
    """Draws an estimate as a marker with its interval."""
    assert value is not None
    ends = [[0.0], [0.0]] if math.isnan(value.low) else [[value.mean - value.low], [value.high - value.mean]]
    axes.errorbar([value.mean], [y], xerr=ends, fmt="o", color=colour, markersize=6, capsize=4, linewidth=1.8)
