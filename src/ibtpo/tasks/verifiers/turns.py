"""Tasks of the package `verifiers` that take several turns, as an environment: `VerifiersTurns`.

Verifiers drives the turns itself, by asking a model for each reply. Here an episode runs in the background until it
asks, and the search answers: what verifiers says to the answer is the observation. An episode cannot be copied, so a
branch replays it (docs/turns.md).
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..._text import describe
from ...environments import Message, Said, tool_name
from ...errors import ConfigError, VerifierError
from ...verify.tags import final_text
from .loading import environment_config, find_task, messages

if TYPE_CHECKING:
    from .agent import Policy


class VerifiersTurns:
    """The environment of one answer to a task of verifiers.

    Its calls all run in one event loop, as verifiers' own episodes do. What it holds is a socket of 127.0.0.1, an empty
    folder, and what the taskset itself opens; `close` gives all of it back.
    """

    restores = "replay"

    def __init__(self) -> None:
        self._served: tuple[str, str] | None = None  # the taskset that is served, and its configuration
        self._serving: asyncio.Task[None] | None = None
        self._env: Any = None
        self._policy: Policy | None = None
        self._episode: asyncio.Task[Any] | None = None
        self._trace: Any = None  # verifiers' record of the episode, with its rewards
        self._reply: asyncio.Future[dict[str, Any]] | None = None  # what the episode waits for
        self._said: list[Message] = []  # the whole conversation
        self._tools: list[Any] = []  # the schemas of the tools that the episode offers
        self._failure: str | None = None

    async def reset(self, verifiers: str, **row: Any) -> None:
        """Begins an episode, up to its first request.

        verifiers: which task it is, see `tasks.verifiers`.

        Raises `ConfigError` if the episode asks for something else than a reply to the task's prompt.
        """
        item = json.loads(verifiers)
        prompt = item["prompt"] if "prompt" in item else messages(find_task(verifiers))
        if (said := await self.open(verifiers)) != prompt:
            raise ConfigError(
                f"verifiers:{item['taskset']} opens a conversation with {said!r:.200}, which is not its task's prompt, "
                f"{prompt!r:.200}; it must open each in the same way"
            )

    async def open(self, verifiers: str) -> list[Message]:
        """Begins an episode, and returns the conversation that it opens with.

        Raises `ConfigError` if it ends or fails before it asks for a reply.
        """
        item = json.loads(verifiers)
        task = find_task(verifiers)
        await self._abandon()
        await self._serve(item["taskset"], json.dumps(item["config"], sort_keys=True))
        import verifiers.v1 as vf

        from .agent import MODEL

        self._said, self._tools, self._failure, self._trace = [], [], None, None
        context = vf.ModelContext(model=MODEL, client=vf.EvalClientConfig())
        self._episode = asyncio.create_task(self._env.run_episode(task, context, on_trace=self._keep))
        said = await self._next()
        if said is None:
            raise ConfigError(
                f"verifiers:{item['taskset']} asks for no reply: {self._failed() or 'its episode is over'}"
            )
        return said

    async def respond(self, message: Message) -> Said:
        """What verifiers says to a turn, or None where the episode is over, or has failed: `get_reward` tells."""
        if self._reply is None or self._reply.done():  # a time limit of the task's own has ended the episode
            return None
        text = message.get("content") or ""
        answer = final_text(text, answer_tags="").strip()
        thinking = message.get("reasoning_content") or (text.strip() if text.strip() != answer else None)
        turn = {"content": answer, **({"reasoning_content": thinking} if thinking else {})}
        if self._tools and message.get("tool_calls"):
            turn["tool_calls"] = _calls(message["tool_calls"], len(self._said))
        self._said.append({"role": "assistant", "content": answer})
        reply, self._reply = self._reply, None
        reply.set_result(turn)
        try:
            said = await self._next()
        except asyncio.CancelledError:
            self._failure = "a turn was not answered in time"
            raise
        if said is not None and len(said) == 1 and said[0]["role"] == "user":
            return str(said[0]["content"])
        return said

    async def get_reward(self) -> float:
        """The weighted sum of the task's own rewards. An episode that has not ended ends here.

        Raises `VerifierError` for an episode that failed.
        """
        if self._episode is None:
            raise VerifierError("no episode has begun")
        if self._failure is not None:
            raise VerifierError(self._failure)
        if self._reply is not None and not self._reply.done():  # what it waits for will not come
            self._trace.stop("length")  # as where a limit of verifiers ends it: the empty reply is dropped
            self._reply.set_result({"content": ""})
        self._reply = None
        await asyncio.wait([self._episode])
        if (failed := self._failed()) is not None:
            raise VerifierError(failed)
        if not self._trace.rewards:
            raise VerifierError("the episode ended without a reward")
        return float(self._trace.reward)

    async def close(self) -> None:
        """Ends the episode, and gives back what it holds."""
        await self._abandon()
        await self._stop()

    # --- the episode ---------------------------------------------------------------------------------------------

    async def _next(self) -> list[Message] | None:
        """What the episode has said since the last turn, once it asks for a reply; None if it ends instead."""
        assert self._episode is not None
        assert self._policy is not None
        request = asyncio.ensure_future(self._policy.requests.get())
        try:
            await asyncio.wait([request, self._episode], return_when=asyncio.FIRST_COMPLETED)
        finally:
            request.cancel()
        if not request.done() or request.cancelled():
            return None
        asked, reply = request.result()
        said = [_as_template_has_it(message) for message in asked["messages"]]
        self._tools = asked.get("tools") or []
        before, new = said[: len(self._said)], said[len(self._said) :]
        if before != self._said:
            self._failure = "what was said before was changed, and an answer is one conversation"
        elif not all(isinstance(message["content"], str) for message in new):
            self._failure = "a message holds more than text, such as images"
        if self._failure is not None:
            return None  # the request is never answered
        self._said, self._reply = said, reply
        return new

    def _keep(self, trace: Any) -> None:
        if self._trace is not None:
            raise ConfigError("its agent runs more than once in an episode, and an answer is one conversation")
        self._trace = trace

    def _failed(self) -> str | None:
        """Why the episode failed, if it did."""
        if self._failure is not None or self._episode is None or not self._episode.done():
            return self._failure
        if self._episode.cancelled():
            return "the episode was given up"
        if (error := self._episode.exception()) is not None:
            return describe(error)
        episode = self._episode.result()
        errors = [*episode.errors, *(error for trace in episode.traces for error in trace.errors)]
        return None if episode.ok else f"{errors[0].type}: {errors[0].message}" if errors else "the episode failed"

    async def _abandon(self) -> None:
        """Gives up the episode that is under way, without a reward."""
        episode, self._episode, self._reply = self._episode, None, None
        if episode is not None:
            episode.cancel()
            await asyncio.wait([episode])
        if self._policy is not None:
            while not self._policy.requests.empty():
                self._policy.requests.get_nowait()

    # --- what episodes need --------------------------------------------------------------------------------------

    async def _serve(self, name: str, config: str) -> None:
        """Serves a taskset, unless it is served already."""
        if self._served == (name, config):
            return
        await self._stop()
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._serving = asyncio.create_task(self._run(name, config, ready))
        await asyncio.wait([ready, self._serving], return_when=asyncio.FIRST_COMPLETED)
        if not ready.done():
            await self._serving  # raises why it could not be served
        self._served = (name, config)

    async def _run(self, name: str, config: str, ready: "asyncio.Future[None]") -> None:
        """Holds what the episodes of a taskset need; the task that opens it also closes it."""
        from .agent import Policy, with_policy

        settings, role, kind = environment_config(name, config)
        policy = Policy()
        env = with_policy(kind, role)(settings)
        async with env.serving(), env.serve(policy):
            self._env, self._policy = env, policy
            ready.set_result(None)
            await asyncio.get_running_loop().create_future()

    async def _stop(self) -> None:
        serving, self._serving, self._served = self._serving, None, None
        if serving is not None:
            serving.cancel()
            await asyncio.wait([serving])


class VerifiersTools(VerifiersTurns):
    """The environment of one answer to a task of verifiers that has tools.

    They are called by `agent.ChatLoop`, or by a server of verifiers' own, and not by us.
    """

    @property
    def tool_schemas(self) -> list[Any]:
        """What the model is shown of the tools; known once an episode has begun."""
        return self._tools


def _as_template_has_it(message: Mapping[str, Any]) -> Message:
    """A message of a request: its role, its content, and of a tool's result the tool's name."""
    name = {"name": message.get("name") or "unknown"} if message["role"] == "tool" else {}
    return {"role": message["role"], **name, "content": message["content"] or ""}


def _calls(calls: Sequence[Any], turn: int) -> list[dict[str, Any]]:
    """The tool calls of a turn as verifiers has them, with a name each and their arguments as JSON text."""
    found = []
    for number, call in enumerate(calls):
        function = call.get("function") or {}
        named = {"name": tool_name(call), "arguments": json.dumps(function.get("arguments") or {})}
        found.append({"id": f"call_{turn}_{number}", "type": "function", "function": named})
    return found
