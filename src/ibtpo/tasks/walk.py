"""Number walk: the embedded task, small enough for a 1M-parameter model, deep enough for a tree.

A problem gives a start, a target and three moves. An answer makes one move a step, each step ends with a blank line,
until it is at the target or has no move left:

    From 17 reach 64 with +9, -4 or *2.

    17 * 2 = 34.

    34 + 9 = 43.

    …

    68 - 4 = 64.

    Done.

Every value stays within 0..99, and no answer may take more than `MAX_MOVES` moves. The base model moves at random.
Only problems that this solves now and then are asked (`SHARES`): a walk has to come near the target and then fit the
last moves to what is left, and a wrong move can often be made good by later ones, so that each step has a value of
its own. The set-up is that of "quantum lock" puzzles.
"""

import hashlib
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any, Literal

import numpy as np

from ..errors import ConfigError, DataError, unknown

VALUES = range(100)  # what every value of a walk must lie in
ADD, SUBTRACT, MULTIPLY = range(2, 13), range(1, 10), range(2, 4)  # what a problem's moves may be
MAX_MOVES = 8
SHARES = (0.05, 0.5)  # random walks that reach the target: fewer is too hard to ask, more too easy
TEST_SHARE = 0.1
STEP_END = ".\n\n"
DONE, STUCK = "Done.", "Stuck."

Split = Literal["train", "test"]


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """A problem: moves +add, -subtract and *multiply lead from start to target."""

    add: int
    subtract: int
    multiply: int
    target: int
    start: int


def next_values(value: int, key: Key) -> list[tuple[str, int, int]]:
    """(operator, operand, result) of every legal move from `value`."""
    moves = (
        ("+", key.add, value + key.add),
        ("-", key.subtract, value - key.subtract),
        ("*", key.multiply, value * key.multiply),
    )
    return [move for move in moves if move[2] in VALUES]


def step(value: int, move: tuple[str, int, int]) -> str:
    """The step of an answer that makes this move, blank line included."""
    operator, operand, result = move
    return f"{value} {operator} {operand} = {result}{STEP_END}"


@cache
def _shares(add: int, subtract: int, multiply: int) -> np.ndarray:
    """(start, target): the share of random walks of at most `MAX_MOVES` moves that reach the target."""
    size = len(VALUES)
    chance = np.zeros((size, size))  # of going from value to value in one random move
    for value in VALUES:
        results = [move[2] for move in next_values(value, Key(add, subtract, multiply, 0, value))]
        for result in results:
            chance[value, result] += 1 / len(results)
    reached = np.eye(size)
    for _ in range(MAX_MOVES):
        reached = chance @ reached
        np.fill_diagonal(reached, 1.0)  # a walk ends at its target
    return reached


def split_of(key: Key) -> Split:
    """Which split a key belongs to: a property of the key alone, so no seed or size can mix the two.

    All starts of the same moves and target are on the same side: a test problem's last moves are new, too.
    """
    digest = hashlib.blake2b(repr((key.add, key.subtract, key.multiply, key.target)).encode(), digest_size=8).digest()
    return "test" if int.from_bytes(digest, "big") / 2**64 < TEST_SHARE else "train"


@cache
def keys(split: Split) -> np.ndarray:
    """(N, 5) the fields of every key of a split whose `SHARES` are right, in ascending order."""
    if split not in ("train", "test"):
        raise unknown("split", split, ("train", "test"))
    low, high = SHARES
    found = []
    for moves in product(ADD, SUBTRACT, MULTIPLY):
        share = _shares(*moves).T
        mine = [split_of(Key(*moves, target, 0)) == split for target in VALUES]
        target_start = np.argwhere((share >= low) & (share <= high) & np.array(mine)[:, None])
        found.append(np.column_stack([np.tile(moves, (len(target_start), 1)), target_start]))
    return np.concatenate(found)


def prompt(key: Key) -> str:
    """The question as the embedded model reads it; ends with a newline."""
    return f"From {key.start} reach {key.target} with +{key.add}, -{key.subtract} or *{key.multiply}.\n"


def problem(key: Key) -> dict[str, Any]:
    """The problem of a key: `id`, `question`, `answer` (the target as text), `start`, `target`, `moves`."""
    return {
        "id": f"walk-{key.start}-{key.target}-{key.add}-{key.subtract}-{key.multiply}",
        "question": prompt(key),
        "answer": str(key.target),
        "start": key.start,
        "target": key.target,
        "moves": [f"+{key.add}", f"-{key.subtract}", f"*{key.multiply}"],
    }


def make_problems(split: Split, n: int, seed: int = 0) -> list[dict[str, Any]]:
    """Draw `n` different problems of a split (see `problem` for the fields). Same arguments, same problems.

    Raises `ConfigError` for an unknown split or a negative n, `DataError` if the split has fewer than n problems.
    """
    known = keys(split)
    if n < 0:
        raise ConfigError(f"n must be >= 0, got {n}")
    if n > len(known):
        raise DataError(f"asked for {n} walk problems, split {split!r} has {len(known)}; ask for fewer")
    order = np.random.default_rng(seed).permutation(len(known))[:n]
    return [problem(Key(*known[index].tolist())) for index in order]


def gold_answer(problem: dict[str, Any]) -> str:
    """A shortest correct completion (without the end-of-sequence token) of a problem from `make_problems`.

    Raises `DataError` if no walk of `MAX_MOVES` moves reaches the target.
    """
    add, subtract, multiply = (int(move[1:]) for move in problem["moves"])
    key = Key(add, subtract, multiply, problem["target"], problem["start"])
    reached = {key.start: ""}  # value -> the steps of a shortest walk to it
    frontier = [key.start]
    for _ in range(MAX_MOVES):
        following = []
        for value in frontier:
            for move in next_values(value, key):
                if move[2] not in reached:
                    reached[move[2]] = reached[value] + step(value, move)
                    following.append(move[2])
        frontier = following
    if key.target not in reached or key.target == key.start:
        raise DataError(f"no walk of at most {MAX_MOVES} moves solves {prompt(key).strip()!r}")
    return reached[key.target] + DONE
