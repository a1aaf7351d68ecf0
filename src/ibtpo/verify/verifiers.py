"""The verifier of tasks of the package `verifiers`: their own rewards, of a trace with one answer."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

from ..errors import ConfigError
from ..tasks.verifiers.loading import PREFIX, find_task, messages
from . import completion_text
from .tags import THINKING_TAGS, final_texts


def verifiers_reward(
    completions: Sequence[Any],
    verifiers: Sequence[str],
    prompts: Sequence[Any] | None = None,
    thinking_tags: str = THINKING_TAGS,
    **columns: Any,
) -> list[float | None]:
    """TRL reward function: the weighted sum of a task's own rewards.

    completions: (R,) texts, or TRL's lists of messages, of which the last counts. The reply is the text without its
        thinking, which is the reply's `reasoning_content`.
    verifiers: (R,) which task each row is, see `tasks.verifiers`.
    prompts, thinking_tags: see `tags.final_texts`.

    Raises `ConfigError` for a task that is answered in turns, whose reward is its environment's; `DataError` if the
    taskset now has another task in its place; and what a reward raises.
    """
    replies = final_texts(completions, prompts, thinking_tags=thinking_tags, answer_tags="")
    rewards: list[float | None] = []
    for completion, reply, column in zip(completions, replies, verifiers, strict=True):
        item = json.loads(column)
        if item.get("turns"):
            raise ConfigError(
                f"{PREFIX}{item['taskset']} is answered in turns, and its environment gives the reward: there is none"
            )
        task = find_task(column)
        trace = _trace(task, reply.strip(), completion_text(completion))
        asyncio.run(task.score(trace))
        rewards.append(float(trace.reward))
    return rewards


def _trace(task: Any, reply: str, whole: str) -> Any:
    """A finished trace of a conversation with one answer."""
    from verifiers.v1.configs.agent import AgentConfig
    from verifiers.v1.graph import MessageNode
    from verifiers.v1.state import state_cls
    from verifiers.v1.trace import AgentInfo, Trace, TraceTask
    from verifiers.v1.types import AssistantMessage, SystemMessage, UserMessage

    kinds = {"system": SystemMessage, "user": UserMessage, "assistant": AssistantMessage}
    nodes = [
        MessageNode(message=kinds[message["role"]](content=message["content"]), parent=i - 1 if i else None)
        for i, message in enumerate(messages(task))
    ]
    thinking = whole.strip() if whole.strip() != reply else None
    answer = AssistantMessage(content=reply, reasoning_content=thinking)
    nodes.append(MessageNode(message=answer, parent=len(nodes) - 1, sampled=True))
    return Trace(
        task=TraceTask(type=type(task).__name__, data=task.data, key=task.key, hash=task.hash),
        agent=AgentInfo(config=AgentConfig()),
        nodes=nodes,
        state=state_cls(type(task))(),
        is_completed=True,
        ok=True,
        stop_condition="agent_completed",
    )
