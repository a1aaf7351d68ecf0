"""Number walk, the embedded task: small enough for a model of a million parameters, deep enough for a tree.

A problem gives a start, a target and four moves. An answer makes one move a step, and a blank line ends the step, until
it is at the target or has no move left:

    From 17 reach 40 with +9, +4, -8 or -2.

    +9 = 26.

    +9 = 35.

    -8 = 27.

    …

    Done.

Every value stays within 0..99, and no answer may take more than `MAX_MOVES` moves. A walk has to come near the target
and then make up the difference exactly. A wrong move can be made good as long as enough moves are left, so that each
step has a value of its own. Problems differ widely in difficulty, as those of real training sets do: some need a single
move, others eight (`LEAST_MOVES`). The set-up is that of "quantum lock" puzzles.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from ..errors import ConfigError, DataError, unknown

VALUES = range(100)  # what every value of a walk must lie in
LARGE, SMALL = (7, 9, 11), (2, 3, 5)  # a problem has one of each up and one of each down
MAX_MOVES = 8
# How many moves a problem needs, drawn from these: most problems are near or far, few are in between. So the embedded
# model starts where the paper's does: about 20 % of its answers are right and 55 % of its groups of eight are mixed.
LEAST_MOVES = (*4 * (1, 2), 3, 4, 5, 6, *4 * (7, 8), 8)
TEST_SHARE = 0.1  # of all problems
STEP_END = ".\n\n"
DONE, STUCK = "Done.", "Stuck."
MOST_PROBLEMS = 10_000  # that can be drawn of a split, which has more

Split = Literal["train", "test"]
Moves = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Walk:
    """A problem: which moves lead from the start to the target?

    moves: large up, small up, large down and small down; the last two are negative.
    target: the value to reach.
    start: the value to begin at.
    """

    moves: Moves
    target: int
    start: int


def next_values(value: int, moves: Sequence[int]) -> list[tuple[int, int]]:
    """Every legal move from a value, each with the value that it leads to."""
    return [(move, value + move) for move in moves if value + move in VALUES]


def step(move: int, value: int) -> str:
    """The text of a step that makes a move and arrives at `value`, blank line included."""
    return f"{move:+d} = {value}{STEP_END}"


@lru_cache(maxsize=65536)
def distances(moves: Moves, target: int) -> tuple[int, ...]:
    """How many moves a shortest walk to the target takes from each value: (100,); 100 where there is no walk."""
    far = len(VALUES)
    found, frontier, count = {target: 0}, [target], 0
    while frontier:
        count += 1
        before = {value - move for value in frontier for move in moves if value - move in VALUES} - found.keys()
        found |= dict.fromkeys(before, count)
        frontier = list(before)
    return tuple(found.get(value, far) for value in VALUES)


def split_of(moves: Moves, target: int) -> Split:
    """The split that all problems with these moves and this target belong to.

    It depends on the problem alone, so that no seed and no number of problems can mix the two. The start does not
    count, so that the last moves of a test problem are new too.
    """
    digest = hashlib.blake2b(repr((*moves, target)).encode(), digest_size=8).digest()
    return "test" if int.from_bytes(digest, "big") / 2**64 < TEST_SHARE else "train"


def prompt(walk: Walk) -> str:
    """The question as the embedded model reads it, with a newline at its end."""
    *first, last = (f"{move:+d}" for move in walk.moves)
    return f"From {walk.start} reach {walk.target} with {', '.join(first)} or {last}.\n"


def problem(walk: Walk) -> dict[str, Any]:
    """A problem as a row: `id`, `question`, `answer` (the target as text), `start`, `target`, `moves`."""
    return {
        "id": f"walk-{walk.start}-{walk.target}-" + "".join(f"{move:+d}" for move in walk.moves),
        "question": prompt(walk),
        "answer": str(walk.target),
        "start": walk.start,
        "target": walk.target,
        "moves": list(walk.moves),
    }


def make_problems(split: Split, n: int, seed: int = 0) -> list[dict[str, Any]]:
    """Draws different problems of a split, as rows with the fields of `problem`.

    split: "train" or "test".
    n: how many. A larger n gives the same ones first.
    seed: the same seed gives the same problems.

    Raises `ConfigError` for an unknown split, or an n that is negative or above `MOST_PROBLEMS`.
    """
    if split not in ("train", "test"):
        raise unknown("split", split, ("train", "test"))
    if not 0 <= n <= MOST_PROBLEMS:
        raise ConfigError(f"walk problems: n must be from 0 to {MOST_PROBLEMS}, got {n}")
    rng = np.random.default_rng([seed, ("train", "test").index(split)])
    found: dict[Walk, None] = {}
    while len(found) < n:
        least = int(rng.choice(LEAST_MOVES))
        starts: np.ndarray = np.empty(0)
        while not len(starts):
            a, b, c, d = (int(rng.choice(sizes)) for sizes in (LARGE, SMALL) * 2)
            moves, target = (a, b, -c, -d), int(rng.integers(len(VALUES)))
            if split_of(moves, target) == split:
                starts = np.flatnonzero(np.equal(distances(moves, target), least))
        found[Walk(moves, target, int(rng.choice(starts)))] = None
    return [problem(walk) for walk in found]


def gold_answer(problem: dict[str, Any]) -> str:
    """A shortest correct completion of a problem, without the end-of-sequence token.

    problem: a row from `make_problems`.

    Raises `DataError` if no walk of 1 to `MAX_MOVES` moves reaches the target.
    """
    value, target, moves = problem["start"], problem["target"], tuple(problem["moves"])
    left = distances(moves, target)
    if not 0 < left[value] <= MAX_MOVES:
        raise DataError(f"{problem['id']}: no walk of 1 to {MAX_MOVES} moves leads from {value} to {target}")
    steps = []
    while value != target:
        move, value = min(next_values(value, moves), key=lambda pair: left[pair[1]])
        steps.append(step(move, value))
    return "".join(steps) + DONE
