"""The pictures of a report: which there are, and for each the drawing, its chart, its words and its CSV file.

A picture is drawn twice: as SVG for paper and for readers without JavaScript, and by the page's script (`interactive`).
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from markupsafe import Markup

from .._text import visible
from ..storage.metrics_log import Curves
from ..storage.read_run import Run
from .charts import Held, Series, Sheet, draw_chart, plain_label, save_chart
from .interactive import as_json, chart, numbers
from .pages import Figure
from .plots import ACCURACY, Plot, csv_address, csv_lines, logged, plots_of, points, smoothed, table
from .trend import trend

# Of several runs one curve each: that of the first answers, which no search has chosen, where it was logged.
COMPARED = [
    replace(
        ACCURACY, curves=(curve,),
        reads=f"The curves are {what}; the points are held-out accuracy, with 95 % intervals.",
    )
    for curve, what in zip(
        ACCURACY.curves[::-1],
        (
            "the mean correctness, in training, of the trees' first answers",
            "the mean correctness, in training, of the trees' leaves, which the search's branching biases",
        ),
        strict=True,
    )
]  # fmt: skip


class Pictures:
    """The pictures of one page, in order, and what goes with them.

    runs: one run, or several to compare.
    folder: name of the folder that the page's CSV files will be in.
    names: what the runs are called; None for a single run, whose curves are called as the plot says.
    looks: for each of several runs its number in the order of colours, and in that of dashes and markers.
    static: whether they are drawn for readers without JavaScript too, and the points drawn put into the page, which
        takes most of the time.

    sheet: the CSS classes of the drawings.
    files: functions that make the texts of the CSV files, by name.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        folder: str,
        *,
        names: Sequence[str] | None = None,
        looks: Sequence[tuple[int, int]] = (),
        static: bool = True,
    ) -> None:
        self.runs, self.folder, self.names, self.looks, self.static = runs, folder, names, looks, static
        self.sheet = Sheet()
        self.files: dict[str, Callable[[], str]] = {}
        self._charts: dict[str, dict[str, Any]] = {}
        accuracy = ACCURACY if names is None else COMPARED[0] if logged(runs, COMPARED[0]) else COMPARED[1]
        plots = [accuracy] if logged(runs, accuracy) else []
        views = [view for view in ("tokens", "time") if _has_view(runs, view)]
        if names is None:  # accuracy against tokens and time, all others against the step
            self._views = [(plot, view) for plot in plots for view in views]
            self._views += [(plot, "step") for plot in plots_of(runs)]
        else:
            self._views = [(plot, view) for plot in (*plots, *_flat_plots(runs)) for view in views]

    def draw(self) -> list[Figure]:
        """Draws all."""
        return [self._figure(plot, view) for plot, view in self._views]

    def script_data(self) -> Markup:
        """What the page's script draws the charts from, as JSON; ask after `draw`."""
        metrics = {curve["metric"] for chart in self._charts.values() for curve in chart["curves"]}
        return as_json({"runs": numbers(self.runs, sorted(metrics)), "charts": self._charts})

    def save(self, folder: Path) -> None:
        """Writes the pictures that `Figure.picture` names into a folder as SVG and as PDF, on white."""
        for plot, view in filter(self._saved, self._views):
            series, held, _ = self._drawn(plot, view)
            save_chart(plot, [s for _, _, s in series], _axis(self.runs, view)[1], held, folder / _key(plot, view))

    def _saved(self, place: tuple[Plot, str]) -> bool:
        """Whether a picture is there as a file, too: of a comparison those against tokens, and accuracy."""
        plot, view = place
        return self.names is not None and (view == "tokens" or plot.key == ACCURACY.key)

    def _figure(self, plot: Plot, view: str) -> Figure:
        """Draws one picture, and puts its chart and its CSV file where they belong.

        plot: what to draw; with several runs it has one metric.
        view: what the x axis shows: "step", "tokens" or "time".
        """
        scale, label = _axis(self.runs, view)
        series, held, texts = self._drawn(plot, view)
        alt = f"{plot.title} against {label}. " + "; ".join(texts) + "."
        self.files[f"{plot.key}.csv"] = lambda: "".join(csv_lines(*_joint_table(self.runs, plot, self.names)))
        key = _key(plot, view)
        self._charts[key] = chart(plot, view, (scale, label), series, held)
        drawn = [s for _, _, s in series]
        address, note, svg = "", "", Markup()
        if self.static:
            address, note = _points_drawn(drawn, label, plot.unit)
            svg = Markup(draw_chart(plot, drawn, label, self.sheet, visible(alt), held))
        title = {"tokens": f"{plot.title} against tokens", "time": f"{plot.title} against time"}.get(view, plot.title)
        reads = "" if view == "time" else plot.reads  # the picture before this one, against tokens, has it already
        folder = quote(self.folder)
        picture = f"{folder}/{key}" if self._saved((plot, view)) else ""
        return Figure(key, title, svg, reads, f"{folder}/{plot.key}.csv", address, note, picture)

    def _drawn(self, plot: Plot, view: str) -> tuple[list[tuple[int, str, Series]], list[Held], list[str]]:
        """The curves of a picture as (run, metric, drawing), its measurements, and both in words."""
        scale, _ = _axis(self.runs, view)
        series: list[tuple[int, str, Series]] = []
        held: list[Held] = []
        texts: list[str] = []
        for r, run in enumerate(self.runs):
            x = _x(run.curves, view) / scale
            for i, (name, words) in enumerate(plot.curves):
                if not run.curves.has(name) or not np.isfinite(x).any():
                    continue
                label = self.names[r] if self.names else f"{words} {_share(run, name)}" if plot.stacked else words
                index, dash = self.looks[r] if self.names else (i, None)
                series.append((r, name, Series(x, run.curves[name], plain_label(label), index, dash)))
                texts.append(f"{label}: {_in_words(run, name, plot.percent)}")
            if plot.key == "accuracy" and np.isfinite(x).any():
                for when, place, found in _held_out_points(run, x):
                    low, high = found["avg_ci"]
                    index = self.looks[r][0] if self.names else len(plot.curves)
                    held.append(Held(place, found["avg"], low, high, index))
                    texts.append(f"held out {when} {100 * found['avg']:.1f} %")
        return series, held, texts


