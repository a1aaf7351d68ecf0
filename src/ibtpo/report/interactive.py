"""What the page's script draws its charts from: the runs' numbers, thinned, and what each chart shows of them.

The page holds it as JSON. Every metric stands there once, however many charts show it, so that a run of 10 000 steps
takes a few hundred kilobytes, in the file as in the browser.
"""

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from .._text import visible
from ..evaluation.statistics import nanmean
from ..storage.read_run import Run
from .charts import Held, Series
from .plots import Plot
from .trend import smoothing_width

MOST_POINTS = 1000  # of a curve in a chart, whose runs share them; enough to zoom in, and as many as a screen is wide


def chart(
    plot: Plot, view: str, x: tuple[float, str], series: Sequence[tuple[int, str, Series]], held: Sequence[Held]
) -> dict[str, Any]:
    """What a chart shows, as the page's script takes it.

    plot: title, unit and kind of the chart.
    view: what the x axis shows: "step", "tokens" or "time".
    x: what the numbers of the x axis are divided by, and its name.
    series: for each curve the number of its run, its metric and its drawing, whose points are not used.
    held: measurements to draw with their intervals.
    """
    return {
        "title": plot.title, "view": view, "divisor": x[0], "axis": x[1], "unit": plot.unit, "percent": plot.percent,
        "zero": plot.zero_line, "log": plot.log, "threshold": plot.threshold, "stacked": plot.stacked,
        "fromZero": plot.from_zero, "least": plot.least_top,
        "curves": [
            {"run": run, "metric": metric, "label": s.label.replace("\\$", "$"), "colour": s.index, "dash": s.dash}
            for run, metric, s in series
        ],
        "held": [[_short(v) for v in (h.x, h.value, h.low, h.high)] + [h.index] for h in held],
    }  # fmt: skip


def numbers(runs: Sequence[Run], metrics: Sequence[str]) -> list[dict[str, Any]]:
    """The numbers of the runs, each thinned to means of equal blocks of logged steps.

    metrics: the names of the metrics that any chart shows.

    Returns for each run: `block`, how many logged steps a point stands for; `width`, how many points a running mean
    covers; `x`, the points' places by view; `y`, their values by metric.
    """
    most = max(200, MOST_POINTS // max(1, len(runs)))
    return [_numbers(run, metrics, most) for run in runs]


def _numbers(run: Run, metrics: Sequence[str], most: int) -> dict[str, Any]:
    c = run.curves
    n = len(c.steps)
    block = max(1, math.ceil(n / most))
    views = {"step": c.steps.astype(float), "tokens": c.tokens, "time": c.seconds}
    return {
        "block": block,
        "width": max(5, smoothing_width(n) // block | 1),
        "x": {name: _blocks(values, block) for name, values in views.items()},
        "y": {name: _blocks(c[name], block) for name in metrics if c.has(name)},
    }


def _blocks(values: np.ndarray, size: int) -> list[float | None]:
    """The means of `values` (n,) over blocks of `size`, where NaNs are left out; None where nothing is left."""
    padded = np.concatenate([values, np.full(-len(values) % size, math.nan)])
    return [_short(v) for v in nanmean(padded.reshape(-1, size), axis=1).tolist()]


def _short(value: float) -> float | int | None:
    """The value with six digits, for few characters of JSON; None for NaN and infinities."""
    if not math.isfinite(value):
        return None
    value = float(f"{value:.6g}")
    return int(value) if value.is_integer() and abs(value) < 1e15 else value


def as_json(value: Any) -> Markup:
    """The value as JSON that can stand in a script element: no `<`, and no character that is not shown."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(visible(text).replace("<", "\\u003c"))
