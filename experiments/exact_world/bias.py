"""Bias: the direction of the expected gradient against the exact one, problem by problem.

Many trees of one problem are averaged, in each state's own logits, where no other state or problem mixes in. The cosine
is taken from two halves of the trees, so that sampling noise does not shorten it. GRPO with independent answers has
cosine 1: its expected gradient is a multiple of the exact one.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from arms import CREDITS, GROWTHS
from calibrate import POINTS, make_problems
from trees import all_weights, grow, state_gradient, visited
from world import Problem, directions, solve

from ibtpo._seeds import stable_hash
from ibtpo.score import values

WORLD = 8  # seed
TREES = 400  # of a problem and growth
SHOWN_GROWTHS = ("independent 8", "random", "fixed width", "EPTree", "surprise", "IBTree", "IBTree β 1")
SHOWN_CREDITS = ("grpo", "ibtpo", "ibtpo, sqrt", "ibtpo, once", "ibtpo, draws", "treerl", "treepo")
BETWEEN = (0.05, 0.95)  # success of the problems: outside, most trees are uniform and say nothing


def measure(problem: Problem, theta: np.ndarray, trees: int = TREES) -> list[dict[str, Any]]:
    """A row for each growth: cosines by credit, and points by which leaves and draws overstate success."""
    solution = solve(problem, theta)
    exact = solution.state_gradient()
    rows = []
    for growth in SHOWN_GROWTHS:
        halves = np.zeros((2, len(SHOWN_CREDITS), *exact.shape))
        overstated = np.zeros((trees, 2))
        for i in range(trees):
            tree = grow(problem, solution.probs, GROWTHS[growth], stable_hash(WORLD, i))
            weights = all_weights(tree, [CREDITS[credit] for credit in SHOWN_CREDITS])
            states, made = state_gradient(solution.probs, visited(problem, tree), weights)
            halves[i % 2][:, states] += made
            overstated[i] = [100 * (values(tree, value)[0][0] - solution.success) for value in ("leaves", "draws")]
        first, second = halves.reshape(2, len(SHOWN_CREDITS), -1)
        along = (first + second) @ exact.ravel() / 2 / np.linalg.norm(exact)
        cosine = along / np.sqrt(np.maximum((first * second).sum(1), 1e-18))
        leaves, draws = overstated.mean(0)
        rows.append(
            {
                "problem": problem.id,
                "success": solution.success,
                "growth": growth,
                "cosine": dict(zip(SHOWN_CREDITS, cosine.tolist(), strict=True)),
                "leaves": leaves,
                "draws": draws,
            }
        )
    return rows


def run(point: str, beta: tuple[float, float], problems: int, path: Path) -> None:
    """Adds problems to the file until it holds as many as asked for; a line a problem."""
    p = POINTS[point]
    theta, w = directions(np.random.default_rng([WORLD, 0]), p.shape, p.sharpness)
    lines = path.read_text().splitlines() if path.exists() else []
    done = {json.loads(line)[0]["problem"] for line in lines}
    found = 0
    for problem in make_problems(p, beta, theta, w, [WORLD, 1], 100 * problems):
        if found == problems:
            return
        if BETWEEN[0] < solve(problem, theta).success < BETWEEN[1]:
            found += 1
            if problem.id not in done:
                rows = measure(problem, theta)
                with path.open("a") as f:
                    f.write(json.dumps(rows, ensure_ascii=False) + "\n")
                print(f"bias {point}: {found} problems", flush=True)
