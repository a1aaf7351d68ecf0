"""The verifier of reasoning-gym's problems: each task's own scorer."""

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from ..tasks.reasoning_gym import make_dataset, make_problem, tasks
from .extract import last_boxed
from .tags import ANSWER_TAGS, THINKING_TAGS, final_texts


def reasoning_gym_reward(
    completions: Sequence[Any],
    reasoning_gym: Sequence[str],
    prompts: Sequence[Any] | None = None,
    thinking_tags: str = THINKING_TAGS,
    answer_tags: str = ANSWER_TAGS,
    **columns: Any,
) -> list[float | None]:
    """TRL reward function: what the task's scorer gives for an answer, 1.0 for a right one, often a part for others.

    completions: (R,) texts, or TRL's lists of messages, of which the last counts. The final text counts, see
        `tags.final_text`, and of one without answer tags its last box, if there is one.
    reasoning_gym: (R,) which problem each row is, see `tasks.reasoning_gym`.
    prompts, thinking_tags, answer_tags: see `tags.final_texts`.

    Raises `DataError` for a problem that cannot be made again, and what a scorer raises for any answer.
    """
    whole = final_texts(completions, prompts, thinking_tags=thinking_tags, answer_tags="")
    tagged = final_texts(whole, answer_tags=answer_tags)
    rewards: list[float | None] = []
    for text, answer, column in zip(whole, tagged, reasoning_gym, strict=True):
        boxed = last_boxed(text) if answer == text else None
        dataset, entry = _problem(column)
        rewards.append(_score(dataset, entry, (boxed or answer).strip()))
    return rewards


def _score(dataset: Any, entry: dict[str, Any], answer: str) -> float:
    """The scorer's value. Where it raises for this answer and not for the reference answer, this one is wrong."""
    try:
        return float(dataset.score_answer(answer, entry))
    except Exception:
        dataset.score_answer(entry["answer"], entry)  # if the scorer fails whatever the answer, the row is an error
        return 0.0


def prepare() -> None:
    """Imports reasoning-gym, so that the first row does not pay for it."""
    tasks()


@lru_cache(maxsize=256)  # a question's answers come one after another
def _problem(column: str) -> tuple[Any, dict[str, Any]]:
    """The data set with a problem's scorer, and the problem."""
    given = json.loads(column)
    return make_dataset(given), make_problem(given)
