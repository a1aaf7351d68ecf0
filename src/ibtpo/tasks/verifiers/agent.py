"""What stands in for a model inside the package `verifiers`: whoever holds a `Policy` answers its requests.

An agent of verifiers 0.4 is a program (the *harness*) that asks a server on this machine for each reply (the
*interception*), and the server asks a client. Here the program is a loop in this process, the client hands each request
to us, and the server between them is verifiers' own: it keeps the trace, and looks after limits and conditions to stop.
No container is needed, and no further process but for tools that are more than functions.
"""

import asyncio
import copy
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import aiohttp
import verifiers.v1 as vf
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.tools import Tool
from verifiers.v1.dialects import Dialect
from verifiers.v1.dialects.chat import message_to_wire
from verifiers.v1.graph import PendingTurn
from verifiers.v1.harnesses.null import NullHarness, NullHarnessConfig
from verifiers.v1.harnesses.utils.compaction import bound_tool_message
from verifiers.v1.harnesses.utils.mcp import call_mcp, connect_mcp, mcp_content_to_chat_content
from verifiers.v1.interception import InterceptionServer
from verifiers.v1.session import RolloutSession
from verifiers.v1.state import state_cls
from verifiers.v1.utils.decorators import discover_decorated

MODEL = "policy"  # the name of the model in traces

Messages = list[dict[str, Any]]
Call = Callable[[dict[str, Any]], Awaitable[Any]]  # a tool: its arguments -> what it answers, as a message's content


class Policy(vf.Client):
    """A client whose completions come from outside.

    The attribute `requests` holds what verifiers asks for: the request, with `messages` and perhaps `tools`, and the
    future of the reply, a message without its role.
    """

    def __init__(self) -> None:
        self.requests: asyncio.Queue[tuple[dict[str, Any], asyncio.Future[dict[str, Any]]]] = asyncio.Queue()

    async def get_response(
        self,
        dialect: Dialect[Any],
        body: dict[str, Any],
        sampling: vf.SamplingConfig,
        session_id: str | None = None,
        turn: PendingTurn | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> vf.Response:
        """See `vf.Client`: waits for the reply, however long that takes."""
        reply: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        await self.requests.put((body, reply))
        message = {"role": "assistant", **await reply}
        choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if "tool_calls" in message else "stop"}
        raw = {"id": "0", "object": "chat.completion", "created": 0, "model": MODEL, "choices": [choice]}
        response: vf.Response = dialect.parse_response(dialect.validate_response(raw))
        response.raw = raw
        return response


class PolicyServer(InterceptionServer):
    """Verifiers' server between agent and model, on a free port of 127.0.0.1, with a policy as its model."""

    def __init__(self, policy: Policy, tool_secrets: Collection[str] = ()) -> None:
        super().__init__(state_service_secrets=tool_secrets)
        self.policy = policy

    def register(self, session: RolloutSession) -> tuple[str, str]:
        """See `InterceptionServer`."""
        secrets: tuple[str, str] = super().register(session)
        session.client = self.policy
        return secrets