def _key(plot: Plot, view: str) -> str:
    """The name of a picture on its page."""
    return plot.key if view == "step" else f"{plot.key}-{view}"


def _flat_plots(runs: Sequence[Run]) -> list[Plot]:
    """The plots for several runs, one metric each, since there the colours tell the runs apart.

    The stacked times become one plot of the total.
    """
    flat = []
    for plot in plots_of(runs):
        if plot.stacked:
            flat.append(
                Plot("time", "Time of a step", (("time/total", "total"),), "seconds", "Evaluation is left out.")
            )
        elif len(plot.curves) == 1:
            flat.append(plot)
        else:
            for i, (name, label) in enumerate(plot.curves):
                first = {"branches": "Branches: ", "clip": "Clipped tokens, ", "rewards": "Reward: "}.get(plot.key)
                title = f"{first}{label}" if first else label[0].upper() + label[1:]
                flat.append(replace(plot, key=f"{plot.key}-{i}", title=title, curves=((name, label),)))
    return [plot for plot in flat if logged(runs, plot)]


def _has_view(runs: Sequence[Run], view: str) -> bool:
    """Whether any run knows the numbers that this view has on its x axis."""
    return any(np.isfinite(_x(run.curves, view)).any() for run in runs)


def _x(c: Curves, view: str) -> np.ndarray:
    """(n,) the steps' places on the x axis: step number, tokens generated so far, or seconds of training so far."""
    return {"step": c.steps.astype(float), "tokens": c.tokens, "time": c.seconds}[view]


def _axis(runs: Sequence[Run], view: str) -> tuple[int, str]:
    """What the places of `_x` are divided by, and the x axis's name: times are in a unit that fits the longest run."""
    if view != "time":
        return 1, {"step": "step", "tokens": "generated tokens"}[view]
    longest = max((float(np.nanmax(r.curves.seconds)) for r in runs if np.isfinite(r.curves.seconds).any()), default=0)
    scale, unit = (3600, "hours") if longest > 3 * 3600 else (60, "minutes") if longest > 180 else (1, "seconds")
    return scale, f"{unit} of training"


def _points_drawn(series: Sequence[Series], label: str, unit: str) -> tuple[str, str]:
    """The points of a picture as a `data:` address, and the note that says how curves were thinned for it.

    label, unit: what its axes show.
    """
    drawn: list[list[Any]] = []
    thinned = 1
    for s in series:
        x, y, steps = points(s.x, s.y)
        thinned = max(thinned, steps)
        rows = zip(x.tolist(), y.tolist(), smoothed(y, len(s.y)).tolist(), strict=True)
        drawn += [[s.label, *(float(f"{v:.6g}") for v in row)] for row in rows]
    note = f"Thin line: means of {thinned} steps. " if thinned > 1 else ""
    return csv_address(["curve", label, unit, "running mean"], drawn), note


def _held_out_points(run: Run, x: np.ndarray) -> list[tuple[str, float, dict[str, Any]]]:
    """(when, place on the x axis, result) of each held-out evaluation that graded anything.

    x: (n,) places of the logged steps.
    """
    steps = run.curves.steps.tolist()
    points = [("before", 0.0, run.evals.get("before"))]
    for row in run.held_out:
        if row["step"] in steps[:-1]:  # that of the last step is drawn below, as the one after training
            points.append((f"after step {row['step']}", float(x[steps.index(row["step"])]), row))
    points.append(("after", float(np.nanmax(x)), run.evals.get("after")))
    return [(when, place, found) for when, place, found in points if found and found.get("avg") is not None]


def _joint_table(
    runs: Sequence[Run], plot: Plot, names: Sequence[str] | None
) -> tuple[list[str], list[list[float | int | str | None]]]:
    """The header and the rows of a picture's CSV file; with several runs, the name of the run comes first."""
    metrics = [name for name in plot.metrics if any(run.curves.has(name) for run in runs)]
    if names is None:
        header, rows = table(runs[0], metrics)
        return header, [list(row) for row in rows]
    rows_of_all: list[list[float | int | str | None]] = []
    for run, name in zip(runs, names, strict=True):
        header, rows = table(run, metrics)
        rows_of_all += [[name, *row] for row in rows]
    return ["run", *header], rows_of_all


def _in_words(run: Run, name: str, percent: bool) -> str:
    """A curve in words, for readers who do not see the picture: what it rose or fell from, and to."""
    t = trend(run.curves.steps, run.curves[name])
    if t is None:
        known = run.curves[name][np.isfinite(run.curves[name])]
        first, last, how = float(known[0]), float(known[-1]), "first and last step"
    else:
        first, last, how = t.first.mean, t.last.mean, "means of the first and last fourth"
    a, b = (f"{100 * v:.1f} %" if percent else f"{v:.3g}" for v in (first, last))
    return f"from {a} to {b} ({how})"


def _share(run: Run, name: str) -> str:
    """This part's share of the total time of all steps, such as "31 %"."""
    return f"{100 * np.nansum(run.curves[name]) / max(np.nansum(run.curves['time/total']), 1e-9):.0f} %"
