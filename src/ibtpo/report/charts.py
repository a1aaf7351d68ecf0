"""Drawing charts with matplotlib, as inline SVG that obeys the page: its colours, its dark mode, its content policy.

matplotlib writes a `style` attribute on every element, which the page's content policy refuses. So each distinct style
becomes a CSS class, which a `Sheet` collects, and each colour in it becomes a custom property (`var(--ink)`) of the
page, which has another value in dark mode.
"""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from .._files import whole_file
from .._text import visible
from .plots import Plot, points, smoothed

SVG = "http://www.w3.org/2000/svg"
HREF = "{http://www.w3.org/1999/xlink}href"
# matplotlib is told these colours, and `VARIABLES` says which property of the page takes the place of each. INK and
# GRID are stand-ins that occur nowhere else. COLOURS is the palette of Okabe and Ito, which colour-blind readers can
# tell apart; run.css gives every property its values in light and dark mode.
INK, GRID = "#010203", "#040506"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
VARIABLES = {INK: "var(--ink)", GRID: "var(--grid)", **{c: f"var(--c{i})" for i, c in enumerate(COLOURS)}}
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.6)), (0, (1.2, 1.4)), (0, (6, 1.4, 1.2, 1.4)), (0, (9, 2)), (0, (3, 1, 1, 1)))
WHOLE = ("step", "checkpoint")  # labels of the x axes whose ticks are whole numbers
MARKERS = ("o", "s", "^", "D", "v", "X")
SETTINGS: Any = {
    "svg.fonttype": "none",  # text stays text: small, crisp, searchable
    "svg.hashsalt": "ibtpo",
    "font.family": "sans-serif",
    "font.size": 10.5,
    "path.simplify": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.labelsize": 9.5,
    "ytick.labelsize": 9.5,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 10,
    "hatch.linewidth": 0.6,
}
# In a page the colours of text and lines follow those of the page; a file that stands alone has a white background.
ON_WHITE: Any = {
    **SETTINGS, "axes.edgecolor": "#777777", "grid.color": "#dddddd", "xtick.color": "#777777",
    "ytick.color": "#777777", "axes.labelcolor": "#222222", "text.color": "#222222", "xtick.labelcolor": "#222222",
    "ytick.labelcolor": "#222222", "savefig.facecolor": "white", "pdf.fonttype": 42,
}  # fmt: skip


@dataclass(frozen=True)
class Series:
    """A curve to draw.

    x: (n,) places on the x axis, in its unit; NaN where not known.
    y: (n,) values, in the plot's unit; NaN where not known.
    label: the curve's name in the legend.
    index: its number in the order of colours, and unless `order` says otherwise in that of dashes and markers.
    order: its number in the order of dashes and markers.
    """

    x: np.ndarray
    y: np.ndarray
    label: str
    index: int
    order: int | None = None

    @property
    def dash(self) -> int:
        """Its number in the order of dashes, which shifts by one each time the colours begin anew."""
        return self.index + self.index // len(COLOURS) if self.order is None else self.order


@dataclass(frozen=True)
class Held:
    """A measurement, drawn as a point with its 95 % interval as a bar.

    x: its place on the x axis, in its unit.
    value: the measurement, in the plot's unit.
    low: lower end of the interval.
    high: upper end of the interval.
    index: its number in the order of colours and markers.
    """

    x: float
    value: float
    low: float
    high: float
    index: int


class Sheet:
    """Collects the CSS classes that all drawings of one page use."""

    def __init__(self) -> None:
        self._classes: dict[str, str] = {}

    def name(self, style: str) -> str:
        """The name of the class with the declarations `style`; the same declarations give the same class."""
        return self._classes.setdefault(style, f"s{len(self._classes)}")

    def css(self) -> str:
        """The style sheet: one rule a class."""
        return "\n".join(f".{name}{{{style}}}" for style, name in self._classes.items())


def draw_chart(
    plot: Plot,
    series: Sequence[Series],
    x_label: str,
    sheet: Sheet,
    alt: str,
    held: Sequence[Held] = (),
    held_label: str = "held out, with interval",
) -> str:
    """Draws one plot and returns it as an `<svg>` element.

    plot: title, unit and kind of the picture.
    series: the curves, in drawing order; the layers from the bottom up if `plot.stacked`.
    x_label: label of the x axis, which also decides how its ticks are written.
    sheet: takes the CSS classes of the drawing; the page must print them.
    alt: what a reader who does not see the picture is told.
    held: measurements drawn with their intervals on top of the curves.
    held_label: what the legend calls them.
    """
    with rc_context(SETTINGS):
        figure = _drawn(plot, series, x_label, held, held_label)
    return inline_figure(figure, plot.key + re.sub(r"\W", "", x_label), plot.title, alt, sheet)


