"""`diagnosis.html`: what `ibtpo diagnose` measured of each checkpoint of a run, in one offline HTML file.

The page shows a curve over the checkpoints for each of five metrics, with 95 % intervals, and a table of the same
numbers. Beside it `curve.csv` holds them for other programs.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from markupsafe import Markup

from .._files import write_whole
from .._text import visible, without_nan
from ..evaluation.statistics import Measured
from .charts import Held, Series, Sheet, draw_chart
from .pages import Figure, render
from .plots import PLOTS, Plot, csv_address, csv_lines

_RUNS = {plot.key: plot for plot in PLOTS}  # the plots of a run report, whose titles and words are used again
CURVES: tuple[Plot, ...] = (
    replace(_RUNS["cov"], curves=(("cov_eta", "Cov(η1, η2)"),)),
    replace(
        _RUNS["signal"], title="Eff-Rate", curves=(("eff_rate", "Eff-Rate"),),
        reads="Share of questions whose answers differ in correctness; falling to 0, nothing can be learned.",
    ),
    replace(_RUNS["ib-score"], curves=(("ib_score", "IB-Score"),)),
    replace(_RUNS["entropy"], curves=(("entropy", "policy entropy"),)),
    Plot(
        "avg-rate", "Avg-Rate", (("avg_rate", "Avg-Rate"),), "accuracy",
        "Mean correctness over the trees' leaves. The search branches where it scores high, so it is not the policy's "
        "own accuracy.", percent=True,
    ),
    Plot(
        "policy-rate", "The policy's own rate", (("policy_rate", "policy's own rate"),), "accuracy",
        "Mean correctness of the trees' first answers, which are independent draws from the policy.", percent=True,
    ),
)  # fmt: skip
DATA = "curve.csv"


def write_diagnosis(
    rows: Sequence[Mapping[str, Any]],
    changes: Sequence[str],
    facts: Sequence[tuple[str, Any]],
    output: Path,
    trees: str = "",
) -> Path:
    """Writes the page and, beside it, `curve.csv`; returns the page's path.

    rows: one a checkpoint, as `summary.json` holds them: `label`, `step` (None if it has none), and for each metric a
        mapping with `mean`, `low` and `high`; or `error`, a sentence, for a checkpoint that could not be measured.
    changes: sentences that say what changed from the first checkpoint to the last.
    facts: (name, value) pairs that say how it was measured.
    output: the page's file.
    trees: file name of the tree viewer beside it, for the links; empty if there is none.
    """
    measured = [row for row in rows if "error" not in row]
    x, label = places([row["step"] for row in measured])
    sheet = Sheet()
    axis = "Means over the problems, with 95 % intervals. "
    axis += "A first checkpoint of no step is at 0." if label == "step" else "Checkpoints in the order of the table."
    header = ["checkpoint", "step"] + [f"{p.metrics[0]}{end}" for p in CURVES for end in ("", "_low", "_high")]
    lines = [
        [
            row["label"],
            row["step"],
            *(without_nan(row[p.metrics[0]][k]) for p in CURVES for k in ("mean", "low", "high")),
        ]
        for row in measured
    ]
    page = render(
        "checkpoints.html.j2", sheet, title="Diagnosis of checkpoints", facts=facts, changes=changes, axis=axis,
        trees=quote(trees),
        broken=[row["error"] for row in rows if "error" in row], titles=[p.title for p in CURVES],
        figures=[f for p in CURVES if (f := _figure(p, measured, x, label, sheet))],
        table=[(row["label"], [str(Measured(**row[p.metrics[0]])) for p in CURVES]) for row in measured],
    )  # fmt: skip
    write_whole(output.with_name(DATA), "".join(csv_lines(header, lines)))
    write_whole(output, page)
    return output


def places(steps: Sequence[int | None]) -> tuple[list[int], str]:
    """Where the checkpoints stand on the x axis, and the axis's name.

    These are their training steps if there are several, all known and ascending; else 1, 2, … in the order given.
    """
    # A first checkpoint without a step is taken for the base model, before the run's first step.
    known = [0 if step is None and i == 0 else step for i, step in enumerate(steps)]
    ascending = [step for step in known if step is not None]
    if len(steps) > 1 and len(ascending) == len(steps) and ascending == sorted(set(ascending)):
        return ascending, "step"
    return list(range(1, len(steps) + 1)), "checkpoint"


def _figure(plot: Plot, rows: Sequence[Mapping[str, Any]], x: Sequence[int], label: str, sheet: Sheet) -> Figure | None:
    """The picture of one metric over the checkpoints; None if no checkpoint has a finite value of it."""
    (name, words) = plot.curves[0]
    points = [
        (place, row["label"], row[name]) for place, row in zip(x, rows, strict=True) if math.isfinite(row[name]["mean"])
    ]
    if not points:
        return None
    series = Series(np.array([p[0] for p in points], float), np.array([p[2]["mean"] for p in points]), words, 0)
    held = [Held(place, m["mean"], m["low"], m["high"], 0) for place, _, m in points]
    alt = "; ".join(f"{checkpoint}: {Measured(**m)}" for _, checkpoint, m in points)
    svg = draw_chart(
        plot, [series], label, sheet, visible(f"{plot.title} against {label}. {alt}."), held, "95 % interval"
    )
    address = csv_address(
        [label, plot.unit, "low", "high"], [[p, m["mean"], m["low"], m["high"]] for p, _, m in points]
    )
    return Figure(plot.key, plot.title, Markup(svg), plot.reads, DATA, address, "")
