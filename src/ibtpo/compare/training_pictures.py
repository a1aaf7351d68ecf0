"""Draws a training comparison as SVG files: accuracy against tokens and time, diagnostics against tokens."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from ..report.charts import COLOURS, DASHES, MARKERS, ON_WHITE
from ..report.plots import PLOTS
from .training_results import METRICS, Row

PALETTE = (*COLOURS, "#000000")
LABELS = {"eff_rate": "Eff-Rate", "ib_score": "IB-Score", "cov_eta": "Cov(η1, η2)", "entropy": "entropy", "kl": "KL"}
_UNIT_OF = {plot.metrics[0]: plot.unit for plot in PLOTS}
UNITS = {name: _UNIT_OF[metric] for name, metric in METRICS.items() if metric in _UNIT_OF}


def write_pictures(summary: dict[str, Any], curves: Sequence[Row], folder: Path) -> None:
    """Writes a picture for each measure that there are numbers of.

    summary: what `training_summary` returns, with at least one arm.
    curves: the rows of curves.csv.
    folder: where the pictures go.
    """
    arms = list(summary["arms"])
    with rc_context(ON_WHITE):
        for name, axis, label in (
            ("accuracy-tokens", "generated_tokens", "generated tokens"),
            ("accuracy-time", "seconds", "seconds of training, evaluation left out"),
        ):
            lines = []
            for arm in arms:
                points = summary["arms"][arm]["curve"]
                lines.append([(p[axis], p["acc"], *p["ci"]) for p in points])
            _save(
                folder / f"{name}.svg", arms, lines, label, "held-out accuracy, 95 % intervals", percent=True, bars=True
            )
        for name in METRICS:
            lines = [_over_seeds([r for r in curves if r["arm"] == arm and r["measure"] == name]) for arm in arms]
            if any(lines):
                percent = name == "eff_rate"
                what = f"{LABELS[name]} ({UNITS[name]})" if name in UNITS else LABELS[name]
                label = "generated tokens (bands: lowest to highest seed)"
                _save(folder / f"{name.replace('_', '-')}.svg", arms, lines, label, what, percent=percent)


def _over_seeds(rows: Sequence[Row]) -> list[tuple[float, float, float, float]]:
    """The points of a metric's line: tokens, mean over the seeds, lowest seed, highest seed."""
    by_place: dict[float, list[float]] = {}
    for row in rows:
        by_place.setdefault(row["tokens"], []).append(row["value"])
    return [(x, float(np.mean(v)), min(v), max(v)) for x, v in sorted(by_place.items())]


def _save(
    path: Path,
    arms: Sequence[str],
    lines: Sequence[Sequence[tuple[float, float, float, float]]],
    x_label: str,
    y_label: str,
    *,
    percent: bool = False,
    bars: bool = False,
) -> None:
    """Draws one picture.

    lines: for each arm, its points (x, value, low, high).
    percent: whether the values are shares, to be shown in percent.
    bars: whether intervals are drawn as error bars; if not, they are drawn as a band.
    """
    figure = Figure(figsize=(7.5, 4.2 + 0.16 * len(arms)), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    spread = max((x for line in lines for x, *_ in line), default=1.0)
    for i, (arm, line) in enumerate(zip(arms, lines, strict=True)):
        if not line:
            continue
        x, y, low, high = np.array(line).T
        style: dict[str, Any] = {
            "color": PALETTE[i % len(PALETTE)], "linestyle": DASHES[(i + i // len(PALETTE)) % len(DASHES)],
            "marker": MARKERS[(i + i // len(MARKERS)) % len(MARKERS)], "markersize": 4.5, "linewidth": 1.6,
            "label": arm,
        }  # fmt: skip
        if bars:
            x = x + (i - (len(arms) - 1) / 2) * 0.004 * spread  # so that intervals do not hide one another
            axes.errorbar(x, y, yerr=np.maximum([y - low, high - y], 0), capsize=2.5, elinewidth=0.9, **style)
        else:
            axes.plot(x, y, **style)
            axes.fill_between(x, low, high, color=style["color"], alpha=0.12, linewidth=0)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    if percent:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g} %"))
    figure.legend(loc="outside upper left", ncols=2 if len(arms) > 3 else max(1, len(arms)))
    figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
