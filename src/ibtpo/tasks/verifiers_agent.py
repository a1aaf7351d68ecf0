"""What stands in for a model inside the package `verifiers`: whoever holds a `Policy` answers its requests.

An agent of verifiers 0.4 is a program (the *harness*) that asks a server on this machine for each reply (the
*interception*), and the server asks a client. Here the program is a loop in this process, the client hands each request
to us, and the server between them is verifiers' own: it keeps the trace, and looks after limits and conditions to stop.
No container and no further process is needed.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

import aiohttp
import verifiers.v1 as vf
from verifiers.v1.dialects import Dialect
from verifiers.v1.dialects.chat import message_to_wire
from verifiers.v1.graph import PendingTurn
from verifiers.v1.harnesses.null import NullHarness, NullHarnessConfig
from verifiers.v1.interception import InterceptionServer
from verifiers.v1.session import RolloutSession

MODEL = "policy"  # the name of the model in traces

Messages = list[dict[str, Any]]


class Policy(vf.Client):
    """A client whose completions come from outside.

    The attribute `requests` holds what verifiers asks for: the conversation so far, and the future of its reply, a
    message without its role.
    """

    def __init__(self) -> None:
        self.requests: asyncio.Queue[tuple[Messages, asyncio.Future[dict[str, Any]]]] = asyncio.Queue()

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
        await self.requests.put((body["messages"], reply))
        choice = {"index": 0, "message": {"role": "assistant", **await reply}, "finish_reason": "stop"}
        raw = {"id": "0", "object": "chat.completion", "created": 0, "model": MODEL, "choices": [choice]}
        response: vf.Response = dialect.parse_response(dialect.validate_response(raw))
        response.raw = raw
        return response


class PolicyServer(InterceptionServer):
    """Verifiers' server between agent and model, on a free port of 127.0.0.1, with a policy as its model."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.policy = policy

    def register(self, session: RolloutSession) -> tuple[str, str]:
        """See `InterceptionServer`."""
        secrets: tuple[str, str] = super().register(session)
        session.client = self.policy
        return secrets


class ChatLoop(NullHarness):
    """Verifiers' harness `null`, an agent that only talks, without the program that it starts."""

    SUPPORTS_MCP = False
    SUPPORTS_TOOL_INTERCEPTION = False

    def __init__(self) -> None:
        super().__init__(NullHarnessConfig(id="null"))

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
        """See `vf.Harness`: asks for one reply to the conversation so far."""
        system, prompt = self.resolve_prompt(data)
        messages = [{"role": "system", "content": system}] if system else []
        if isinstance(prompt, str):
            messages.append({"role": "user", "content": prompt})
        else:
            messages += [message_to_wire(message) for message in prompt or []]
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as session,
            session.post(
                f"{endpoint}/chat/completions",
                headers={"Authorization": f"Bearer {secret}"},
                json={"model": MODEL, "messages": messages},
            ) as response,
        ):
            if response.status != 200:  # verifiers itself knows whether it stopped the episode, or something failed
                raise vf.HarnessError(await response.text())
        return vf.ProgramResult(exit_code=0, stdout="", stderr="")


def with_policy(kind: type[vf.Env], role: str, server: PolicyServer) -> type[vf.Env]:
    """An environment class of verifiers whose agent is played by a policy.

    role: the agent's name in the class's configuration.
    server: the server of the policy; it must run while there are episodes.
    """

    class Played(kind):  # type: ignore[misc, valid-type]
        async def setup(self, agents: vf.Agents) -> None:
            await super().setup(agents)
            agent = getattr(agents, role)
            agent.harness, agent.interception = ChatLoop(), server

    Played.__name__ = Played.__qualname__ = kind.__name__
    return Played