class ChatLoop(NullHarness):
    """Verifiers' harness `null`, an agent that talks and calls tools, without the program that it starts.

    tools: those that are called in this process; further ones may be served to it.
    """

    SUPPORTS_TOOL_INTERCEPTION = False

    def __init__(self, tools: Sequence[vf.Toolset] = ()) -> None:
        super().__init__(NullHarnessConfig(id="null"))
        self.tools = tools

    async def setup(self, runtime: vf.Runtime) -> None:
        """See `vf.Harness`."""

    async def launch(
        self,
        ctx: vf.ModelContext,
        trace: vf.Trace,
        runtime: vf.Runtime,
        endpoint: str,
        secret: str,
        mcp_urls: dict[str, str],
        data: vf.TaskData,
        tool_interception_url: str | None = None,
    ) -> vf.ProgramResult:
        """See `vf.Harness`: asks for replies to the conversation so far, until one calls no tool."""
        system, prompt = self.resolve_prompt(data)
        messages: Messages = [{"role": "system", "content": system}] if system else []
        if isinstance(prompt, str):
            messages.append({"role": "user", "content": prompt})
        else:
            messages += [message_to_wire(message) for message in prompt or []]
        async with AsyncExitStack() as stack:
            schemas, calls = await self._tools(mcp_urls, stack)
            session = await stack.enter_async_context(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)))
            url, key = f"{endpoint}/chat/completions", {"Authorization": f"Bearer {secret}"}
            request = {"model": MODEL, "messages": messages, **({"tools": schemas} if schemas else {})}
            while True:
                async with session.post(url, headers=key, json=request) as response:
                    if response.status != 200:  # verifiers knows whether it stopped the episode, or something failed
                        raise vf.HarnessError(await response.text())
                    reply = (await response.json())["choices"][0]["message"]
                messages.append(reply)
                for call in reply.get("tool_calls") or ():
                    name, arguments = call["function"]["name"], json.loads(call["function"]["arguments"])
                    content: Any = f"error: unknown tool {name!r}"
                    if not isinstance(arguments, dict):
                        content = f"error: tool arguments must be a JSON object, got {type(arguments).__name__}"
                    elif name in calls:
                        content = await calls[name](arguments)
                    result = {"role": "tool", "tool_call_id": call["id"], "name": name, "content": content}
                    messages.append(bound_tool_message(result))
                if not reply.get("tool_calls"):
                    return vf.ProgramResult(exit_code=0, stdout="", stderr="")

    async def _tools(self, urls: Mapping[str, str], stack: AsyncExitStack) -> tuple[list[Any], dict[str, Call]]:
        """The schemas of all tools, and by name how each is called; the stack holds the connections."""
        served = {name: {"url": url, "timeout": self.config.tool_timeout} for name, url in urls.items()}
        schemas, dispatch, servers = await connect_mcp({"mcpServers": served}, stack)
        calls: dict[str, Call] = {name: partial(call_mcp, servers, dispatch, name) for name in dispatch}
        for toolset in self.tools:
            for function in discover_decorated(toolset, "tool"):
                name = getattr(function, "tool_name", None) or function.__name__
                tool = Tool.from_function(function, name, description=(function.__doc__ or "").strip() or None)
                name = f"{toolset.server_name}_{name}" if toolset.server_name else name
                parameters = {"type": tool.parameters["type"], **tool.parameters}  # in the order that a server gives
                shown = {"name": name, "description": tool.description, "parameters": parameters}
                schemas.append({"type": "function", "function": shown})
                calls[name] = partial(_call, tool)
        return schemas, calls


async def _call(tool: Tool, arguments: dict[str, Any]) -> Any:
    """What a tool answers, as a message's content; in the words of its server, where it fails."""
    try:
        return mcp_content_to_chat_content((await tool.run(arguments, Context(), convert_result=True)).content)
    except Exception as error:
        return str(error)


def _is_plain(toolset: vf.Toolset) -> bool:
    """Whether tools are functions that need nothing around them, so that no server must be started for them."""
    kind, base = type(toolset), vf.Toolset
    same = all(getattr(kind, name) is getattr(base, name) for name in ("register", "setup", "setup_task"))
    return same and toolset.config.url is None and state_cls(kind) is vf.State


def with_policy(kind: type[vf.Env], role: str) -> Any:
    """An environment class of verifiers whose agent is played by a policy while `serve(policy)` is entered.

    role: the agent's name in the class's configuration.

    Tools that are plain functions are called in this process. For others verifiers starts a server on this machine.
    """

    class Played(kind):
        _server: PolicyServer

        def __init__(self, config: vf.EnvConfig) -> None:
            super().__init__(config)
            self._shared = self._take_plain(self.taskset, self.taskset.config)
            self._tools: list[vf.Toolset] = []

        @staticmethod
        def _take_plain(owner: Any, config: Any) -> list[vf.Toolset]:
            """Takes the plain toolsets from a task or a taskset."""
            toolsets = owner.toolsets(config)
            others = [toolset for toolset in toolsets if not _is_plain(toolset)]
            owner.toolsets = lambda config: others
            return [toolset for toolset in toolsets if _is_plain(toolset)]

        @asynccontextmanager
        async def serve(self, policy: Policy) -> AsyncIterator[None]:
            secrets = [tool.state_secret for tool in self._shared_tools.values() if tool.state_secret]
            async with PolicyServer(policy, secrets) as self._server:
                yield

        async def run_episode(self, task: vf.Task, *args: Any, **kwargs: Any) -> vf.Episode:
            task = copy.copy(task)
            self._tools = [*self._shared, *self._take_plain(task, task.config)]
            return await super().run_episode(task, *args, **kwargs)

        async def setup(self, agents: vf.Agents) -> None:
            await super().setup(agents)
            agent = getattr(agents, role)
            agent.harness, agent.interception = ChatLoop(self._tools), self._server

    Played.__name__ = Played.__qualname__ = kind.__name__
    return Played
