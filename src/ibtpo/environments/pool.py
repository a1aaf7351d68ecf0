"""`Environments`: all environments of a run. It makes them, at most so many at once, and hands them out again."""

import asyncio
import copy
import inspect
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from .._options import OPTIONS
from ..errors import ConfigError, EngineError, unknown
from . import OWN_METHODS, RESTORES, EnvironmentFactories
from .calls import Reply, reply_to
from .formats import Format, TextFormat
from .live import Caller, CallError, Live

TRIES = 3  # how often an environment may fail to begin before the run ends

# Packages whose objects stand for something outside the process. A copy of one would share it with the original.
OUTSIDE = (
    "_socket", "aiohttp", "asyncio", "docker", "grpc", "http", "httpx", "httpx2", "multiprocessing", "openenv",
    "playwright", "requests", "selectors", "selenium", "socket", "ssl", "subprocess", "tempfile", "urllib3",
    "websocket", "websockets",
)  # fmt: skip


@dataclass(slots=True)
class Kind:
    """What the environments of one factory are like.

    made: their class.
    methods: the names of the methods that are tools.
    restores: how a branch gets its environment, one of `RESTORES`; "copy" becomes "replay" when copying fails.
    shows_tools: whether the model is shown tools, which the environment calls itself.
    """

    made: type
    methods: tuple[str, ...]
    restores: str
    shows_tools: bool = False

    @property
    def title(self) -> str:
        """The name of their class."""
        return self.made.__name__

    @property
    def rewards(self) -> bool:
        """Whether they give a reward of their own."""
        return callable(getattr(self.made, "get_reward", None))

    @property
    def responds(self) -> bool:
        """Whether they answer turns themselves, and not by tools."""
        return callable(getattr(self.made, "respond", None))


@dataclass(slots=True)
class Opening:
    """How the answers to one question begin.

    row: the columns of the question.
    text: what `reset` said, which is part of the prompt, or None.
    state: an environment right after this `reset`, if it could be kept.
    tool_schemas: the environment's `tool_schemas` after it.
    """

    row: Mapping[str, Any]
    text: str | None = None
    state: Live | None = None
    tool_schemas: Sequence[Any] = ()


