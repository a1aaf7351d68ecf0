"""Learning curves: Adam from the point's first policy, equal tokens and equal optimiser steps for every arm.

A batch ends once its trees have used up the tokens of eight groups of eight independent answers; what one batch
overshoots is taken from the next: so every arm spends the same tokens in the same number of steps, and what differs is
how many problems a step holds. Each seed is a world of its own, with new directions, training and held-out problems,
shared by all arms; success on the held-out problems is exact. Rates are chosen on other worlds than those reported.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from arms import ARMS, CREDITS, GROWTHS, Growth
from calibrate import POINTS, make_problems
from trees import gradient, grow, node_weights, visited
from world import Problem, directions, policy, solve

from ibtpo._seeds import stable_hash
from ibtpo.credit import CreditOptions, batch_divisor, batch_values, plain_advantages

GROUPS, ANSWERS = 8, 8  # of the batch whose tokens a step may use
STEPS = 40
EVALUATIONS = (20, 40)
TRAIN, HELD_OUT = 240, 100  # problems
MOMENTS, EPSILON = (0.9, 0.999), 1e-8  # Adam's
RATES = (0.04, 0.08, 0.16)
NARROWEST, WIDEST = 0.0025, 1.28  # how far a grid may widen
PILOTS = 12
FIRST_PILOT = 10_000  # seed


@dataclass(slots=True)
class World:
    """One seed's problems and first policy."""

    theta: np.ndarray
    train: list[Problem]
    held_out: list[Problem]
    seed: int


def make_world(point: str, beta: tuple[float, float], seed: int, train: int = TRAIN, held_out: int = HELD_OUT) -> World:
    p = POINTS[point]
    theta, w = directions(np.random.default_rng([seed, 0]), p.shape, p.sharpness)
    parts = [list(make_problems(p, beta, theta, w, [seed, k], n)) for k, n in ((1, train), (2, held_out))]
    return World(theta, *parts, seed)


def success(problems: Iterable[Problem], theta: np.ndarray) -> float:
    """Exact mean success rate."""
    return float(np.mean([solve(problem, theta).success for problem in problems]))


def _order(world: World) -> Iterator[Problem]:
    """Training problems, shuffled anew each time round; the same order for every arm."""
    rng = np.random.default_rng([world.seed, 3])
    while True:
        yield from (world.train[i] for i in rng.permutation(len(world.train)))


def train(world: World, growth: Growth, credit: CreditOptions, rate: float, steps: int = STEPS) -> dict[str, Any]:
    """One run: success on held-out problems after each of `EVALUATIONS`, and what it was spent on."""
    theta = world.theta.copy()
    first, second = np.zeros_like(theta), np.zeros_like(theta)
    step_tokens = GROUPS * ANSWERS * len(theta)
    curve, tokens, mixed, asked, problems = [], 0, 0, 0, _order(world)
    for step in range(1, steps + 1):
        total, trees = np.zeros_like(theta), []
        while tokens < step * step_tokens:
            problem = next(problems)
            probs = policy(problem, theta)
            tree = grow(problem, probs, growth, stable_hash(world.seed, asked))
            asked += 1
            tokens += tree.generated_tokens
            weights = node_weights(tree, credit)
            total += gradient(problem, probs, visited(problem, tree), weights[None])[0]
            trees.append(tree)
        rewards = [[leaf.reward for leaf in tree.leaves] for tree in trees]
        mixed += sum(min(r) < max(r) for r in rewards)
        total /= max(1, len(trees))
        plain = [plain_advantages(tree, credit) for tree in trees]
        values = batch_values(trees, plain, credit.advantage)
        if values is not None:  # TreePO divides by the spread of the whole batch
            total /= batch_divisor(values, credit.advantage)
        first = MOMENTS[0] * first + (1 - MOMENTS[0]) * total
        second = MOMENTS[1] * second + (1 - MOMENTS[1]) * total**2
        corrected = np.sqrt(second / (1 - MOMENTS[1] ** step)) + EPSILON
        theta += rate * first / (1 - MOMENTS[0] ** step) / corrected
        if step in EVALUATIONS or step == steps:
            curve.append(success(world.held_out, theta))
    return {"curve": curve, "steps": steps, "tokens": tokens, "problems": asked, "mixed": mixed / asked}


def train_arm(world: World, arm: str, rate: float) -> dict[str, Any]:
    """The run of one of `ARMS`."""
    growth, credit = ARMS[arm]
    return train(world, GROWTHS[growth], CREDITS[credit], rate)


