"""Questions for answers of several turns: prompts that end with what `reset` says, and show the tools."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..errors import ConfigError
from ..tasks.problems import Problem
from . import EnvironmentFactories
from .formats import TextFormat, open_format
from .pool import Environments, Kind, Opening

AT_ONCE = 64  # questions that are begun at the same time


def with_text(prompt: Any, text: str | None) -> Any:
    """A prompt, a string or a conversation, with text put at its end, as TRL does it with what `reset` says."""
    if text is None:
        return prompt
    if isinstance(prompt, str):
        return prompt + text
    content = prompt[-1]["content"]
    more = [{"type": "text", "text": text}] if isinstance(content, list) else text
    return [*prompt[:-1], {**prompt[-1], "content": content + more}]


async def open_environments(
    factories: EnvironmentFactories,
    tokenizer: Any,
    decode: Any,
    *,
    chat: bool,
    options: Mapping[str, Any] | None = None,
    **limits: Any,
) -> Environments:
    """Environments for a tokenizer, outside of a trainer.

    decode: token ids -> text, special tokens skipped.
    chat: whether prompts go through the chat template.
    options: variables of the chat template.
    limits: see `Environments`.

    Raises `ConfigError`.
    """
    environments = Environments(factories, format=TextFormat(lambda text: [], decode), **limits)
    try:
        kinds = await environments.kinds()
        tools = [kind for kind in kinds.values() if kind.methods]
        shown = bool(tools) or any(kind.shows_tools for kind in kinds.values())
        environments.format, template = open_format(tokenizer, decode, chat=chat, tools=shown, options=options)
        environments.reads_cut_turns = bool(tools)
        if len(kinds) > 1 and tools:
            raise ConfigError("several environments with tools are for IBTPOTrainer; name one")
        if tools:
            environments.rendering["tools"] = _schemas(tools[0])
        if template:
            environments.rendering["chat_template"] = template
        return environments
    except BaseException:
        await environments.close()
        raise


def _schemas(kind: Kind) -> list[Any]:
    """The tools of an environment, as chat templates show them: without `self`, which the model does not give."""
    from transformers.utils import get_json_schema

    class Shown:
        """An object to bind the methods to, so that they are shown as they are called."""

    return [get_json_schema(getattr(kind.made, name).__get__(Shown())) for name in kind.methods]


def gives_reward(factory: Any) -> bool:
    """Whether the environments of a factory have `get_reward`; one is made to see it, unless the factory is a class."""
    if isinstance(factory, type):
        return callable(getattr(factory, "get_reward", None))
    environment = factory()
    try:
        return callable(getattr(environment, "get_reward", None))
    finally:
        getattr(environment, "close", lambda: None)()


async def begin(environments: Environments, rows: Sequence[Mapping[str, Any]]) -> list[Opening]:
    """How the answers to each of some questions begin, in their order."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(row: Mapping[str, Any]) -> Opening:
        async with gate:
            return await environments.open(row)

    return list(await asyncio.gather(*(one(row) for row in rows)))


async def begin_problems(
    environments: Environments | None, problems: Sequence[Problem]
) -> list[tuple[Problem, Opening | None, dict[str, Any]]]:
    """Problems with what their environments say at the end of their prompts.

    Gives with each how its answers begin, and what `apply_chat_template` needs besides. Without environments these are
    the problems as they are, None and nothing.
    """
    if environments is None:
        return [(problem, None, {}) for problem in problems]
    openings = await begin(environments, [{"prompt": p.prompt, **p.columns} for p in problems])
    return [
        (replace(problem, prompt=with_text(problem.prompt, opening.text)), opening, environments.rendering_of(opening))
        for problem, opening in zip(problems, openings, strict=True)
    ]
