"""`Branches`: the environments of one tree, and how a branch gets one in the state of the place where it starts.

A state is known by what was said: the tokens after the prompt, up to the end of an observation. Between observations
an environment does nothing, so every place up to the next one has the same state.
"""

import asyncio
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError
from . import Message, Said
from .live import Live
from .pool import Environments, Opening

Key = tuple[int, ...]


class CannotRestoreError(Exception):
    """No environment can be brought into the state of a place; the text says why."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """A turn and what the environment said to it.

    key: (K,) the tokens from the end of the prompt to the end of the observation.
    start: where the turn begins in them.
    end: where the turn ends and the observation begins.
    message: the turn.
    said: the observation.
    """

    key: Key
    start: int
    end: int
    message: Message
    said: Said

    @property
    def messages(self) -> list[Message]:
        """The turn and the observation as messages of a conversation."""
        if isinstance(self.said, str):
            return [self.message, {"role": "user", "content": self.said}]
        return [self.message, *(self.said or [])]


class Branches:
    """The environments of one tree.

    environments: those of the run.
    prompt_ids: the prompt's tokens.
    row: the question's columns.
    opening: how the answers begin, if the prompt was made with it.
    branching: whether the tree may branch elsewhere than at its root, so that states are worth keeping.

    `calls` and `failures` count calls of tools and of `respond`, those of replays left out; `not_replayable` says why
    replaying failed, if it did.
    """

    def __init__(
        self,
        environments: Environments,
        prompt_ids: Sequence[int],
        row: Mapping[str, Any],
        opening: Opening | None = None,
        *,
        branching: bool = True,
    ) -> None:
        self.environments = environments
        self.name = environments.name(row) if environments.stateful else None
        self.calls = 0
        self.failures = 0
        self.not_replayable: str | None = None
        self._prompt_ids = list(prompt_ids)
        self._row = row
        self._opening = opening or Opening(row)
        self._branching = branching
        self._exchanges: dict[Key, Exchange] = {}
        self._states: dict[Key, Live] = {}
        self._first = asyncio.Lock()  # the first answer resets an environment, and the others begin with its state
        self._begun = False
        self._given_up = False

    @property
    def root_only(self) -> bool:
        """Whether no environment can be brought into the state of another place than the root."""
        return self._given_up or (self.environments.stateful and self._begun and self._restores == "root")

    def give_up(self) -> None:
        """From now on, all answers start at the root."""
        self._given_up = True

    @property
    def _restores(self) -> str:
        return self.environments.kind(self.name).restores

    def report(self) -> dict[str, Any]:
        """What a tree's metadata says of its environments, as JSON values."""
        environments = self.environments
        what: dict[str, Any] = {"calls": self.calls, "failures": self.failures}
        if environments.stateful and self._begun:
            what = {"name": environments.kind(self.name).title, "restored_by": self._restores, **what}
        elif not environments.stateful:
            what = {"name": "tools", "restored_by": "nothing to restore", **what}
        if self.not_replayable is not None:
            what["not_replayable"] = self.not_replayable
        return what

    def history(self, ends: Sequence[Key]) -> list[Exchange]:
        """The exchanges of a path, from the root on. ends: for each observation on it, the tokens up to its end."""
        return [self._exchanges[key] for key in ends]

    async def open(self, history: Sequence[Exchange]) -> Live:
        """An environment in the state after `history`.

        Raises `CannotRestoreError`, and `EngineError` where none can begin.
        """
        if not self.environments.stateful:
            return Live(self.environments.timeout, self.environments.caller)
        if not history:
            return await self._at_root()
        if (state := self._states.get(history[-1].key)) is not None:
            live = await self.environments.branch(self.name, state)
            if live is not None:
                return live
        if self._restores == "root":
            raise CannotRestoreError("its `restores` is 'root'")
        return await self._replay(history)

    async def _at_root(self) -> Live:
        if self._branching and not self._begun:
            async with self._first:
                if not self._begun:
                    live = await self._beginning()
                    try:
                        await self.keep(live, ())
                    except BaseException:
                        await self.environments.drop(live)
                        raise
                    self._begun = True
                    return live
        live = await self._beginning()
        self._begun = True
        return live

    async def _beginning(self) -> Live:
        state = self._states.get(()) or self._opening.state
        live = await self.environments.branch(self.name, state) if state is not None else None
        return live or await self._reset()

    async def _reset(self) -> Live:
        live, text = await self.environments.start(self.name, self._row)
        if text != self._opening.text:
            title = self.environments.kind(self.name).title
            await self.environments.drop(live)
            raise ConfigError(
                f"{title}.reset said {text!r:.60} for a question whose prompt was made with "
                f"{self._opening.text!r:.60}; all answers of a tree have one prompt: let reset depend on its row "
                "alone, or give the environment fork()"
            )
        return live

    async def _replay(self, history: Sequence[Exchange]) -> Live:
        """A new environment to which all turns are said again; it must answer as the first one did."""
        if self.not_replayable is not None:
            raise CannotRestoreError(self.not_replayable)
        live = await self._reset()
        try:
            for number, past in enumerate(history, 1):
                before = [*self._prompt_ids, *past.key[: past.start]]
                reply = await self.environments.reply(self.name, live, list(past.key[past.start : past.end]), before)
                if reply.said != past.said:
                    self.not_replayable = f"turn {number} was answered {past.said!r:.80}, and again {reply.said!r:.80}"
                    self._warn()
                    raise CannotRestoreError(self.not_replayable)
            return live
        except BaseException:
            await self.environments.drop(live)
            raise

    def _warn(self) -> None:
        if self.environments.warned:
            return
        self.environments.warned = True
        warnings.warn(
            f"environment {self.environments.kind(self.name).title} cannot be replayed: {self.not_replayable}. Its "
            "trees branch at the root alone; give it fork(), or let it depend on its row and the turns alone",
            stacklevel=2,
        )

    def add(self, exchange: Exchange) -> None:
        """Remembers an exchange, for the branches below it."""
        self._exchanges.setdefault(exchange.key, exchange)

    async def keep(self, live: Live, key: Key) -> None:
        """Keeps the state that `live` is in after the tokens `key`, if it can be kept and is not yet."""
        if not self.environments.stateful or not self._branching or key in self._states or live.lost:
            return

        def forget() -> None:
            self._states.pop(key, None)

        state = await self.environments.twin(self.name, live, forget)
        if state is None:
            return
        if key in self._states:  # another answer was as fast
            await self.environments.forget(state)
        else:
            self._states[key] = state

    async def end(self, live: Live, *, reuse: bool) -> None:
        """Ends the use of an environment. reuse: whether its answer ended well, so that it may be reset for another."""
        if not self.environments.stateful:
            live.end()
        elif reuse:
            await self.environments.give_back(self.name, live)
        else:
            await self.environments.drop(live)

    async def close(self) -> None:
        """Drops all states that were kept."""
        states = [*self._states.values(), *([self._opening.state] if self._opening.state else [])]
        self._states.clear()
        self._opening.state = None
        for state in states:
            await self.environments.forget(state)
