"""Questions for answers of several turns: prompts that end with what `reset` says, and show the tools."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import ConfigError
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


def shown_tools(opening: Opening | None) -> dict[str, Any]:
    """What `apply_chat_template` needs to show the tools that an environment calls itself, if it has any."""
    return {"tools": list(opening.tool_schemas)} if opening is not None and opening.tool_schemas else {}


async def open_environments(
    factories: EnvironmentFactories,
    tokenizer: Any,
    decode: Any,
    *,
    chat: bool,
    options: Mapping[str, Any] | None = None,
    **limits: Any,
) -> tuple[Environments, dict[str, Any]]:
    """Environments for a tokenizer, outside of a trainer.

    decode: token ids -> text, special tokens skipped.
    chat: whether prompts go through the chat template.
    options: variables of the chat template.
    limits: see `Environments`.

    Returns them, and the further arguments of `apply_chat_template` that prompts need. Raises `ConfigError`.
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
        rendering = {"tools": _schemas(tools[0])} if tools else {}
        return environments, {**rendering, **({"chat_template": template} if template else {})}
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
