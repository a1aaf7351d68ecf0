"""What a training comparison has found so far: its finished runs as a summary, a table and the rows of `curves.csv`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..evaluation.statistics import accuracy, difference, grade_table, nanmean
from ..storage.read_run import Run, read_run
from .training_arms import BASELINE, REFERENCE
from .training_plan import Plan

# The metrics whose curves are compared: the name here, and the name in metrics.jsonl.
METRICS = {
    "eff_rate": "ibtpo/eff_rate", "ib_score": "ibtpo/ib_score", "cov_eta": "ibtpo/cov_eta",
    "entropy": "ibtpo/entropy", "kl": "kl",
}  # fmt: skip
BINS = 20  # A run's metrics are averaged over each of so many equal parts of the token budget.

Row = dict[str, Any]


@dataclass(frozen=True)
class Result:
    """A finished final run.

    seed: its seed.
    run: what its run folder holds.
    rows: its held-out evaluations in order, from the untrained to the trained model.
    """

    seed: int
    run: Run
    rows: list[Row]


def finished(plan: Plan, rates: dict[str, float]) -> dict[str, list[Result]]:
    """The finished runs of each arm, in the order of the plan's seeds; arms without one are left out.

    rates: the chosen learning rate of each arm.
    """
    found: dict[str, list[Result]] = {}
    for arm in plan.arms:
        for seed in plan.seeds:
            job = plan.final(arm, rates.get(arm, 0.0), seed)
            if job.finished:
                run = read_run(job.folder)
                found.setdefault(arm, []).append(Result(seed, run, run.held_out))
    return found


def training_summary(plan: Plan) -> tuple[dict[str, Any], list[Row]]:
    """Summarises the finished runs of a comparison.

    Returns the content of summary.json, and the rows of curves.csv.
    """
    choices = plan.choices()
    results = finished(plan, {arm: c["learning_rate"] for arm, c in choices.items()})
    problems = list(next(iter(results.values()))[0].rows[-1]["grades"]) if results else []
    matched = "generated tokens and optimiser steps" if plan.measure else "generated tokens"
    summary: dict[str, Any] = {"tokens": plan.shared["tokens"], "matched": matched, "arms": {}, "paired": {}}
    if results:
        # Before training all arms are the same model, which answers alike with the same seed.
        first = {r.seed: r.rows[0]["grades"] for rs in results.values() for r in rs if r.rows[0]["step"] == 0}
        before = accuracy(grade_table(list(first.values()), problems)) | {"runs": len(first)} if first else None
        summary["before"] = before
        summary["problems"] = len(problems)
        summary["k"] = next(iter(results.values()))[0].rows[-1]["k"]
    for arm, rs in results.items():
        summary["arms"][arm] = _arm(plan, rs, problems) | choices.get(arm, {})
    pairs = [(REFERENCE, arm) for arm in results] + [(arm, BASELINE) for arm in results]
    for mine, theirs in pairs:
        if mine != theirs and mine in results and theirs in results:
            found = paired(results[mine], results[theirs], problems)
            if found is not None:
                summary["paired"][f"{mine}-{theirs}"] = found
    summary["learning_rates"] = choices
    curves = [row for arm, rs in results.items() for r in rs for row in _curves(plan, arm, r)]
    return summary, curves


def _arm(plan: Plan, results: Sequence[Result], problems: Sequence[str]) -> dict[str, Any]:
    """The summary of one arm: its accuracy after training, what each of its runs cost, and its accuracy on the way."""
    values = grade_table([r.rows[-1]["grades"] for r in results], problems)
    c = [r.run.curves for r in results]
    gaps = [np.diff(curves.steps, prepend=0) for curves in c]
    return {
        **accuracy(values),
        "seeds": [float(nanmean(row)) for row in values],
        "seed_numbers": [r.seed for r in results],
        "pass": float(np.mean([r.rows[-1]["pass"] for r in results if r.rows[-1]["pass"] is not None] or [np.nan])),
        "truncated": float(np.mean([r.rows[-1]["truncated"] for r in results])),
        "eff_rate": float(np.mean([nanmean(curves["ibtpo/eff_rate"]) for curves in c])),
        "questions_a_step": int(results[0].run.config["prompts_per_step"]),
        "tokens": [int(curves.tokens[-1]) for curves in c],
        "steps": [int(curves.steps[-1]) for curves in c],
        "trajectories": [int(g @ curves["ibtpo/trajectories"]) for g, curves in zip(gaps, c, strict=True)],
        "training_seconds": [round(float(curves.seconds[-1]), 1) for curves in c],
        "curve": _curve(plan, results, problems),
    }


def _points(plan: Plan, result: Result) -> dict[int, Row]:
    """A run's evaluations by their number: 0 is before training, and `evaluations` of the plan is after it.

    In between, number n is the evaluation at or just beyond n shares of the token budget. Steps of different runs end
    at different token counts; the number says which evaluations of the runs belong together.
    """
    last, every = plan.shared["evaluations"], plan.shared["tokens"] / plan.shared["evaluations"]
    points = {min(last - 1, int(row["generated_tokens"] // every)): row for row in result.rows[:-1]}
    return {**points, last: result.rows[-1]}


def _curve(plan: Plan, results: Sequence[Result], problems: Sequence[str]) -> list[Row]:
    """The accuracy at each evaluation on the way, over the seeds that have it."""
    points = [_points(plan, r) for r in results]
    curve = []
    for place in sorted({place for p in points for place in p}):
        rows = [p[place] for p in points if place in p]
        at = {name: float(np.mean([row[name] for row in rows])) for name in ("generated_tokens", "seconds")}
        curve.append({**at, **accuracy(grade_table([row["grades"] for row in rows], problems)), "seeds": len(rows)})
    return curve


def paired(
    mine: Sequence[Result], theirs: Sequence[Result], problems: Sequence[str], *, level: float = 0.95
) -> dict[str, Any] | None:
    """The `difference` in accuracy, mine minus theirs, over the seeds that both have, and these as "seed_numbers".

    mine, theirs: finished runs of two arms.
    problems: the ids of the held-out problems.
    level: of the interval.

    Returns None if there is no such seed.
    """
    ours, others = ({r.seed: r.rows[-1]["grades"] for r in rs} for rs in (mine, theirs))
    seeds = [seed for seed in ours if seed in others]
    if not seeds:
        return None
    tables = (grade_table([grades[seed] for seed in seeds], problems) for grades in (ours, others))
    return {**difference(*tables, level=level), "seed_numbers": seeds}


def _curves(plan: Plan, arm: str, result: Result) -> list[Row]:
    """A run's rows of curves.csv: its evaluations, and its metrics averaged over each part of the token budget."""
    where = {"arm": arm, "seed": result.seed}
    rows = [
        {**where, "measure": "accuracy", "tokens": r["generated_tokens"], "seconds": r["seconds"], "value": r["avg"]}
        for r in result.rows
    ]
    c = result.run.curves
    edges = np.linspace(0, plan.shared["tokens"], BINS + 1)
    bins = np.clip(np.searchsorted(edges, c.tokens, side="left") - 1, 0, BINS - 1)
    for name, column in METRICS.items():
        for b in np.unique(bins).tolist():
            inside = (bins == b) & np.isfinite(c[column])
            if inside.any():
                at = {"tokens": float((edges[b] + edges[b + 1]) / 2), "seconds": float(c.seconds[inside].mean())}
                rows.append({**where, "measure": name, **at, "value": float(c[column][inside].mean())})
    return rows


