"""`report.html`: what a run did, in one offline HTML file; and `compare.html`: several runs side by side.

The first two functions write the pages. Below them are the functions that decide which files may be written, draw the
pictures, and put numbers into words. A page has no script, and its content policy forbids everything but its own style
sheet, so it cannot ask any network for anything, whatever text a run holds.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from markupsafe import Markup

from .._files import write_whole
from .._text import visible
from ..errors import ConfigError
from ..storage.read_run import MOST_TREE_FILES, Curves, Run, read_run, stored_trees
from ..viewer.page import write_viewer
from .charts import Held, Series, Sheet, draw_chart
from .findings import STATES, difference, headline, judge_run
from .gallery import gallery
from .pages import GENERATOR, Figure, render
from .plots import ACCURACY, PLOTS, Plot, csv_address, csv_lines, logged, points, smoothed, table
from .trend import trend

_OURS = re.compile(rf'<meta name="generator" content="{GENERATOR} [^"]*">'.encode())


def write_report(folder: str | Path, output: str | Path | None = None) -> Path:
    """Writes the report of a run, and beside it the tree viewer and the CSV files; returns the report's path.

    folder: the run folder; the run may still be going on, or have been killed.
    output: the report's file; default `report.html` in the run folder.

    Raises `CheckpointError` where there is no run, `CheckpointError` or `DataError` for a broken file in it, and
    `ConfigError` if `output` is a file that is there and is no report, or its place for CSV files is taken.
    """
    run = read_run(folder)
    target = Path(output) if output is not None else run.path / "report.html"
    data, viewer = _beside(target)
    _check_target(target, data)
    sheet = Sheet()
    files: dict[str, str] = {}
    broken: list[str] = []
    trees = gallery(stored_trees(run, broken), viewer.name)
    trees.files = len(run.tree_files)
    figures = [_figure([run], plot, view, sheet, files, data.name) for plot, view in _single_views(run)]
    files["held-out.csv"] = _held_out_csv([run], [run.name])
    if trees.trees:
        written = write_viewer(run.path, viewer)
        broken = list(written.notes)  # the viewer reads every file
        run.notes.extend(written.remarks)
    run.notes.extend(f"Left out: {note}" for note in broken)
    findings = judge_run(run)
    page = render(
        "run.html.j2", sheet, title=f"Run report: {run.name}", run=run, facts=_facts(run), figures=figures,
        findings=findings, headline=headline(findings), states=STATES, held_out=[_held_out_row(run)], gallery=trees,
        viewer=quote(viewer.name), data=quote(data.name), most_tree_files=MOST_TREE_FILES, env=_flat(run.env),
    )  # fmt: skip
    _write(target, page, data, files)
    return target


def write_comparison(folders: Sequence[str | Path], output: str | Path) -> Path:
    """Writes one page that compares runs, and beside it the CSV files; returns the page's path.

    folders: the run folders.
    output: the page's file.

    Raises as `write_report` does.
    """
    runs = [read_run(folder) for folder in folders]
    names = _distinct_names(runs)
    target = Path(output)
    data, _ = _beside(target)
    _check_target(target, data)
    sheet = Sheet()
    files: dict[str, str] = {}
    figures = [
        _figure(runs, plot, view, sheet, files, data.name, names)
        for plot in (ACCURACY, *_flat_plots())
        for view in ("tokens", "time")
        if logged(runs, plot) and _has_view(runs, view)
    ]
    files["held-out.csv"] = _held_out_csv(runs, names)
    judged = [judge_run(run) for run in runs]
    links = [_relative(run.path / "report.html", target) for run in runs]
    page = render(
        "compare.html.j2", sheet, title=f"{len(runs)} runs compared", data=quote(data.name), runs=runs, names=names,
        figures=figures, facts=[_facts(run) for run in runs], states=STATES, links=links,
        pressing=[[f for f in found if f.state in ("bad", "look")] for found in judged],
        headlines=[headline(found) for found in judged], held_out=[_held_out_row(run) for run in runs],
        config=_differences([run.config for run in runs]), env=_differences([_flat(run.env) for run in runs]),
    )  # fmt: skip
    _write(target, page, data, files)
    return target


# --- files ------------------------------------------------------------------------------------------------------


def _beside(target: Path) -> tuple[Path, Path]:
    """The paths of the two things that go with a report: the folder of its CSV files, and the tree viewer."""
    viewer = "trees.html" if target.name == "report.html" else f"{target.stem}_trees.html"
    return target.with_name(f"{target.stem}_data"), target.with_name(viewer)


def _check_target(target: Path, data: Path) -> None:
    """Raises `ConfigError` if writing would replace anything but an earlier report and its CSV files."""
    ours = False
    if target.is_dir():
        raise ConfigError(f"{target} is a folder; name a file, e.g. -o {target / 'report.html'}")
    if target.exists():
        with target.open("rb") as f:
            ours = bool(_OURS.search(f.read(4096)))
        if not ours and target.stat().st_size:
            raise ConfigError(f"{target} exists and is no report of ours; name another file with -o")
    if not ours and data.exists() and (not data.is_dir() or any(data.iterdir())):
        raise ConfigError(f"{data}, the place of the report's CSV files, is taken; name another file with -o")


def _write(target: Path, page: str, data: Path, files: dict[str, str]) -> None:
    """Writes the page and, into the folder `data`, the CSV files: a text by file name."""
    data.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        write_whole(data / name, text)
    write_whole(target, page)


def _relative(path: Path, target: Path) -> str | None:
    """The link to a file from the page `target`; None if there is no such file."""
    if not path.is_file():
        return None
    try:
        return quote(os.path.relpath(path, target.parent).replace(os.sep, "/"))
    except ValueError:  # on Windows: no relative path leads to another drive
        return None


# --- pictures ---------------------------------------------------------------------------------------------------


def _single_views(run: Run) -> list[tuple[Plot, str]]:
    """The pictures of one run as (plot, view): accuracy against tokens and time, all others against the step."""
    views = [(ACCURACY, view) for view in ("tokens", "time") if logged([run], ACCURACY) and _has_view([run], view)]
    return [*views, *((plot, "step") for plot in PLOTS if logged([run], plot))]


def _flat_plots() -> list[Plot]:
    """The plots for several runs, one metric each, since there the colours tell the runs apart.

    The stacked times become one plot of the total.
    """
    flat = []
    for plot in PLOTS:
        if plot.stacked:
            flat.append(
                Plot("time", "Time of a step", (("time/total", "total"),), "seconds", "Evaluation is left out.")
            )
        elif len(plot.curves) == 1:
            flat.append(plot)
        else:
            for i, (name, label) in enumerate(plot.curves):
                title = label[0].upper() + label[1:] if plot.key != "branches" else f"Branches: {label}"
                flat.append(
                    Plot(f"{plot.key}-{i}", title, ((name, label),), plot.unit, plot.reads, percent=plot.percent)
                )
    return flat


def _has_view(runs: Sequence[Run], view: str) -> bool:
    """Whether any run knows the numbers that this view has on its x axis."""
    return any(np.isfinite(_x(run.curves, view)).any() for run in runs)


def _x(c: Curves, view: str) -> np.ndarray:
    """(n,) the steps' places on the x axis: step number, tokens generated so far, or seconds of training so far."""
    return {"step": c.steps.astype(float), "tokens": c.tokens, "time": c.seconds}[view]


