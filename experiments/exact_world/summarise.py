"""From measurements to numbers with intervals: signal to noise and bias of gradients, gains in learning."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from arms import ARMS, CREDITS, GROWTHS, LEARNED
from gradient import VIEWS
from learning import FIRST_PILOT, PILOTS, Runs, pilots

from ibtpo.evaluation.statistics import t_quantile

RESAMPLES = 1000
Interval = tuple[float, float, float]  # value, low, high


def t_interval(values: Sequence[float]) -> Interval:
    """Mean and 95 % t-interval."""
    mean, n = float(np.mean(values)), len(values)
    if n < 2:
        return mean, float("nan"), float("nan")
    half = t_quantile(n - 1) * float(np.std(values, ddof=1)) / n**0.5
    return mean, mean - half, mean + half


def resamples(n: int) -> np.ndarray:
    """(1 + RESAMPLES, n) weights of n problems: each once, then the resamples of the bootstrap, always the same."""
    rng = np.random.default_rng(0)
    return np.vstack([np.ones(n), rng.multinomial(n, np.full(n, 1 / n), RESAMPLES)]) / n


def signal(weights: np.ndarray, data: dict[str, np.ndarray], g: int, view: int) -> np.ndarray:
    """(B, credits) squared signal over squared noise per 1000 tokens under B rows of problem weights (B, P)."""
    dot, square = weights @ data["dot"][:, g, :, view], weights @ data["square"][:, g, :, view]
    along = dot**2
    if VIEWS[view] == "state":  # the exact gradient of a problem's own logits has its own length
        along /= (weights @ data["exact_square"])[:, None]
    return along / (square - along) / (weights @ data["tokens"][:, g])[:, None] * 1000


def gradient_rows(data: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """A row for each growth and credit.

    signal: per view, and over GRPO's with a paired bootstrap interval over problems.
    """
    weights = resamples(len(data["success"]))
    names, credits = list(GROWTHS), list(CREDITS)
    base_g, base_c = names.index("independent 8"), credits.index("grpo")
    rows: list[dict[str, Any]] = [{"growth": g, "credit": c, "signal": {}} for g in names for c in credits]
    for v, view in enumerate(VIEWS):
        base = signal(weights, data, base_g, v)[:, base_c]
        for g in range(len(names)):
            found = signal(weights, data, g, v)
            ratio = found / base[:, None]
            low, high = np.quantile(ratio[1:], [0.025, 0.975], axis=0)
            for c in range(len(credits)):
                row = rows[g * len(credits) + c]
                row["signal"][view] = {"value": found[0, c], "ratio": [ratio[0, c], low[c], high[c]]}
    return rows


def tree_rows(data: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """A row for each growth: tokens, share of mixed trees, and points by which leaves and draws overstate success."""
    return [
        {
            "growth": name,
            "tokens": float(data["tokens"][:, g].mean()),
            "mixed": float(data["mixed"][:, g].mean()),
            "leaves": list(t_interval(100 * (data["leaves"][:, g] - data["success"]))),
            "draws": list(t_interval(100 * (data["draws"][:, g] - data["success"]))),
        }
        for g, name in enumerate(GROWTHS)
    ]


def bias_rows(path: Path) -> list[dict[str, Any]]:
    """A row for each growth: cosines by credit and overstated points, with t-intervals over problems."""
    if not path.exists():
        return []
    problems = [json.loads(line) for line in path.read_text().splitlines()]
    rows = []
    for same in zip(*problems, strict=True):
        credits = same[0]["cosine"]
        rows.append(
            {
                "growth": same[0]["growth"],
                "problems": len(same),
                "cosine": {c: list(t_interval([row["cosine"][c] for row in same])) for c in credits},
                "leaves": list(t_interval([row["leaves"] for row in same])),
                "draws": list(t_interval([row["draws"] for row in same])),
            }
        )
    return rows


def final_runs(runs: Runs, point: str) -> dict[str, dict[int, dict[str, Any]]]:
    """For each arm its runs in the reported worlds by seed, at the rate that its pilots chose."""
    grids = {arm: pilots(runs, point, arm) for arm in ARMS}
    rates = {arm: max(grid, key=grid.__getitem__) for arm, grid in grids.items() if grid}
    final: dict[str, dict[int, dict[str, Any]]] = {arm: {} for arm in ARMS}
    for (where, arm, rate, seed), row in runs.found.items():
        if where == point and seed < FIRST_PILOT and rate == rates.get(arm):
            final[arm][seed] = row
    return final


def learning_rows(runs: Runs, point: str) -> list[dict[str, Any]]:
    """A row for each arm that has runs in reported worlds: success in percent, and points above GRPO's there."""
    rows, final = [], final_runs(runs, point)
    for arm, by_seed in final.items():
        if not set(by_seed) & set(final["GRPO"]):
            continue
        both = sorted(set(by_seed) & set(final["GRPO"]))
        curves = 100 * np.array([by_seed[s]["curve"] for s in both])
        theirs = 100 * np.array([final["GRPO"][s]["curve"] for s in both])
        some = next(iter(by_seed.values()))
        rows.append(
            {
                "arm": arm,
                "growth": ARMS[arm][0],
                "credit": ARMS[arm][1],
                "rate": some["rate"],
                "grid": {str(rate): mean for rate, mean in pilots(runs, point, arm).items()},
                "seeds": len(both),
                "steps": some["steps"],
                "tokens": float(np.mean([by_seed[s]["tokens"] for s in both])),
                "problems a step": float(np.mean([by_seed[s]["problems"] / by_seed[s]["steps"] for s in both])),
                "mixed": float(np.mean([by_seed[s]["mixed"] for s in both])),
                "start": 100 * float(np.mean([by_seed[s]["start"] for s in both])),
                "curve": curves.mean(0).tolist(),
                "success": list(t_interval(curves[:, -1])),
                "difference": list(t_interval(curves[:, -1] - theirs[:, -1])),
                "differences": [list(t_interval(d)) for d in (curves - theirs).T],
            }
        )
    return rows


def learned_choice_rows(runs: Runs, point: str) -> list[dict[str, Any]]:
    """A row for each of `LEARNED`: by how many points the first arm ends above the second in worlds that have both."""
    rows, final = [], final_runs(runs, point)
    for choice, (new, old) in LEARNED.items():
        both = sorted(set(final[new]) & set(final[old]))
        if both:
            ahead = [100 * (final[new][s]["curve"][-1] - final[old][s]["curve"][-1]) for s in both]
            rows.append({"choice": choice, "seeds": len(both), "difference": list(t_interval(ahead))})
    return rows


def same_rate_rows(runs: Runs, point: str) -> list[dict[str, Any]]:
    """A row for each arm: points above GRPO with the same rate for both, in all worlds that have both runs."""
    final: dict[tuple[str, float], dict[int, float]] = {}
    for (where, arm, rate, seed), row in runs.found.items():
        if where == point:
            final.setdefault((arm, rate), {})[seed] = 100 * row["curve"][-1]
    rows = []
    for arm in ARMS:
        found = {}
        for rate in sorted(rate for who, rate in final if who == arm != "GRPO"):
            mine, theirs = final[arm, rate], final.get(("GRPO", rate), {})
            both = sorted(set(mine) & set(theirs))
            if len(both) >= PILOTS:
                found[str(rate)] = [*t_interval(np.array([mine[s] - theirs[s] for s in both])), len(both)]
        if found:
            rows.append({"arm": arm, "differences": found})
    return rows
