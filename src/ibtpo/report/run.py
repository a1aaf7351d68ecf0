"""`report.html`: what a run did, in one offline HTML file; and `compare.html`: several runs side by side.

The first functions write the pages. Below them are those that decide which files may be written, and put numbers into
words. A page's content policy forbids everything but its own style sheet and scripts, so it cannot ask any network for
anything, whatever text a run holds.
"""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from markupsafe import Markup

from .._files import write_whole
from .._text import without_nan
from ..errors import ConfigError
from ..storage.read_run import MOST_TREE_FILES, Run, read_run, stored_trees
from ..viewer.page import write_viewer
from .charts import SETTINGS, inline_figure, save_figure
from .differences import Line, compare_groups, group_runs, numbered, paired_change
from .figures import Pictures
from .findings import STATES, difference, headline, judge_run
from .gallery import Gallery, gallery
from .pages import GENERATOR, render
from .paper import cells, forest, forest_alt, header, how, latex, markdown
from .plots import csv_lines

Files = dict[str, Callable[[], str]]  # functions that make the texts of files, by name
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
    broken: list[str] = []
    trees = gallery(stored_trees(run, broken), viewer.name)
    if trees.trees:
        written = write_viewer(run.path, viewer)
        broken = list(written.notes)  # the viewer reads every file
        run.notes.extend(written.remarks)
    run.notes.extend(f"Left out: {note}" for note in broken)
    page, files = report_page(run, trees, viewer.name, data.name)
    _write(target, page, data, files)
    return target


def report_page(
    run: Run, trees: Gallery, viewer: str, data: str, *, live: str = "", problem: str = ""
) -> tuple[str, Files]:
    """The report of a run as HTML, and functions that make the texts of its CSV files, by name.

    run: the run.
    trees: what its stored trees hold.
    viewer: file name of the tree viewer, beside the page.
    data: name of the folder, beside the page, that the CSV files will be in.
    live: the page's version if it follows the run; then it has no pictures but those that its script draws.
    problem: why the page is not up to date, if it is not.
    """
    trees.files = len(run.tree_files)
    pictures = Pictures([run], data, static=not live)
    figures = pictures.draw()
    findings = judge_run(run)
    page = render(
        "run.html.j2", pictures.sheet, pictures.script_data(), live, title=f"Run report: {run.name}", run=run,
        facts=_facts(run), figures=figures, findings=findings, headline=headline(findings), states=STATES,
        held_out=[_held_out_row(run)], paired=paired_change(run) is not None, gallery=trees, viewer=quote(viewer),
        problem=problem, data=quote(data), most_tree_files=MOST_TREE_FILES, env=_flat(run.env),
    )  # fmt: skip
    return page, {**pictures.files, "held-out.csv": lambda: _held_out_csv([run], [run.name])}


def write_comparison(folders: Sequence[str | Path], output: str | Path) -> Path:
    """Writes one page that compares runs, and beside it the CSV files and what goes into a paper.

    These are the table of held-out accuracy as `table.md` and `table.tex`, and every picture as SVG and PDF.

    folders: the run folders.
    output: the page's file, whose path is returned.

    Raises as `write_report` does.
    """
    runs = [read_run(folder) for folder in folders]
    names = numbered([run.name for run in runs])
    target = Path(output)
    data, _ = _beside(target)
    _check_target(target, data)
    groups = group_runs(runs, names)
    if len(groups) < len(runs):  # seeds of one method: their names say that
        called = {i: f"{g.name}, seed {seed}" for g in groups for i, seed in zip(g.runs, g.seeds, strict=True)}
        names = [called[i] for i in range(len(runs))]
    lines = compare_groups(runs, groups)
    pictures = Pictures(runs, data.name, names=names, looks=_looks(len(runs), [g.runs for g in groups]))
    figures = pictures.draw()
    files = {**pictures.files, "held-out.csv": lambda: _held_out_csv(runs, names)}
    tested: dict[str, Any] = {"lines": []}
    if any(line.after for line in lines):
        k = next(run.evals["after"]["k"] for run in runs if run.evals.get("after"))
        files |= {
            "table.md": lambda: markdown(lines, k), "table.tex": lambda: latex(lines, k),
            "differences.csv": lambda: _lines_csv(lines),
        }  # fmt: skip
        svg = inline_figure(forest(lines, SETTINGS), "forest", "Held-out accuracy", forest_alt(lines), pictures.sheet)
        tested = {
            "lines": [cells(line) for line in lines], "header": header(lines, k), "how": how(lines),
            "forest": Markup(svg), "markdown": markdown(lines, k), "latex": latex(lines, k),
        }  # fmt: skip
    judged = [judge_run(run) for run in runs]
    links = [_relative(run.path / "report.html", target) for run in runs]
    page = render(
        "compare.html.j2", pictures.sheet, pictures.script_data(), title=f"{len(runs)} runs compared",
        data=quote(data.name), runs=runs, names=names, figures=figures, facts=[_facts(run) for run in runs],
        states=STATES, links=links, tested=tested,
        pressing=[[f for f in found if f.state in ("bad", "look")] for found in judged],
        headlines=[headline(found) for found in judged], held_out=[_held_out_row(run) for run in runs],
        config=_differences([{"run folder": str(run.path), **run.config} for run in runs]),
        env=_differences([_flat(run.env) for run in runs]),
    )  # fmt: skip
    _write(target, page, data, files)
    pictures.save(data)
    if tested["lines"]:
        save_figure(forest(lines), data / "held-out")
    return target


def _looks(runs: int, groups: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    """For each run its number in the order of colours, and in that of dashes.

    Where groups hold several runs, a colour stands for a group and a dash for a seed; else each run has both to itself.
    """
    if len(groups) == runs:
        return [(i, i + i // 6) for i in range(runs)]
    looks = {i: (g, place) for g, members in enumerate(groups) for place, i in enumerate(members)}
    return [looks[i] for i in range(runs)]


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


def _write(target: Path, page: str, data: Path, files: Files) -> None:
    """Writes the page and, into the folder `data`, the files that go with it."""
    data.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        write_whole(data / name, text())
    write_whole(target, page)


def _relative(path: Path, target: Path) -> str | None:
    """The link to a file from the page `target`; None if there is no such file."""
    if not path.is_file():
        return None
    try:
        return quote(os.path.relpath(path, target.parent).replace(os.sep, "/"))
    except ValueError:  # on Windows: no relative path leads to another drive
        return None


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
        if change and name == "avg" and (paired := paired_change(run)):
            change = astuple(paired)
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


def _lines_csv(lines: Sequence[Line]) -> str:
    """The CSV file of the comparison of groups, whose numbers are shares."""
    rows = []
    for line in lines:
        for what, found in (
            ("before", line.before), ("after", line.after), ("change", line.change), ("minus_first", line.minus_first),
        ):  # fmt: skip
            if found is not None:
                seeds = line.pairs if what == "minus_first" else ", ".join(line.measured)
                rows.append([line.group.name, what, *map(without_nan, astuple(found)), line.problems, seeds])
    return "".join(csv_lines(["method", "what", "mean", "low", "high", "problems", "seeds"], rows))


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
