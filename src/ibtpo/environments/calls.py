"""What an environment, or tools alone, answer a turn with: tool calls as TRL makes them, or the environment's word."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from . import Message, Said, failure, tool_name
from .live import CallError, Live, is_async


@dataclass(slots=True)
class Reply:
    """What came of a turn.

    message: the turn itself.
    said: what the environment said to it; None where the answer is over.
    calls: how many calls of tools, and of `respond`, it took.
    failures: how many of them failed.
    """

    message: Message
    said: Said
    calls: int = 0
    failures: int = 0


async def reply_to(message: Message, live: Live, tools: Mapping[str, Callable[..., Any]]) -> Reply:
    """Has a turn answered.

    message: the turn.
    live: the environment, or the holder of none where there are only tools.
    tools: by name, what the model may call. A turn without tool calls, or any turn where there are no tools, is
        answered by the environment's `respond`, if it has that.
    """
    calls = message.get("tool_calls")
    if tools and calls:
        said, failures = await _use(calls, live, tools)
        return Reply(message, said, len(calls), failures)
    respond = getattr(live.environment, "respond", None)
    if respond is None:
        return Reply(message, None)
    try:
        # An empty answer is none: a turn cannot follow a turn.
        return Reply(message, await live.call(respond, dict(message)) or None, 1)
    except CallError as error:
        return Reply(message, failure(message, str(error)), 1, 1)


async def _use(calls: Sequence[Any], live: Live, tools: Mapping[str, Callable[..., Any]]) -> tuple[list[Message], int]:
    """The results of tool calls as messages, in TRL's order: plain tools, then async ones; and how many failed."""
    results: list[tuple[str, Any]] = []
    waiting: list[tuple[str, Any]] = []
    failures = 0
    for call in calls:
        name = tool_name(call)
        try:
            kind = call.get("type") if isinstance(call, Mapping) else type(call).__name__
            if kind != "function":
                raise CallError(f"Unsupported tool call type: {kind}")
            if name not in tools:
                raise CallError(f"Tool {name} not found.")
            tool, arguments = tools[name], call["function"].get("arguments") or {}
            if not isinstance(arguments, Mapping):
                raise CallError(f"the arguments of {name} must be a mapping, not {type(arguments).__name__}")
            if is_async(tool):
                waiting.append((name, live.call(tool, **arguments)))
            else:
                results.append((name, await live.call(tool, **arguments)))
        except CallError as error:
            failures += 1
            results.append((name, {"error": error.reason}))
    for (name, _), result in zip(waiting, await _together([w for _, w in waiting]), strict=True):
        if isinstance(result, CallError):
            failures += 1
            result = {"error": result.reason}
        results.append((name, result))
    # A list is content in parts, which templates of multimodal models read.
    contents = ((name, result if isinstance(result, list) else str(result)) for name, result in results)
    return [{"role": "tool", "name": name, "content": content} for name, content in contents], failures


async def _together(calls: Sequence[Any]) -> list[Any]:
    """What calls that run side by side give, each its result or the `CallError` it raised."""

    async def one(call: Any) -> Any:
        try:
            return await call
        except CallError as error:
            return error

    return list(await asyncio.gather(*(one(call) for call in calls)))
