"""`Scorer`: between the rollouts of a search, each waiting for one verdict, and a verifier that takes many rows."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from . import Verdict, Verifier


class Scorer:
    """Has answers verified as soon as they end.

    verifier: what verifies.
    deterministic: whether all else waits meanwhile. Answers that end in the same step of the engine are then verified
        together, in the order in which they ended. Where the verifier says that it `waits` for something outside, such
        as a remote judge, they are verified when no rollout is being sampled any more, so that it gets as many at once
        as there can be. Neither depends on how long anything takes.

    The attribute `sampling` must be kept at the number of rollouts that are asked for and have not ended. `seconds` is
    the time spent waiting for verdicts, with `deterministic` only.
    """

    def __init__(self, verifier: Verifier, deterministic: bool) -> None:
        self.verifier = verifier
        self.deterministic = deterministic
        self.sampling = 0
        self.seconds = 0.0
        self._waiting: list[tuple[dict[str, Any], asyncio.Future[Verdict]]] = []

    async def one(self, row: dict[str, Any]) -> Verdict:
        """The verdict on one answer, which may be verified together with others.

        row: see `Verifier.score`.
        """
        if not self.deterministic:
            return (await self.verifier.ascore([row]))[0]
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Verdict] = loop.create_future()
        self._waiting.append((row, future))
        # In the next turn of the loop, all tasks whose rollouts ended in this step of the engine have come here.
        loop.call_soon(self._score_waiting)
        return await future

    def pause(self) -> None:
        """Takes a rollout out of `sampling` that waits for something else; answers that waited for it need not."""
        self.sampling -= 1
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._score_waiting)

    async def all(self, rows: Sequence[dict[str, Any]]) -> list[Verdict]:
        """The (R,) verdicts on (R,) rows, in one call of the verifier."""
        return self._timed(rows) if self.deterministic else await self.verifier.ascore(rows)

    def _score_waiting(self) -> None:
        """Has the answers verified that wait, unless more of them will come that belong into the same call."""
        if not self._waiting or (self.sampling and getattr(self.verifier, "waits", False)):
            return
        # The search may have given up on some.
        waiting, self._waiting = [(row, future) for row, future in self._waiting if not future.done()], []
        try:
            verdicts = self._timed([row for row, _ in waiting])
        except Exception as error:
            for _, future in waiting:
                future.set_exception(error)
            return
        for (_, future), verdict in zip(waiting, verdicts, strict=True):
            future.set_result(verdict)

    def _timed(self, rows: Sequence[dict[str, Any]]) -> list[Verdict]:
        begin = time.perf_counter()
        try:
            return self.verifier.score(rows)
        finally:
            self.seconds += time.perf_counter() - begin
