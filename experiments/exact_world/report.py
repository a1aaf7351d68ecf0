"""Writes summary.json, table.md, gradient.md and the picture from what has been measured so far."""

import json
import math
from pathlib import Path
from typing import Any

import gradient
from calibrate import POINTS
from choices import choice_rows
from learning import PILOTS, Runs
from picture import draw
from summarise import bias_rows, gradient_rows, learned_choice_rows, learning_rows, same_rate_rows, tree_rows
from tables import (
    answer_table,
    bias_table,
    choice_table,
    full_table,
    learned_choice_table,
    point_table,
    run_table,
    same_rate_table,
    tree_table,
)  # fmt: skip

SHOWN = ("paper", "alike", "late", "starved")
DEPTHS = ("deep6", "deep12", "deep24")
LEGEND = """\
Signal: squared signal over squared noise of a gradient for the same tokens, GRPO = 1, one parameter block a step, 95 %
paired bootstrap over problems. Learning: exact held-out success in percent for GRPO, points above GRPO for the others,
equal tokens and optimiser steps, 95 % t-interval over worlds.

"""


def summarise(folder: Path) -> dict[str, Any]:
    """Everything measured so far, with intervals; a point keeps its earlier gradients while `run` holds fewer."""
    earlier = folder / "summary.json"
    known = json.loads(earlier.read_text())["points"] if earlier.exists() else {}
    runs = Runs(folder / "learning.jsonl")
    summary: dict[str, Any] = {"points": json.loads((folder / "calibration.json").read_text())}
    for point in POINTS:
        found = summary["points"][point]
        data = gradient.load(point, folder / "run")
        earlier_gradient = known.get(point, {}).get("gradient", {"problems": 0})
        if data is not None and len(data["success"]) >= earlier_gradient["problems"]:
            found["gradient"] = {
                "problems": len(data["success"]),
                "trees": tree_rows(data),
                "rows": gradient_rows(data),
                "choices": choice_rows(data),
            }
        elif earlier_gradient["problems"]:
            found["gradient"] = earlier_gradient
        found["learning"] = learning_rows(runs, point)
        found["learned choices"] = learned_choice_rows(runs, point)
        found["same rate"] = same_rate_rows(runs, point)
        found["bias"] = bias_rows(folder / f"bias-{point}.jsonl")
    return summary


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
    """Writes all results of a folder anew."""
    summary = summarise(folder)
    text = json.dumps(_rounded(summary), ensure_ascii=False)
    (folder / "summary.json").write_text(text.replace("}, {", "},\n{") + "\n")
    text = LEGEND + answer_table(summary, SHOWN) + "\n" + answer_table(summary, DEPTHS) + "\n" + point_table(summary)
    for view, about in (("step", "parameters shared by problems"), ("state", "every state its own parameters")):
        text += f"\nOne choice at a time, ratio of signal to noise, {about}:\n\n" + choice_table(summary, view)
    text += "\nOne choice at a time, points of success after learning, each arm with its own rate:\n\n"
    text += learned_choice_table(summary)
    for point in POINTS:
        found = summary["points"][point]
        if found["learning"]:
            text += f"\nLearning, {POINTS[point].about} (rates chosen on {PILOTS} other worlds):\n\n"
            text += run_table(found["learning"])
        if found["same rate"]:
            text += f"\nThe same rate for both, {POINTS[point].about}, all worlds that have both:\n\n"
            text += same_rate_table(found["same rate"])
        if "gradient" in found:
            text += f"\nTrees, {POINTS[point].about}:\n\n" + tree_table(found["gradient"]["trees"])
        if found["bias"]:
            problems = found["bias"][0]["problems"]
            text += (
                f"\nCosine of the expected gradient with the exact one, {POINTS[point].about}, {problems} problems, "
            )
            text += "95 % t-interval over them:\n\n" + bias_table(found["bias"])
    (folder / "table.md").write_text(text)
    measured = [point for point in POINTS if "gradient" in summary["points"][point]]
    grid = (f"{POINTS[point].about}\n\n{full_table(summary, point)}" for point in measured)
    head = "Signal to noise for the same tokens, GRPO = 1, 95 % intervals.\n\n"
    (folder / "gradient.md").write_text(head + "\n".join(grid))
    draw(summary, folder)
