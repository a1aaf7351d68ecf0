"""The Markdown tables of the report."""

import math
from typing import Any

from arms import ARMS, CREDITS, GROWTHS, LEARNED
from calibrate import POINTS
from gradient import VIEWS
from learning import EVALUATIONS


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


def choice_table(summary: dict[str, Any], view: str) -> str:
    """What each choice alone does to signal to noise at every point measured."""
    found = {POINTS[p].about: summary["points"][p].get("gradient", {}).get("choices") for p in POINTS}
    found = {about: rows for about, rows in found.items() if rows}
    lines = [
        [same[0]["choice"], *(interval(row["ratio"][view]) for row in same)]
        for same in zip(*found.values(), strict=True)
    ]
    return table(["choice", *found], lines)


def learned_choice_table(summary: dict[str, Any]) -> str:
    """What each choice alone does to success after learning, at every point learned from."""
    points = [p for p in POINTS if summary["points"][p]["learned choices"]]
    found = {(p, row["choice"]): row for p in points for row in summary["points"][p]["learned choices"]}

    def cell(point: str, choice: str) -> str:
        row = found.get((point, choice))
        return "–" if row is None else interval(row["difference"], 1, sign=True)

    rows = [[choice, *(cell(p, choice) for p in points)] for choice in LEARNED]
    return table(["choice", *(POINTS[p].about for p in points)], rows)


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
    """Points above GRPO when both learn at the same rate, and in how many worlds."""
    rates = sorted({rate for row in rows for rate in row["differences"]}, key=float)

    def cell(found: list[float] | None) -> str:
        return "–" if found is None else f"{interval(found[:3], 1, sign=True)}, {found[3]}"

    lines = [[row["arm"], *(cell(row["differences"].get(rate)) for rate in rates)] for row in rows]
    return table(["arm", *(f"rate {rate}, worlds" for rate in rates)], lines)


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
        [growth, credit, *(_signal(summary, point, growth, credit, view) for view in VIEWS)]
        for growth in GROWTHS
        for credit in CREDITS
    ]
    return table(["trees", "credit", *(f"parameters per {v}" for v in VIEWS)], lines)
