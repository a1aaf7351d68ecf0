"""Signal to noise, at equal tokens, of the gradient that each growth and credit makes of a problem.

A batch's gradient is a mean over problems. Its signal is its expectation along the exact gradient of the success rate,
its noise the rest. The square of signal over noise grows in proportion to the batch, so per generated token it compares
trees of different sizes. Three views of the same trees: parameters shared by all steps ("shared"), a block for each
step as in the learning curves ("step"), and logits of their own for each state ("state"), where what is learned in one
state serves in no other.
"""

from pathlib import Path

import numpy as np
from arms import CREDITS, GROWTHS
from calibrate import POINTS, make_problems
from trees import all_weights, gradient, grow, state_gradient, visited
from world import Problem, directions, exact_gradient, solve

from ibtpo._seeds import stable_hash
from ibtpo.score import values

CHUNK = 50  # problems
WORLD = 7  # seed of the directions and problems of this study
REFERENCE = 2000  # problems whose exact gradients give the direction; none of them is sampled
VIEWS = ("step", "shared", "state")


def truth(point: str, beta: tuple[float, float]) -> np.ndarray:
    """(D, K) exact gradient of the mean success rate over `REFERENCE` problems."""
    p = POINTS[point]
    theta, w = directions(np.random.default_rng([WORLD, 0]), p.shape, p.sharpness)
    problems = make_problems(p, beta, theta, w, [WORLD, 1], REFERENCE)
    return np.mean([exact_gradient(problem, solve(problem, theta)) for problem in problems], axis=0)


def measure(point: str, beta: tuple[float, float], true: np.ndarray, chunk: int) -> dict[str, np.ndarray]:
    """One chunk of problems, a tree for each growth.

    dot, square: (P, growths, credits, views) of each tree's gradient with the true direction and with itself. tokens,
    mixed, leaves, draws: (P, growths), the last two the tree's success by its leaves and by its draws. success: (P,)
    exact. exact_square: (P,) of the exact state gradient.
    """
    p = POINTS[point]
    theta, w = directions(np.random.default_rng([WORLD, 0]), p.shape, p.sharpness)
    size = (CHUNK, len(GROWTHS), len(CREDITS))
    found = {
        "dot": np.zeros((*size, len(VIEWS))),
        "square": np.zeros((*size, len(VIEWS))),
        "success": np.zeros(CHUNK),
        "exact_square": np.zeros(CHUNK),
    } | {name: np.zeros(size[:2]) for name in ("tokens", "mixed", "leaves", "draws")}
    for i, problem in enumerate(make_problems(p, beta, theta, w, [WORLD, 2, chunk], CHUNK)):
        _one(problem, theta, true, i, found)
    return found


def _one(problem: Problem, theta: np.ndarray, true: np.ndarray, i: int, found: dict[str, np.ndarray]) -> None:
    solution = solve(problem, theta)
    by_state = solution.state_gradient()
    found["success"][i] = solution.success
    found["exact_square"][i] = (by_state**2).sum()
    step, shared = true / np.linalg.norm(true), true.sum(0) / np.linalg.norm(true.sum(0))
    for g, growth in enumerate(GROWTHS.values()):
        tree = grow(problem, solution.probs, growth, stable_hash(WORLD, problem.id))
        steps = visited(problem, tree)
        weights = all_weights(tree, CREDITS.values())
        made = gradient(problem, solution.probs, steps, weights)
        states, rows = state_gradient(solution.probs, steps, weights)
        pooled = made.sum(1)
        found["dot"][i, g] = np.stack(
            [np.tensordot(made, step, 2), pooled @ shared, np.tensordot(rows, by_state[states], 2)], axis=1
        )
        found["square"][i, g] = np.stack([(made**2).sum((1, 2)), (pooled**2).sum(1), (rows**2).sum((1, 2))], axis=1)
        rewards = [leaf.reward for leaf in tree.leaves]
        found["tokens"][i, g] = tree.generated_tokens
        found["mixed"][i, g] = min(rewards) < max(rewards)
        found["leaves"][i, g] = np.mean(rewards)
        found["draws"][i, g] = values(tree, "draws")[0][0]


def run(point: str, beta: tuple[float, float], chunks: int, folder: Path) -> None:
    """Measures the chunks that `folder` does not hold yet."""
    folder.mkdir(parents=True, exist_ok=True)
    direction = folder / f"{point}-truth.npy"
    if not direction.exists():
        np.save(direction, truth(point, beta))
    true = np.load(direction)
    for chunk in range(chunks):
        path = folder / f"{point}-{chunk:03d}.npz"
        if not path.exists():
            partial = path.with_suffix(".part.npz")
            np.savez_compressed(partial, **measure(point, beta, true, chunk))
            partial.rename(path)
            print(f"gradient {point}: {CHUNK * (chunk + 1)} problems", flush=True)


def load(point: str, folder: Path) -> dict[str, np.ndarray] | None:
    """All chunks measured so far, joined over problems."""
    paths = sorted(p for p in folder.glob(f"{point}-[0-9]*.npz") if ".part" not in p.name)
    if not paths:
        return None
    parts = [dict(np.load(path)) for path in paths]
    return {k: np.concatenate([part[k] for part in parts]) for k in parts[0]}
