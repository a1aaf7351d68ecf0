"""The scripted engine's account of its time."""

import asyncio
from collections.abc import Mapping

from ibtpo.engines import Sampling
from ibtpo.engines.scripted import ScriptedEngine


def test_busy_seconds_are_those_of_the_script_and_not_of_the_delay() -> None:
    now = [100.0]

    def slow(ids: tuple[int, ...]) -> Mapping[int, float]:
        now[0] += 0.25
        return {1: 1.0}

    def delay(seed: int) -> float:
        now[0] += 7.0
        return 0.0

    engine = ScriptedEngine(slow, [0], delay=delay, clock=lambda: now[0])
    assert engine.busy_seconds == 0.0
    completion = asyncio.run(engine.generate([5], Sampling(), 0, 4))
    assert completion.token_ids == [1, 1, 1, 1]
    assert engine.busy_seconds == 4 * 0.25
    asyncio.run(engine.generate([5], Sampling(), 1, 2))
    assert engine.busy_seconds == 6 * 0.25