def _figure(
    runs: Sequence[Run],
    plot: Plot,
    view: str,
    sheet: Sheet,
    files: dict[str, str],
    folder: str,
    names: Sequence[str] | None = None,
) -> Figure:
    """Draws one picture, and puts its CSV file into `files`.

    runs: one run, or several to compare.
    plot: what to draw; with several runs it has one metric.
    view: what the x axis shows: "step", "tokens" or "time".
    sheet: takes the drawing's CSS classes.
    files: text by name of the page's CSV files.
    folder: name of the folder that these will be in.
    names: what the runs are called; None for a single run, whose curves are called as the plot says.
    """
    scale, label = _axis(runs, view)
    series, held, texts = [], [], []
    for r, run in enumerate(runs):
        x = _x(run.curves, view) / scale
        for i, (name, words) in enumerate(plot.curves):
            if not run.curves.has(name) or not np.isfinite(x).any():
                continue
            curve_label = names[r] if names else f"{words} {_share(run, name)}" if plot.stacked else words
            series.append(Series(x, run.curves[name], _short_label(curve_label), i if names is None else r))
            texts.append(f"{curve_label}: {_in_words(run, name, plot.percent)}")
        if plot.key == "accuracy" and np.isfinite(x).any():
            for when, place, found in _held_out_points(run, x):
                low, high = found["avg_ci"]
                held.append(Held(place, found["avg"], low, high, r if names else len(plot.curves)))
                texts.append(f"held out {when} {100 * found['avg']:.1f} %")
    alt = f"{plot.title} against {label}. " + "; ".join(texts) + "."
    key = f"{plot.key}-{view}" if view != "step" else plot.key
    header, rows = _joint_table(runs, plot, names)
    files[f"{plot.key}.csv"] = "".join(csv_lines(header, rows))
    address, note = _points_drawn(series, label, plot.unit)
    svg = Markup(draw_chart(plot, series, label, sheet, visible(alt), held))
    title = {"tokens": f"{plot.title} against tokens", "time": f"{plot.title} against time"}.get(view, plot.title)
    reads = "" if view == "time" else plot.reads  # the picture before this one, against tokens, has it already
    return Figure(key, title, svg, reads, f"{quote(folder)}/{plot.key}.csv", address, note)


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
    if names is None:
        header, rows = table(runs[0], plot)
        return header, [list(row) for row in rows]
    rows_of_all: list[list[float | int | str | None]] = []
    for run, name in zip(runs, names, strict=True):
        header, rows = table(run, plot)
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