class Runs:
    """Finished runs in a file, one JSON object a line; a run that is in it is not done again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: dict[tuple, dict[str, Any]] = {}
        if path.exists():
            for line in path.read_text().splitlines():
                row = json.loads(line)
                self.found[self._key(row)] = row

    @staticmethod
    def _key(row: dict[str, Any]) -> tuple:
        return row["point"], row["arm"], row["rate"], row["seed"]

    def get(self, point: str, arm: str, rate: float, worlds: "Worlds", seed: int) -> dict[str, Any]:
        """The run of an arm at a rate in the world of a seed, done now if it is not there."""
        key = point, arm, rate, seed
        if key not in self.found:
            result = train_arm(worlds.get(point, seed), arm, rate)
            row = {"point": point, "arm": arm, "rate": rate, "seed": seed, "start": worlds.start, **result}
            with self.path.open("a") as f:
                f.write(json.dumps(row) + "\n")
            self.found[key] = row
        return self.found[key]


class Worlds:
    """Worlds by seed; the last one is kept, as its arms follow one another."""

    def __init__(self, betas: dict[str, tuple[float, float]]) -> None:
        self._betas, self._key, self._world, self.start = betas, None, None, 0.0

    def get(self, point: str, seed: int) -> World:
        if self._key != (point, seed):
            self._world, self._key = make_world(point, self._betas[point], seed), (point, seed)
            self.start = success(self._world.held_out, self._world.theta)
        return self._world


def choose_rates(runs: Runs, point: str, arms: Iterable[str], worlds: Worlds) -> dict[str, float]:
    """Each arm's best rate on the pilot worlds; a best rate at the edge of its grid widens the grid."""
    grids, chosen = {arm: list(RATES) for arm in arms}, {}
    while open_arms := [arm for arm in grids if arm not in chosen]:
        for seed in range(FIRST_PILOT, FIRST_PILOT + PILOTS):
            for arm in open_arms:
                for rate in grids[arm]:
                    runs.get(point, arm, rate, worlds, seed)
        for arm in open_arms:
            grid, found = grids[arm], pilots(runs, point, arm)
            best = max(grid, key=found.__getitem__)
            if best == grid[0] and best > NARROWEST:
                grid.insert(0, best / 2)
            elif best == grid[-1] and best < WIDEST:
                grid.append(best * 2)
            else:
                chosen[arm] = best
                print(f"rate {point} {arm}: {best:g} of", {r: round(found[r], 4) for r in grid}, flush=True)
    return chosen


def pilots(runs: Runs, point: str, arm: str) -> dict[float, float]:
    """Mean final success of each rate that was tried in all pilot worlds."""
    by_rate: dict[float, list[float]] = {}
    for (where, who, rate, seed), row in runs.found.items():
        if (where, who) == (point, arm) and FIRST_PILOT <= seed < FIRST_PILOT + PILOTS:
            by_rate.setdefault(rate, []).append(row["curve"][-1])
    return {rate: float(np.mean(v)) for rate, v in sorted(by_rate.items()) if len(v) == PILOTS}


def run(
    point: str,
    arms: Iterable[str],
    seeds: int,
    runs: Runs,
    betas: dict[str, tuple[float, float]],
    rates: Sequence[float] = (),
) -> None:
    """Chooses rates, then trains every arm in `seeds` worlds, world after world; at each of `rates`, too."""
    worlds = Worlds(betas)
    chosen = choose_rates(runs, point, arms, worlds)
    for seed in range(seeds):
        for arm, rate in chosen.items():
            for each in (rate, *rates):
                runs.get(point, arm, each, worlds, seed)
        print(f"learning {point}: {seed + 1} of {seeds} worlds", flush=True)


def outdated(runs: Runs, betas: dict[str, tuple[float, float]]) -> list[str]:
    """Does the first and the last stored run of every arm at every point again; the names of those that differ now.

    A run is known by its arm alone, so one that an earlier version of a rule or a credit made looks like any other.
    """
    ends: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in runs.found.values():
        ends.setdefault((row["point"], row["arm"]), []).append(row)
    found, worlds = [], Worlds(betas)
    for (point, arm), rows in ends.items():
        for row in rows[:: max(1, len(rows) - 1)]:
            now = train_arm(worlds.get(point, row["seed"]), arm, row["rate"])
            if not np.allclose(now["curve"], row["curve"], rtol=1e-6):
                found.append(f"{point}, {arm}, rate {row['rate']:g}, seed {row['seed']}")
    return found