def markdown(summary: dict[str, Any], shared: dict[str, Any]) -> str:
    """The content of table.md: how the runs were made, and a table with a row an arm.

    summary: what `training_summary` returns.
    shared: the plan's shared settings.
    """
    if not summary["arms"]:
        return "No run is finished yet."
    before = summary["before"] and _percent(summary["before"]["acc"], summary["before"]["ci"])
    k = summary["k"]
    steps = "optimiser steps and trajectories are what those tokens bought"
    if measure := shared.get("match_steps"):
        steps = f"its questions a step are chosen so that it takes as many optimiser steps as {measure} does"
    rates = "All arms have the same learning rate."
    if len(shared["learning_rates"]) > 1:
        rates = (
            f"Each arm's learning rate was chosen on {shared['validation']} other problems by pilots of "
            f"{shared['pilot_tokens']:,} tokens and {len(shared['pilot_seeds'])} seeds; * marks one at the edge of the "
            "rates that were tried."
        )
        if shared.get("rates_by_method"):
            rates += " An arm with changes has the rate of its method."
    lines = [
        f"Matched in {summary['matched']}: every run ends with the step that takes it to {summary['tokens']:,} "
        f"generated tokens; {steps}. Accuracy is avg@{k} on {summary['problems']} "
        f"held-out problems. Before training: {before or '–'}. {rates} "
        "95 % intervals: Student's t over seeds and problems, both drawn; differences paired cell by cell; "
        "† of one seed, so that they speak of other problems only.",
        "",
        f"| arm | accuracy, % | minus {BASELINE}, points | {REFERENCE} minus it, points | pass@{k}, % | seeds | "
        "learning rate | Eff-Rate, % | tokens | questions a step | steps | trajectories | seconds |",
        f"|{' --- |' * 13}",
    ]
    for arm, a in summary["arms"].items():
        pairs = (summary["paired"].get(names) for names in (f"{arm}-{BASELINE}", f"{REFERENCE}-{arm}"))
        rate = f"{a['learning_rate']:g}{'*' if a.get('at_edge') else ''}" if "learning_rate" in a else "–"
        tokens, *means = (
            f"{np.mean(a[name]):,.0f}" for name in ("tokens", "steps", "trajectories", "training_seconds")
        )
        cells = [
            arm, _percent(a["acc"], a["ci"]) + _one_seed(a), *(_of_pair(pair) if pair else "–" for pair in pairs),
            f"{100 * a['pass']:.1f}", len(a["seeds"]), rate, f"{100 * a['eff_rate']:.1f}", tokens,
            a["questions_a_step"], *means,
        ]  # fmt: skip
        lines.append(f"| {' | '.join(map(str, cells))} |")
    lines += ["", "Tokens, steps, trajectories and seconds of training (evaluation left out) are means over seeds."]
    return "\n".join(lines)


def _of_pair(pair: dict[str, Any]) -> str:
    """A paired difference and its interval in points."""
    return _percent(pair["diff"], pair["ci"], "+") + _one_seed(pair)


def _one_seed(entry: dict[str, Any]) -> str:
    """The mark of an interval that rests on one seed, for an arm's entry or a paired difference; else nothing."""
    return " †" if len(entry["seed_numbers"]) == 1 else ""


def _percent(value: float, ci: Sequence[float], sign: str = "") -> str:
    """A share and its interval in percent; `sign` "+" shows the sign of positive numbers too."""
    return f"{100 * value:{sign}.1f} [{100 * ci[0]:{sign}.1f}, {100 * ci[1]:{sign}.1f}]"
