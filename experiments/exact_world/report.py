"""Writes summary.json, table.md, gradient.md and the picture from what has been measured so far."""

import json
import math
from pathlib import Path
from typing import Any

import gradient
from arms import ARMS, CREDITS, GROWTHS
from calibrate import POINTS
from learning import EVALUATIONS, PILOTS, Runs
from picture import draw
from summarise import bias_rows, gradient_rows, learning_rows, same_rate_rows, tree_rows

SHOWN = ("paper", "alike", "late", "starved")
DEPTHS = ("deep6", "deep12", "deep24")


def interval(value: list[float], digits: int = 2, sign: bool = False) -> str:
    """For example "1.25 [1.18, 1.33]"."""
    plus = "+" if sign else ""
    if any(math.isnan(v) for v in value):
        return "–"
    return f"{value[0]:{plus}.{digits}f} [{value[1]:{plus}.{digits}f}, {value[2]:{plus}.{digits}f}]"


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; all columns but the first are aligned right."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def summarise(folder: Path) -> dict[str, Any]:
    """Everything measured so far, with intervals."""
    runs = Runs(folder / "learning.jsonl")
    summary: dict[str, Any] = {"points": json.loads((folder / "calibration.json").read_text())}
    for point in POINTS:
        found = summary["points"][point]
        data = gradient.load(point, folder / "run")
        if data is not None:
            rows, trees = gradient_rows(data), tree_rows(data)
            found["gradient"] = {"problems": len(data["success"]), "trees": trees, "rows": rows}
        found["learning"] = learning_rows(runs, point)
        found["same rate"] = same_rate_rows(runs, point)
        found["bias"] = bias_rows(folder / f"bias-{point}.jsonl")
    return summary


def _signal(summary: dict[str, Any], point: str, growth: str, credit: str, view: str = "step") -> str:
    for row in summary["points"][point].get("gradient", {}).get("rows", ()):
        if (row["growth"], row["credit"]) == (growth, credit):
            return interval(row["signal"][view]["ratio"])
    return "–"


def _learned(summary: dict[str, Any], point: str, arm: str) -> str:
    for row in summary["points"][point]["learning"]:
        if row["arm"] == arm:
            return interval(row["success" if arm == "GRPO" else "difference"], 1, sign=arm != "GRPO")
    return "–"


def answer_table(summary: dict[str, Any], points: tuple[str, ...]) -> str:
    """Signal to noise and final success of every learning arm at the points."""
    signal = [p for p in points if "gradient" in summary["points"][p]]
    learned = [p for p in points if summary["points"][p]["learning"]]
    header = [
        "arm",
        *(f"{POINTS[p].about}: signal" for p in signal),
        *(f"{POINTS[p].about}: learning" for p in learned),
    ]
    rows = [
        [arm, *(_signal(summary, p, *ARMS[arm]) for p in signal), *(_learned(summary, p, arm) for p in learned)]
        for arm in ARMS
    ]
    return table(header, rows) if len(header) > 1 else "Not measured yet.\n"


def point_table(summary: dict[str, Any]) -> str:
    rows = []
    for name, point in POINTS.items():
        found = summary["points"][name]
        reached, learned = found["reached"], found["learning"]
        rows.append(
            [
                point.about,
                f"{100 * point.success:.0f} / {100 * point.mixed:.0f}",
                f"{100 * reached['success']:.1f} / {100 * reached['mixed']:.1f}",
                f"{reached['largest probability']:.2f}",
                f"{reached['entropy of a step']:.2f}",
                str(found.get("gradient", {}).get("problems", 0)),
                str(min((row["seeds"] for row in learned), default=0)),
            ]
        )
    names = ["point", "aim %", "reached %", "largest π", "entropy", "problems (signal)", "seeds (learning)"]
    return table(names, rows)


def run_table(rows: list[dict[str, Any]]) -> str:
    """What each arm's learning curve was spent on."""
    names = ["arm", "rate", "pilot success by rate", "problems a step", "steps", "tokens", "mixed trees", "seeds"]
    names += [f"against GRPO after {step}" for step in EVALUATIONS]
    lines = []
    for row in rows:
        grid = ", ".join(f"{rate} {100 * mean:.1f}" for rate, mean in row["grid"].items())
        spent = [f"{row['problems a step']:.1f}", str(row["steps"]), f"{row['tokens']:.0f}", f"{row['mixed']:.2f}"]
        after = [interval(d, 1, sign=True) for d in row["differences"]]
        lines.append([row["arm"], f"{row['rate']:g}", grid, *spent, str(row["seeds"]), *after])
    return table(names, lines)