def save_chart(plot: Plot, series: Sequence[Series], x_label: str, held: Sequence[Held], path: Path) -> None:
    """Draws one plot into two files that stand alone, on white: `path` with the endings .svg and .pdf.

    plot, series, x_label, held: as of `draw_chart`.
    """
    with rc_context(ON_WHITE):
        figure = _drawn(plot, series, x_label, held, "held out, with interval")
    save_figure(figure, path)


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a figure as SVG and PDF, `path` with the endings .svg and .pdf; the same figure gives the same bytes."""
    no_date = {"svg": {"Date": None, "Creator": None}, "pdf": {"CreationDate": None, "Creator": None, "Producer": None}}
    with rc_context(ON_WHITE):
        for kind, metadata in no_date.items():
            with whole_file(path.with_name(f"{path.name}.{kind}")) as part:
                figure.savefig(part, format=kind, metadata=metadata)


def _drawn(plot: Plot, series: Sequence[Series], x_label: str, held: Sequence[Held], held_label: str) -> Figure:
    """A plot as matplotlib's figure; see `draw_chart`."""
    figure = Figure()
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    if plot.stacked:
        _stack(axes, series)
    else:
        for s in series:
            _curve(axes, s, many=len(series) > 1)
    for h in held:
        _held_out(axes, h)
    _axes(axes, plot, x_label)
    handles, labels = axes.get_legend_handles_labels()
    if held:
        colour, marker = (INK, "o") if len(series) > 1 else (_colour(held[0].index), _marker(held[0].index))
        handles.append(Line2D([], [], color=colour, marker=marker, markerfacecolor="none", linestyle="none"))
        labels.append(held_label)
    _place(figure, handles, labels)
    return figure


def _place(figure: Figure, handles: Sequence[Any], labels: Sequence[str]) -> None:
    """Puts the legend above the axes and gives every picture the same margins, so that the axes of a page line up.

    The height of the picture grows by one row for each line of the legend. A single curve needs no legend.
    """
    longest = max(map(len, labels), default=0)
    columns = 1 if longest > 30 else 2 if sum(map(len, labels)) + 8 * len(labels) > 72 else max(1, len(labels))
    lines = -(-len(labels) // columns) if len(labels) > 1 else 0
    row = 0.21  # inches
    height = 2.75 + row * lines
    figure.set_size_inches(5.2, height)
    figure.subplots_adjust(left=0.165, right=0.98, bottom=0.5 / height, top=1 - (0.12 + row * lines) / height)
    if lines:
        figure.legend(
            handles, labels, loc="upper left", bbox_to_anchor=(0, 1), ncols=columns, columnspacing=1.2,
            handletextpad=0.5, borderaxespad=0, borderpad=0.1, labelspacing=0.35,
        )  # fmt: skip


def _colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def _marker(index: int) -> str:
    return MARKERS[index % len(MARKERS)]


def _held_out(axes: Any, h: Held) -> None:
    """Draws a measurement as an open marker with its interval."""
    axes.errorbar(
        [h.x], [h.value], yerr=[[h.value - h.low], [h.high - h.value]], fmt=_marker(h.index), color=_colour(h.index),
        markersize=6, markerfacecolor="none", markeredgewidth=1.5, capsize=4, linewidth=1.5, clip_on=False, zorder=5,
    )  # fmt: skip


def _curve(axes: Any, s: Series, many: bool) -> None:
    """Draws a curve: a thin line of its values under a thick running mean, or one line if there are few points.

    many: whether other curves share the axes. Then markers tell them apart without colour.
    """
    x, y, _ = points(s.x, s.y)
    colour, dash = _colour(s.index), DASHES[s.dash % len(DASHES)]
    few = len(x) < 12
    marker: dict[str, Any] = {}
    if many or few:
        every = max(1, len(x) // 8)
        marker = {
            # Each curve's first marker is one point further on, so that those of close curves do not lie on each other.
            "marker": _marker(s.dash), "markersize": 4.5, "markevery": (s.dash % every, every),
        }  # fmt: skip
    if few:
        axes.plot(x, y, color=colour, linestyle=dash, linewidth=1.8, label=s.label, **marker)
        return
    axes.plot(x, y, color=colour, linewidth=0.8, alpha=0.4)
    axes.plot(x, smoothed(y, len(s.y)), color=colour, linestyle=dash, linewidth=2, label=s.label, **marker)


def _stack(axes: Any, series: Sequence[Series]) -> None:
    """Draws the series as layers on top of each other, each with a hatching of its own beside its colour."""
    thinned = [points(s.x, np.nan_to_num(s.y)) for s in series]
    hatches = ("", "////", "....", "xxxx", "----")
    base = np.zeros_like(thinned[0][1])
    for s, (x, y, _) in zip(series, thinned, strict=True):
        if len(x) == 1:  # an area over a single step would have no width
            x, y = np.array([x[0] - 0.5, x[0] + 0.5]), np.repeat(y, 2)
            base = np.repeat(base, 2) if len(base) == 1 else base
        axes.fill_between(
            x, base, base + y, facecolor=_colour(s.index), edgecolor=INK, linewidth=0.5, alpha=0.8, label=s.label,
            hatch=hatches[s.index % len(hatches)],
        )  # fmt: skip
        base = base + y


def _axes(axes: Any, plot: Plot, x_label: str) -> None:
    """Sets labels, ticks and limits of the axes, and draws the lines at zero and at the plot's threshold."""
    axes.set_xlabel(x_label)
    axes.set_ylabel(plot.unit)
    axes.yaxis.set_label_coords(-0.155, 0.5)  # at the same place in every picture, however wide the ticks' texts are
    axes.margins(x=0.02)
    axes.tick_params(length=3)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=x_label in WHOLE, steps=[1, 2, 5, 10]))
    if x_label == "generated tokens":
        axes.xaxis.set_major_formatter(FuncFormatter(_thousands))
    if plot.log:
        _logarithmic(axes, plot)
    elif plot.percent:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, position: f"{100 * value:.4g} %"))
    if plot.from_zero:
        axes.set_ylim(bottom=0, top=max(axes.get_ylim()[1], plot.least_top))
    if plot.zero_line:
        axes.axhline(0, color=INK, linewidth=1)
    if plot.threshold is not None:
        axes.axhline(plot.threshold, color=INK, linewidth=1, linestyle=(0, (2, 3)))


