"""Chooses problems by the base model's own success, so that they stand at the paper's operating point.

A problem was answered n times and k of its answers were right. The spread of success rates over all problems that were
tried is described by a Beta distribution, fitted to the k. What is expected of a problem on new answers, its success
and the chance that a group of eight is mixed, then follows from its k: among many tries the lucky ones look easier than
they are, and the fit takes that back. Problems are chosen until the means of both are as wanted.
"""

import math
from collections.abc import Sequence

import numpy as np

from ibtpo.compare.branching import chance_effective
from ibtpo.evaluation.statistics import bootstrap_interval

GROUP = 8  # answers: a group is mixed if it holds a right one and a wrong one
SUCCESS, MIXED = 0.20, 0.55  # the paper: 19.6 % of answers right, 54.7 % of groups mixed
_MEANS = np.linspace(0.005, 0.995, 199)
_SIZES = np.geomspace(0.05, 100, 100)


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def fit_beta(right: Sequence[int], n: int) -> tuple[float, float]:
    """(a, b) of the Beta distribution under which the counts are most likely, on a grid.

    right: for each problem, how many of its n answers were right.
    """
    counts = np.bincount(right, minlength=n + 1)
    best, found = -math.inf, (1.0, 1.0)
    for mean in _MEANS:
        for size in _SIZES:
            a, b = mean * size, (1 - mean) * size
            norm = _log_beta(a, b)
            likelihood = sum(c * (_log_beta(a + k, b + n - k) - norm) for k, c in enumerate(counts) if c)
            if likelihood > best:
                best, found = likelihood, (float(a), float(b))
    return found


def expected(k: int, n: int, beta: tuple[float, float]) -> tuple[float, float]:
    """Success on new answers, and the chance that `GROUP` of them are mixed, of a problem with k of n answers right.

    beta: (a, b) of the problems' success rates.
    """
    a, b = beta[0] + k, beta[1] + n - k
    all_right = math.exp(_log_beta(a + GROUP, b) - _log_beta(a, b))
    all_wrong = math.exp(_log_beta(a, b + GROUP) - _log_beta(a, b))
    return a / (a + b), 1 - all_right - all_wrong


def choose(
    right: Sequence[int],
    n: int,
    size: int,
    *,
    success: float = SUCCESS,
    mixed: float = MIXED,
    beta: tuple[float, float] | None = None,
    seed: int = 0,
) -> list[int]:
    """Chooses problems whose expected success and mixed share come closest to what is wanted.

    right: for each problem, how many of its n answers were right.
    size: how many problems are chosen.
    success, mixed: the means that are wanted.
    beta: (a, b) of the problems' success rates; fitted to `right` by default.

    Only how many problems of each count are chosen is decided, by exchanging one for another as long as that helps;
    which ones is left to the seed. Returns their indices in a random order.
    Raises `ValueError` if there are fewer problems.
    """
    if size > len(right):
        raise ValueError(f"{size} problems are wanted, but only {len(right)} were tried")
    rng = np.random.default_rng(seed)
    beta = beta or fit_beta(right, n)
    hopes = np.array([expected(k, n, beta) for k in range(n + 1)])
    order = rng.permutation(len(right))
    of_count = {k: [int(i) for i in order if right[i] == k] for k in range(n + 1)}
    taken = np.bincount([right[i] for i in order[:size]], minlength=n + 1)
    target = np.array([success, mixed])

    def miss(counts: np.ndarray) -> float:
        return float(((counts @ hopes / size - target) ** 2).sum())

    while True:
        moves = []
        for i in range(n + 1):
            for j in range(n + 1):
                if i != j and taken[i] and taken[j] < len(of_count[j]):
                    moved = taken.copy()
                    moved[i] -= 1
                    moved[j] += 1
                    moves.append((miss(moved), i, j))
        if not moves or min(moves)[0] >= miss(taken) - 1e-15:
            break
        _, i, j = min(moves)
        taken[i] -= 1
        taken[j] += 1
    chosen = [i for k in range(n + 1) for i in of_count[k][: taken[k]]]
    return [chosen[i] for i in rng.permutation(size)]


def reached(rewards: Sequence[Sequence[float]]) -> dict[str, object]:
    """Success and mixed share of problems on answers that had no part in choosing them, with 95 % intervals.

    rewards: for each problem, the correctness of its answers, at least `GROUP`. The mixed share is the chance that
        `GROUP` of them, drawn without replacement, are mixed.
    """
    found: dict[str, object] = {"problems": len(rewards), "answers": len(rewards[0])}
    shares = {
        "success": np.array([np.mean(r) for r in rewards]),
        "mixed": np.array([chance_effective(r, GROUP) for r in rewards]),
    }
    for name, values in shares.items():
        low, high = bootstrap_interval(values)
        found[name] = {"mean": float(values.mean()), "low": low, "high": high}
    return found
