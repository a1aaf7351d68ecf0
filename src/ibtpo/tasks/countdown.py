"""Countdown as a stream of search: the embedded task, small enough for a 1M-parameter model.

A problem gives three numbers and a target. An answer says how many tries it will take, tries one expression a step,
each step ends with a blank line, and ends with the expression found, or with `none`:

    Use 7, 3 and 2 to make 19.

    4 tries.

    3 + 7 = 10, 10 - 2 = 8.

    3 * 7 = 21, 21 - 2 = 19.

    Answer: (3 * 7) - 2

Only targets that a random legal attempt seldom hits are asked (`MAX_SHARE`), so that search pays. The stream of
search as a language was introduced by Gandhi et al., 2024 (arXiv 2404.03683).
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations_with_replacement, permutations
from typing import Any, Literal

import numpy as np

from ..errors import ConfigError, DataError, unknown

NUMBERS = range(1, 13)  # the numbers a problem may give
VALUES = range(100)  # what every intermediate result and target must lie in
MAX_TRIES = 10  # an answer of the base model starts with how many it will take: 1 to 10, each as likely
MAX_SHARE = 0.1  # a target that more than this share of random attempts hits is too easy to ask
TEST_SHARE = 0.1
STEP_END = ".\n\n"

Split = Literal["train", "test"]
Key = tuple[int, int, int, int]  # three numbers in ascending order, then the target


@dataclass(frozen=True, slots=True)
class Attempt:
    """One expression over three numbers, e.g. (3 * 7) - 2, or 2 - (3 * 7) with `pair_first=False`."""

    a: int
    op: str
    b: int
    op2: str
    c: int
    pair_first: bool

    @property
    def pair(self) -> int:
        """Value of the inner pair."""
        return _apply(self.a, self.op, self.b)

    @property
    def value(self) -> int:
        """Value of the whole expression."""
        left, right = (self.pair, self.c) if self.pair_first else (self.c, self.pair)
        return _apply(left, self.op2, right)

    @property
    def legal(self) -> bool:
        """Whether both results stay within `VALUES`."""
        return self.pair in VALUES and self.value in VALUES

    def step(self) -> str:
        """The step of an answer that tries this expression, blank line included."""
        left, right = (self.pair, self.c) if self.pair_first else (self.c, self.pair)
        return f"{self.a} {self.op} {self.b} = {self.pair}, {left} {self.op2} {right} = {self.value}{STEP_END}"

    def expression(self) -> str:
        """The expression as the answer line gives it."""
        inner = f"({self.a} {self.op} {self.b})"
        return f"{inner} {self.op2} {self.c}" if self.pair_first else f"{self.c} {self.op2} {inner}"


def _apply(left: int, op: str, right: int) -> int:
    if op == "+":
        return left + right
    return left - right if op == "-" else left * right


@cache
def legal_attempts(numbers: tuple[int, int, int]) -> tuple[Attempt, ...]:
    """Every legal way to order three numbers and choose two operators.

    Repeated numbers give repeated entries on purpose: drawing uniformly from the result is the base model's search.
    """
    drawn = (
        Attempt(a, op, b, op2, c, pair_first)
        for a, b, c in permutations(numbers)
        for op in "+-*"
        for op2 in "+-*"
        for pair_first in (True, False)
    )
    return tuple(attempt for attempt in drawn if attempt.legal)


def split_of(key: Key) -> Split:
    """Which split a key belongs to: a property of the key alone, so no seed or size can mix the two."""
    digest = hashlib.blake2b(",".join(map(str, key)).encode(), digest_size=8).digest()
    return "test" if int.from_bytes(digest, "big") / 2**64 < TEST_SHARE else "train"


def reachable_keys(max_share: float = MAX_SHARE) -> Iterator[Key]:
    """All keys whose target is hit by at least one and at most `max_share` of the legal attempts; both splits."""
    for numbers in combinations_with_replacement(NUMBERS, 3):
        attempts = legal_attempts(numbers)
        hits: dict[int, int] = {}
        for attempt in attempts:
            hits[attempt.value] = hits.get(attempt.value, 0) + 1
        for target in sorted(hits):
            if hits[target] <= max_share * len(attempts):
                yield (*numbers, target)


@cache
def keys(split: Split) -> tuple[Key, ...]:
    """All keys of a split, in ascending order."""
    if split not in ("train", "test"):
        raise unknown("split", split, ("train", "test"))
    return tuple(key for key in reachable_keys() if split_of(key) == split)


def prompt(numbers: Sequence[int], target: int) -> str:
    """The question as the embedded model reads it; ends with a newline."""
    first, second, third = numbers
    return f"Use {first}, {second} and {third} to make {target}.\n"


def problem(key: Key) -> dict[str, Any]:
    """The problem of a key: `id`, `question`, `answer` (the target as text), `numbers`, `target`.

    The order in which the numbers are given depends on the key alone, so that an id always means the same text.
    """
    target = key[3]
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    orders = list(permutations(key[:3]))
    numbers = list(orders[int.from_bytes(digest, "big") % len(orders)])
    return {
        "id": "countdown-" + "-".join(map(str, (*numbers, target))),
        "question": prompt(numbers, target),
        "answer": str(target),
        "numbers": numbers,
        "target": target,
    }


def make_problems(split: Split, n: int, seed: int = 0) -> list[dict[str, Any]]:
    """Draw `n` different problems of a split (see `problem` for the fields). Same arguments, same problems.

    Raises `ConfigError` for an unknown split or a negative n, `DataError` if the split has fewer than n problems.
    """
    known = keys(split)
    if n < 0:
        raise ConfigError(f"n must be >= 0, got {n}")
    if n > len(known):
        raise DataError(f"asked for {n} countdown problems, split {split!r} has {len(known)}; ask for fewer")
    order = np.random.default_rng(seed).permutation(len(known))[:n]
    return [problem(known[index]) for index in order]


def gold_answer(problem: dict[str, Any]) -> str:
    """A correct completion (without the end-of-sequence token) of a problem from `make_problems`.

    Raises `DataError` if no legal attempt reaches the target.
    """
    first, second, third = problem["numbers"]
    for attempt in legal_attempts((first, second, third)):
        if attempt.value == problem["target"]:
            return f"{attempt.step()}Answer: {attempt.expression()}"
    raise DataError(f"{problem['target']} cannot be made from {problem['numbers']} with + - * and results in 0..99")
