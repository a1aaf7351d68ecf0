"""Operating points: how often the first policy succeeds, and how often eight of its answers disagree.

Success rates of a point's problems follow a Beta distribution. Its two parameters are fitted until the problems as
made, where a success rate is a sum of whole answers' probabilities, have the mean and the mixed share that the point
names.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from world import Problem, Shape, directions, make_problem, solve

GROUP = 8  # answers: a group is mixed if it holds a right one and a wrong one
FIT_PROBLEMS = 1000
FIT_ROUNDS = 2


@dataclass(frozen=True, slots=True)
class Point:
    """An operating point.

    about: what it stands for. success: mean success rate. mixed: share of groups of eight that are mixed. sharpness:
    of the first policy, see `world.directions`.
    """

    about: str
    success: float
    mixed: float
    sharpness: float = 1.2
    shape: Shape = field(default_factory=Shape)


POINTS = {
    "paper": Point("the paper's", 0.20, 0.55),
    "alike": Point("alike problems", 0.19, 0.77),
    "late": Point("late in training, peaked policy", 0.50, 0.55, sharpness=4.0),
    "starved": Point("starved", 0.03, 0.20),
    "deep6": Point("the paper's, 6 steps, merged", 0.20, 0.55, shape=Shape(6, 64)),
    "deep12": Point("the paper's, 12 steps, merged", 0.20, 0.55, shape=Shape(12, 64)),
    "deep24": Point("the paper's, 24 steps, merged", 0.20, 0.55, shape=Shape(24, 64)),
}


def mixed_share(success: np.ndarray) -> float:
    """Exact share of mixed groups of problems with these success rates."""
    return float(np.mean(1 - success**GROUP - (1 - success) ** GROUP))


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def beta_parameters(mean: float, mixed: float) -> tuple[float, float]:
    """(a, b) of the Beta distribution of success rates with this mean and this share of mixed groups.

    Raises `ValueError` if even equal problems are not mixed that often.
    """
    most = mixed_share(np.array([mean]))
    if not 0 < mixed < most:
        raise ValueError(f"with success {mean:g} a group of {GROUP} is mixed in 0 to {most:.3f}, not {mixed:g}")
    low, high = 1e-3, 1e6  # of a + b: the larger, the more alike the problems
    for _ in range(100):
        size = math.sqrt(low * high)
        a, b = mean * size, (1 - mean) * size
        uniform = math.exp(_log_beta(a + GROUP, b) - _log_beta(a, b))
        uniform += math.exp(_log_beta(a, b + GROUP) - _log_beta(a, b))
        low, high = (size, high) if 1 - uniform < mixed else (low, size)
    return float(mean * low), float((1 - mean) * low)


def make_problems(
    point: Point, beta: tuple[float, float], theta: np.ndarray, w: np.ndarray, seed: list[int], n: int
) -> Iterator[Problem]:
    """Yields n problems of a point; problem i depends on the seed and i alone."""
    for i in range(n):
        rng = np.random.default_rng([*seed, i])
        yield make_problem(rng, point.shape, theta, w, rng.beta(*beta), ".".join(map(str, [*seed, i])))


def reached(problems: list[Problem], theta: np.ndarray) -> dict[str, float]:
    """Mean success, mixed share, and the policy's mean largest probability and entropy over the states it visits."""
    success, largest, entropy = [], [], []
    for problem in problems:
        solution = solve(problem, theta)
        p = solution.probs
        weight = solution.visits / solution.visits.sum()
        success.append(solution.success)
        largest.append(weight @ p.max(1))
        entropy.append(weight @ -(p * np.log(p)).sum(1))
    rates = np.array(success)
    return {
        "success": float(rates.mean()),
        "mixed": mixed_share(rates),
        "largest probability": float(np.mean(largest)),
        "entropy of a step": float(np.mean(entropy)),
    }


def fit(point: Point, seed: int) -> tuple[tuple[float, float], dict[str, float]]:
    """The Beta parameters that reach the point, and what fresh problems reach with them.

    Each round moves the aim by what problems as made differ from the success rates asked of them: the draws are the
    same on both sides, so that their noise cancels.
    """
    theta, w = directions(np.random.default_rng([seed, 0]), point.shape, point.sharpness)
    target = np.array([point.success, point.mixed])
    aim = target
    for _ in range(FIT_ROUNDS):
        beta = beta_parameters(*aim)
        asked = np.array([np.random.default_rng([seed, 1, i]).beta(*beta) for i in range(FIT_PROBLEMS)])
        made = np.array(
            [solve(p, theta).success for p in make_problems(point, beta, theta, w, [seed, 1], FIT_PROBLEMS)]
        )
        aim = target - [made.mean() - asked.mean(), mixed_share(made) - mixed_share(asked)]
    beta = beta_parameters(*aim)
    return beta, reached(list(make_problems(point, beta, theta, w, [seed, 2], FIT_PROBLEMS)), theta)