def _logarithmic(axes: Any, plot: Plot) -> None:
    """Makes the y axis logarithmic, if any value that is drawn is positive."""
    drawn = np.concatenate([line.get_ydata() for line in axes.get_lines()])
    drawn = np.append(drawn[drawn > 0], [plot.threshold] if plot.threshold else [])
    if len(drawn):  # the limits are set by hand, since a single value spans no range of its own
        axes.set_ylim(drawn.min() / 2, drawn.max() * 2)
        axes.set_yscale("log", nonpositive="clip")
        axes.yaxis.set_minor_locator(NullLocator())


def _thousands(value: float, position: int) -> str:
    """A number of tokens as a tick shows it: 1500 as 1.5k, 2000000 as 2M. position: matplotlib's, not used."""
    if abs(value) >= 1e6:
        return f"{value / 1e6:g}M"
    return f"{value / 1e3:g}k" if abs(value) >= 1e3 else f"{value:g}"


def inline_figure(figure: Figure, key: str, title: str, alt: str, sheet: Sheet) -> str:
    """A figure that was drawn with `SETTINGS`, as an `<svg>` element of the page.

    key: its name on the page.
    title, alt: what a reader who does not see the picture is told.
    sheet: takes the CSS classes of the drawing.
    """
    buffer = io.BytesIO()
    with rc_context(SETTINGS):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _inline(buffer.getvalue(), key, title, alt, sheet)


def plain_label(text: str) -> str:
    """A label cut at 44 characters, for a legend, in which matplotlib takes nothing for a formula."""
    return visible(text if len(text) <= 44 else text[:43] + "…").replace("$", r"\$")


def _inline(svg: bytes, prefix: str, title: str, alt: str, sheet: Sheet) -> str:
    """Turns matplotlib's SVG file into an element of the page.

    Style attributes become classes of `sheet`, ids that nothing refers to are dropped, the others get `prefix` in front
    so that pictures of one page do not share them, and coordinates are rounded to keep the page small.
    """
    ElementTree.register_namespace("", SVG)
    root = ElementTree.fromstring(svg)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{SVG}}}metadata", f"{{{SVG}}}style") or not isinstance(child.tag, str):
                parent.remove(child)
    used = set(re.findall(r"#([\w-]+)", " ".join(v for e in root.iter() for k, v in e.attrib.items() if k != "style")))
    used |= {m for e in root.iter() for m in re.findall(r"url\(#([\w-]+)\)", e.get("style", ""))}
    for element in root.iter():
        style = element.attrib.pop("style", None)
        if style:
            element.set("class", sheet.name(_themed(style, prefix)))
        id = element.attrib.pop("id", None)
        if id in used:
            element.set("id", f"{prefix}-{id}")
        href = element.attrib.pop(HREF, None)
        if href:
            element.set("href", f"#{prefix}-{href[1:]}")
        for key in ("fill", "stroke"):
            if key in element.attrib:
                element.set(key, VARIABLES.get(element.attrib[key], element.attrib[key]))
        for key in ("d", "x", "y", "transform"):
            if key in element.attrib and "scale" not in element.attrib[key]:
                element.set(key, _rounded(element.attrib[key]))
        clip = element.get("clip-path")
        if clip:
            element.set("clip-path", clip.replace("#", f"#{prefix}-"))
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.set("role", "img")
    root.set("aria-label", f"{title}. {alt}")
    return ElementTree.tostring(root, encoding="unicode")


def _themed(style: str, prefix: str) -> str:
    """The declarations with the page's fonts, its colour properties, and `prefix` before the ids they refer to."""
    style = style.replace("url(#", f"url(#{prefix}-")
    style = re.sub(r"font: ([\d.]+)px [^;]*", r"font: \1px var(--sans)", style)
    style = re.sub(r"font-family: [^;]*", "font-family: var(--sans)", style)
    return re.sub(r"#[0-9a-f]{6}", lambda m: VARIABLES.get(m[0], m[0]), style.strip())


def _rounded(text: str) -> str:
    """The text with every number that has three or more decimals rounded to two."""
    return re.sub(r"-?\d+\.\d{3,}", lambda m: f"{float(m[0]):.2f}".rstrip("0").rstrip("."), text)