class Environments:
    """The environments and tools of a run.

    factories: makes an environment; or several by name, of which a question's column `environment` names one; or None
        where there are only tools.
    tools: functions that the model may call, in every environment.
    format: between tokens and messages.
    timeout: seconds that a call of an environment or a tool may take.
    max_live: how many environments may exist at once, kept states that have been forked among them; None is as many as
        there are answers under way.
    max_turns: how many turns of an answer are answered at most; None is no limit. It is TRL's
        `max_tool_calling_iterations`.
    reads_cut_turns: whether a turn that was cut off at the length limit is answered, too, as TRL's tools are.

    The attribute `rendering` holds what `apply_chat_template` needs besides, such as the tools that it shows; `live`
    counts the environments that exist, and `most_live` is the most there ever were.

    Raises `ConfigError` when there are neither environments nor tools, and for a limit below 1.
    """

    def __init__(
        self,
        factories: EnvironmentFactories | None = None,
        *,
        format: Format,
        tools: Sequence[Callable[..., Any]] = (),
        timeout: float = OPTIONS["environment_timeout"].default,
        max_live: int | None = None,
        max_turns: int | None = None,
        reads_cut_turns: bool = False,
    ) -> None:
        if factories is None and not tools:
            raise ConfigError("there is neither an environment nor a tool; give a factory or functions")
        for name, value in (("max_environments", max_live), ("max_tool_calling_iterations", max_turns)):
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be >= 1, got {value}; leave it out for no limit")
        if not timeout > 0:
            raise ConfigError(f"environment_timeout must be > 0 seconds, got {timeout}")
        self.format = format
        self.rendering: dict[str, Any] = {}
        self.tools = list(tools)
        self.timeout = timeout
        self.max_live = max_live
        self.max_turns = max_turns
        self.reads_cut_turns = reads_cut_turns
        self.caller = Caller()
        self.live = 0
        self.most_live = 0
        self.warned = False  # that an environment cannot be replayed
        self._several = isinstance(factories, Mapping)
        self._factories: dict[str | None, Any] = {}
        if isinstance(factories, Mapping):
            self._factories.update(factories)
        elif factories is not None:
            self._factories[None] = factories
        self._kinds: dict[str | None, Kind] = {}
        self._idle: dict[str | None, list[Live]] = {name: [] for name in self._factories}
        self._forked: OrderedDict[int, tuple[Live, Callable[[], None]]] = OrderedDict()  # kept states, oldest first
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def is_chat(self) -> bool:
        """Whether answers are conversations of a chat template, and not one text."""
        return not isinstance(self.format, TextFormat)

    @property
    def stateful(self) -> bool:
        """Whether there are environments, and not only tools."""
        return bool(self._factories)

    def name(self, row: Mapping[str, Any]) -> str | None:
        """The name of a question's environment, None where there is one for all. Raises `ConfigError`."""
        if not self._several:
            return None
        name = row.get("environment")
        if name not in self._factories:
            raise unknown("environment", str(name), [str(known) for known in self._factories])
        return str(name)

    def kind(self, name: str | None) -> Kind:
        """What the environments of a name are like; one of them was made before."""
        return self._kinds[name]

    def tools_of(self, name: str | None, live: Live) -> dict[str, Callable[..., Any]]:
        """By name, what the model may call: the tools, and the environment's own methods."""
        methods = self._kinds[name].methods if live.environment is not None else ()
        functions = [*self.tools, *(getattr(live.environment, method) for method in methods)]
        return {function.__name__: function for function in functions}

    def known_tools(self, name: str | None, live: Live) -> list[Any]:
        """What the model knows of what it may call: functions, or the schemas of what the environment calls itself."""
        if live.environment is not None and self._kinds[name].shows_tools:
            return list(live.environment.tool_schemas)
        return list(self.tools_of(name, live).values())

    def rendering_of(self, opening: Opening) -> dict[str, Any]:
        """`rendering` with the tools that the environment of a question shows, if it calls any itself."""
        return {**self.rendering, **({"tools": list(opening.tool_schemas)} if opening.tool_schemas else {})}

    def stop_token_ids(self, name: str | None) -> tuple[int, ...]:
        """The ids of the tokens that end a turn besides the end-of-sequence token.

        name: of environments of which one was made before, or None where there are only tools.

        Raises `ConfigError` for a text that is not one token.
        """
        texts = getattr(self._kinds[name].made, "stop_tokens", ()) if self.stateful else ()
        if isinstance(texts, str):
            texts = (texts,)
        found = [self.format.encode(text) for text in texts]
        for text, ids in zip(texts, found, strict=True):
            if len(ids) != 1:
                raise ConfigError(
                    f"{self._kinds[name].title}.stop_tokens: {text!r} is {len(ids)} tokens of this model; a turn can "
                    "only end with one token"
                )
        return tuple(ids[0] for ids in found)

    async def reply(self, name: str | None, live: Live, ids: list[int], before: list[int]) -> Reply:
        """What the environment answers the turn of the tokens `ids` (T,), which follow the tokens `before` (P,)."""
        message = self.format.message(ids, before, self.known_tools(name, live))
        return await reply_to(message, live, self.tools_of(name, live))

    async def own_reward(self, live: Live) -> float | str | None:
        """What `get_reward` says of the answer that has ended, or why it failed, or None where there is none."""
        get_reward = getattr(live.environment, "get_reward", None)
        if get_reward is None:
            return None
        try:
            value: float | None = await live.call(get_reward)
            return value
        except CallError as error:
            return f"failed: {error}"

    async def kinds(self) -> dict[str | None, Kind]:
        """What the environments of each factory are like; one of each is made, if there was none yet."""
        for name in self._factories:
            if name not in self._kinds:
                live = await self._take(name)
                try:
                    await self._make(name, live)
                except CallError as error:
                    await self.drop(live)
                    raise ConfigError(f"the environment's factory failed: {error}") from error
                except BaseException:
                    await self.drop(live)
                    raise
                await self.give_back(name, live)
        return dict(self._kinds)

    async def _make(self, name: str | None, live: Live) -> None:
        if live.environment is None:
            await live.make(self._factories[name])
            self._kinds.setdefault(name, _kind(live.environment))

    # --- beginning and ending ------------------------------------------------------------------------------------

    async def start(self, name: str | None, row: Mapping[str, Any]) -> tuple[Live, str | None]:
        """An environment right after `reset(**row)`, and what that said.

        One that fails is made anew, three times in all. Raises `EngineError` then.
        """
        columns = {key: value for key, value in row.items() if not (self._several and key == "environment")}
        for attempt in range(1, TRIES + 1):
            live = await self._take(name)
            try:
                await self._make(name, live)
                text = await live.call(live.environment.reset, **columns)
                if text is not None and not isinstance(text, str):
                    raise ConfigError(f"reset must return text or None, got {type(text).__name__}: {text!r:.80}")
                return live, text
            except CallError as error:
                await self.drop(live)
                if attempt == TRIES:
                    what = self._kinds[name].title if name in self._kinds else "environment"
                    raise EngineError(f"{what} could not begin, {TRIES} times: {error}") from error
                await asyncio.sleep(0.1 * 4 ** (attempt - 1))
            except BaseException:
                await self.drop(live)
                raise
        raise AssertionError("unreachable: the loop returns or raises")

    async def open(self, row: Mapping[str, Any]) -> Opening:
        """How the answers to a question begin. Where `reset` says something, the state after it is kept if it can."""
        if not self.stateful:
            return Opening(row)
        name = self.name(row)
        live, text = await self.start(name, row)
        shown = live.environment.tool_schemas if self._kinds[name].shows_tools else ()
        opening = Opening(row, text, tool_schemas=list(shown))
        if text is not None:

            def forget() -> None:
                opening.state = None

            try:
                opening.state = await self.twin(name, live, forget)
            except BaseException:
                await self.drop(live)
                raise
        await self.give_back(name, live)
        return opening

    async def give_back(self, name: str | None, live: Live) -> None:
        """Takes an environment back, for the next question; one that is lost, or came from another, is closed."""
        if not live.made or live.lost:
            await self.drop(live)
            return
        self._idle[name].append(live)
        self._wake()

    async def drop(self, live: Live, *, counted: bool = True) -> None:
        """Closes an environment for good. counted: whether it is one of `live`."""
        try:
            await live.close()
        finally:
            if counted and self.stateful:
                self._uncount()

    async def close(self) -> None:
        """Closes all environments that nobody holds."""
        idle = [live for of_name in self._idle.values() for live in of_name]
        forked = list(self._forked.values())
        for of_name in self._idle.values():
            of_name.clear()
        self._forked.clear()
        for _, forget in forked:
            forget()
        await asyncio.gather(*(self.drop(live) for live in (*idle, *(live for live, _ in forked))))

    # --- the states of branches ----------------------------------------------------------------------------------

    async def twin(self, name: str | None, live: Live, forget: Callable[[], None]) -> Live | None:
        """Another environment in the state of `live`, to be kept for branches; None where there can be none.

        forget: called when it is taken away again, because environments are needed elsewhere. Only one that was forked
            is: a copy is plain data, and does not count.
        """
        kind = self._kinds[name]
        if kind.restores == "fork":
            if self.max_live is not None and self.live >= self.max_live:
                return None
            self._count()
            twin = await self._fork(live)
            if twin is not None:
                self._forked[id(twin)] = (twin, forget)
            return twin
        if kind.restores == "copy":
            return await self._copy(kind, live)
        return None

    async def branch(self, name: str | None, state: Live) -> Live | None:
        """An environment in a kept state, for an answer of its own; None if the state cannot be had again."""
        kind = self._kinds[name]
        while not await self._room():
            pass
        if kind.restores == "fork":
            kept = self._forked.pop(id(state), None)  # it cannot be taken away while it is forked
            if kept is None:  # it was, while this waited
                self._uncount()
                return None
            try:
                return await self._fork(state)
            finally:
                self._forked[id(state)] = kept
        try:
            twin = await self._copy(kind, state)
        except BaseException:
            self._uncount()
            raise
        if twin is None:
            self._uncount()
        return twin

    async def forget(self, state: Live) -> None:
        """Drops a kept state."""
        forked = self._forked.pop(id(state), None)
        await self.drop(state, counted=forked is not None)

    async def _fork(self, live: Live) -> Live | None:
        """A fork, which has been counted; it is not any more if forking fails."""
        try:
            return Live(self.timeout, self.caller, await live.create(live.environment.fork))
        except BaseException as error:
            self._uncount()
            if isinstance(error, CallError):
                return None
            raise

    async def _copy(self, kind: Kind, live: Live) -> Live | None:
        try:
            return Live(self.timeout, self.caller, await live.call(independent_copy, live.environment))
        except CallError:
            kind.restores = "replay"
            return None

    # --- at most so many -----------------------------------------------------------------------------------------

    async def _take(self, name: str | None) -> Live:
        """An idle environment of a name, or the place for a new one, once there may be one."""
        while True:
            if self._idle[name]:
                return self._idle[name].pop()
            if await self._room():
                return Live(self.timeout, self.caller, made=True)

    async def _room(self) -> bool:
        """Counts one more environment, if there may be one. Else it makes or awaits room, and returns False."""
        if self.max_live is None or self.live < self.max_live:
            self._count()
            return True
        if spare := next((of for of in self._idle.values() if of), None):
            await self.drop(spare.pop())
        elif self._forked:
            _, (state, forget) = self._forked.popitem(last=False)
            forget()
            await self.drop(state)
        else:
            await self._next()
        return False

    async def _next(self) -> None:
        """Waits for an environment to end."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self._wake()  # what it was woken for goes to the next
            raise
        finally:
            with suppress(ValueError):
                self._waiting.remove(future)

    def _count(self) -> None:
        self.live += 1
        self.most_live = max(self.most_live, self.live)

    def _uncount(self) -> None:
        self.live -= 1
        self._wake()

    def _wake(self) -> None:
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(None)
                return


def independent_copy(environment: Any) -> Any:
    """A deep copy. Raises `TypeError` if part of it stands for something outside the process, such as a connection."""
    parts: dict[int, Any] = {}
    twin = copy.deepcopy(environment, parts)
    for part in parts.values():
        package = type(part).__module__.partition(".")[0]
        if package in OUTSIDE:
            raise TypeError(f"it holds an object of {package}, which a copy would share")
    return twin


def _kind(environment: Any) -> Kind:
    """What an environment is like. Raises `ConfigError` for one without `reset`, and for a wrong `restores`."""
    title = type(environment).__name__
    if not callable(getattr(environment, "reset", None)):
        raise ConfigError(f"environment {title} has no method reset(**row), which begins an answer")
    # Functions of the class: to look at the object itself would evaluate its properties.
    public = [name for name, _ in inspect.getmembers(type(environment), inspect.isfunction) if name[0] != "_"]
    responds = callable(getattr(environment, "respond", None))
    methods = () if responds else tuple(name for name in public if name not in OWN_METHODS)
    if not responds and not methods:
        raise ConfigError(f"environment {title} has neither respond(message) nor a public method that is a tool")
    restores = getattr(environment, "restores", None)
    if restores is None and callable(getattr(environment, "fork", None)):
        restores = "fork"
    elif restores is None:  # what has something to give back, a copy would give back, too
        restores = "replay" if callable(getattr(environment, "close", None)) else "copy"
    if restores not in RESTORES:
        raise unknown("restores", str(restores), RESTORES)
    return Kind(type(environment), methods, restores, responds and hasattr(environment, "tool_schemas"))
