"""Number walk, the embedded task: do an answer's steps lead by legal moves from the start to the target?"""

import re
from collections.abc import Sequence
from typing import Any

from ..tasks.walk import DONE, MAX_MOVES, VALUES
from .tags import ANSWER_TAGS, THINKING_TAGS, final_texts

_STEP = re.compile(r"([-+][0-9]{1,2}) = ([0-9]{1,2})\.")


def read_walk(steps: Sequence[str], start: int, moves: Sequence[int]) -> list[int]:
    """The values that the steps of an answer arrive at, up to the first step that is wrong.

    A step is wrong if it is no legal move, or if its result is not that of the move.

    steps: texts such as "+9 = 26.", without the blank line.
    start: the value before the first step.
    moves: the problem's moves.
    """
    values, value = [], start
    for step in steps:
        found = _STEP.fullmatch(step)
        if found is None or int(found[1]) not in moves:
            break
        value += int(found[1])
        if value != int(found[2]) or value not in VALUES:
            break
        values.append(value)
    return values


def walk_reward(
    completions: Sequence[Any],
    start: Sequence[int],
    target: Sequence[int],
    moves: Sequence[Sequence[int]],
    prompts: Sequence[Any] | None = None,
    thinking_tags: str = THINKING_TAGS,
    answer_tags: str = ANSWER_TAGS,
    **kwargs: Any,
) -> list[float | None]:
    """TRL reward function: 1.0 for a walk that ends at the target and says so, 0.0 otherwise.

    completions: (R,) texts, or TRL's lists of messages, of which the last counts.
    start, target: (R,) integers.
    moves: (R,) lists such as [9, 4, -8, -2].
    prompts, thinking_tags, answer_tags: see `tags.final_texts`.
    """
    rewards: list[float | None] = []
    texts = final_texts(completions, prompts, thinking_tags=thinking_tags, answer_tags=answer_tags)
    for text, begin, end, allowed in zip(texts, start, target, moves, strict=True):
        *steps, last = text.strip().split("\n\n")
        values = read_walk(steps, begin, allowed)
        whole = 0 < len(values) == len(steps) <= MAX_MOVES
        rewards.append(float(last == DONE and whole and values[-1] == end))
    return rewards