def _short_label(text: str) -> str:
    """A label that fits into a legend, cut at 44 characters."""
    # The $ are escaped, since matplotlib reads one as the beginning of a formula.
    return visible(text if len(text) <= 44 else text[:43] + "…").replace("$", r"\$")


# --- words and numbers ------------------------------------------------------------------------------------------


def _facts(run: Run) -> list[tuple[str, str]]:
    """What stands at the head of a report, as (name, value) pairs; what is not known is left out."""
    c, config = run.curves, run.config
    facts = [
        ("method", config.get("method")),
        ("model", config.get("model")),
        ("data", config.get("data")),
        ("tree", config.get("tree")),
        ("seed", config.get("seed")),
        ("steps", int(c.steps[-1]) if len(c.steps) else 0),
        ("generated tokens", f"{c.tokens[-1]:,.0f}".replace(",", " ") if len(c.steps) else "0"),
    ]
    if len(c.seconds) and np.isfinite(c.seconds[-1]):
        facts.append(("training time", _duration(float(c.seconds[-1]))))
    return [(name, str(value)) for name, value in facts if value is not None]


def _duration(seconds: float) -> str:
    """A time as people say it, such as "45 s", "12 min" or "2 h 5 min"."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def _held_out_row(run: Run) -> dict[str, Any] | None:
    """What the table of held-out accuracy before and after training shows; None if neither was measured."""
    before, after = run.evals.get("before"), run.evals.get("after")
    if not before and not after:
        return None
    some = before or after or {}
    rows = []
    for name, label in (("avg", "avg"), ("pass", "pass")):
        change = difference(before, after, name) if before and after else None
        rows.append(
            {
                "label": f"{label}@{some['k']}",
                "before": _with_interval(before, name),
                "after": _with_interval(after, name),
                "change": "–" if change is None else _points(*change),
            }
        )
    return {"rows": rows, "n": some["n"], "k": some["k"], "truncated": (before or {}, after or {})}


def _held_out_csv(runs: Sequence[Run], names: Sequence[str]) -> str:
    """The CSV file of held-out accuracy: a row for avg@k and one for pass@k of each evaluation of each run."""
    rows = [
        [name, when, f"{measure}@{found['k']}", found[measure], *found[f"{measure}_ci"], found["n"]]
        for run, name in zip(runs, names, strict=True)
        for when, found in run.evals.items()
        for measure in ("avg", "pass")
        if found.get(measure) is not None
    ]
    return "".join(csv_lines(["run", "when", "measure", "value", "low", "high", "problems"], rows))


def _points(change: float, low: float, high: float) -> str:
    """A change of accuracy with its interval, such as "+5.0 points [+1.2, +8.8]"."""
    return f"{100 * change:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}]".replace("-", "−")


def _with_interval(result: dict[str, Any] | None, name: str) -> str:
    """The accuracy `name` ("avg" or "pass") of an evaluation with its interval, or why there is none."""
    if not result:
        return "not measured"
    if result.get(name) is None:
        return "nothing graded"
    low, high = result[f"{name}_ci"]
    return f"{100 * result[name]:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    """Makes one dictionary of nested ones, by their innermost keys; lists become text."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat.update(_flat(value))
        else:
            flat[str(key)] = " ".join(map(str, value)) if isinstance(value, list) else value
    return flat


def _differences(rows: Sequence[dict[str, Any]]) -> list[tuple[str, list[Any]]]:
    """The keys whose values differ between the rows, each with its value in every row."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    found = [(key, [row.get(key, "–") for row in rows]) for key in keys]
    return [(key, values) for key, values in found if any(v != values[0] for v in values)]


def _distinct_names(runs: Sequence[Run]) -> list[str]:
    """The names of the runs' folders; a name that occurred before gets a number."""
    names: list[str] = []
    for run in runs:
        name, n = run.name, 2
        while name in names:
            name, n = f"{run.name} ({n})", n + 1
        names.append(name)
    return names
