"""Number walk, the embedded task: do the steps lead by legal moves from the start to the target?"""

import re
from collections.abc import Sequence
from typing import Any

from ..tasks.walk import DONE, MAX_MOVES, VALUES
from . import completion_text

_STEP = re.compile(r"(\d{1,2}) ([-+*]) (\d{1,2}) = (\d{1,2})\.")


def read_walk(steps: Sequence[str], start: int, moves: Sequence[str]) -> list[int]:
    """The values the steps arrive at, up to the first that is no move from where the walk was, or no right one."""
    values, value = [], start
    for step in steps:
        found = _STEP.fullmatch(step)
        if found is None or int(found[1]) != value or found[2] + found[3] not in moves:
            break
        operand = int(found[3])
        result = {"+": value + operand, "-": value - operand, "*": value * operand}[found[2]]
        if result != int(found[4]) or result not in VALUES:
            break
        values.append(value := result)
    return values


def walk_reward(
    completions: Sequence[Any],
    start: Sequence[int],
    target: Sequence[int],
    moves: Sequence[Sequence[str]],
    **kwargs: Any,
) -> list[float | None]:
    """TRL reward function: 1.0 for a walk that ends at the target and says so, 0.0 otherwise.

    completions: (R,) texts, or TRL's conversational lists of messages (the last one counts).
    start, target: (R,) integers. moves: (R,) lists such as ["+9", "-4", "*2"].
    """
    rewards: list[float | None] = []
    for completion, begin, end, allowed in zip(completions, start, target, moves, strict=True):
        *steps, last = completion_text(completion).strip().split("\n\n")
        values = read_walk(steps, begin, allowed)
        whole = 0 < len(values) == len(steps) <= MAX_MOVES
        rewards.append(float(last == DONE and whole and values[-1] == end))
    return rewards