def same_rate_table(rows: list[dict[str, Any]]) -> str:
    """Points above GRPO in the pilot worlds when both learn at the same rate."""
    rates = sorted({rate for row in rows for rate in row["differences"]}, key=float)
    lines = [
        [row["arm"], *(interval(d, 1, sign=True) if (d := row["differences"].get(r)) else "–" for r in rates)]
        for row in rows
    ]
    return table(["arm", *(f"rate {r}" for r in rates)], lines)


def bias_table(rows: list[dict[str, Any]]) -> str:
    """Cosine of the expected gradient with the exact one, and what a tree's leaves and draws overstate."""
    credits = list(rows[0]["cosine"])
    lines = [
        [row["growth"], *(interval(row[value], 1, sign=True) for value in ("leaves", "draws"))]
        + [interval(row["cosine"][credit], 3) for credit in credits]
        for row in rows
    ]
    return table(["trees", "leaves − exact", "draws − exact", *credits], lines)


def tree_table(rows: list[dict[str, Any]]) -> str:
    """Tokens, Eff-Rate and selection of each growth at a point."""
    lines = [
        [row["growth"], f"{row['tokens']:.1f}", f"{100 * row['mixed']:.1f}"]
        + [interval(row[value], 1, sign=True) for value in ("leaves", "draws")]
        for row in rows
    ]
    return table(["trees", "tokens", "Eff-Rate %", "leaves − exact", "draws − exact"], lines)


def full_table(summary: dict[str, Any], point: str) -> str:
    lines = [
        [growth, credit, *(_signal(summary, point, growth, credit, view) for view in gradient.VIEWS)]
        for growth in GROWTHS
        for credit in CREDITS
    ]
    return table(["trees", "credit", *(f"parameters per {v}" for v in gradient.VIEWS)], lines)


def _rounded(value: Any) -> Any:
    """The same with floats of five digits, and null where a number is not known."""
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(v) for v in value]
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    return value


def write(folder: Path) -> None:
    summary = summarise(folder)
    text = json.dumps(_rounded(summary), ensure_ascii=False)
    (folder / "summary.json").write_text(text.replace("}, {", "},\n{") + "\n")
    text = (
        "Signal: squared signal over squared noise of a gradient for the same tokens, GRPO = 1, one parameter block a "
    )
    text += "step, 95 % paired bootstrap over problems. Learning: exact held-out success in percent for GRPO, points "
    text += "above GRPO for the others, equal tokens and optimiser steps, 95 % t-interval over worlds.\n\n"
    text += answer_table(summary, SHOWN) + "\n" + answer_table(summary, DEPTHS) + "\n" + point_table(summary)
    for point in POINTS:
        found = summary["points"][point]
        if found["learning"]:
            text += f"\nLearning, {POINTS[point].about} (rates chosen on {PILOTS} other worlds):\n\n"
            text += run_table(found["learning"])
            text += f"\nThe same rate for both, {POINTS[point].about}, the {PILOTS} other worlds:\n\n"
            text += same_rate_table(found["same rate"])
        if "gradient" in found:
            text += f"\nTrees, {POINTS[point].about}:\n\n" + tree_table(found["gradient"]["trees"])
        if found["bias"]:
            text += f"\nCosine of the expected gradient with the exact one, {POINTS[point].about}, "
            text += f"{found['bias'][0]['problems']} problems, 95 % t-interval over them:\n\n" + bias_table(
                found["bias"]
            )
    (folder / "table.md").write_text(text)
    measured = [point for point in POINTS if "gradient" in summary["points"][point]]
    grid = (f"{POINTS[point].about}\n\n{full_table(summary, point)}" for point in measured)
    (folder / "gradient.md").write_text(
        "Signal to noise for the same tokens, GRPO = 1, 95 % intervals.\n\n" + "\n".join(grid)
    )
    draw(summary, folder)
