"""Calls of environments: threads, the loop of async methods, time limits, failures, and what is left when all ends."""

import asyncio
import sqlite3
import threading
import time
import warnings
from typing import Any

import pytest

from helpers.environments import Hanging, Tally, environments
from helpers.laws import check_laws
from helpers.searches import EOS, decode, grow, next_token, options, prompts
from helpers.trees import FunctionVerifier
from ibtpo.engines.scripted import ScriptedEngine
from ibtpo.environments import failure
from ibtpo.environments.formats import TextFormat
from ibtpo.environments.live import Caller, CallError, Live
from ibtpo.environments.pool import Environments, independent_copy
from ibtpo.errors import ConfigError
from ibtpo.search import TreeSearch

ways = pytest.mark.parametrize("deterministic", [False, True])


def ours() -> list[threading.Thread]:
    """The threads of environments."""
    return [t for t in threading.enumerate() if t.name == "ibtpo-environment"]


def all_ended(left: int = 0, seconds: float = 5.0) -> bool:
    """Whether all threads of environments but `left` end within some seconds."""
    until = time.monotonic() + seconds
    while len(ours()) > left and time.monotonic() < until:
        time.sleep(0.02)
    return len(ours()) == left


@ways
def test_plain_methods_run_in_one_thread_and_async_ones_in_one_loop(deterministic: bool) -> None:
    class Shop:
        def __init__(self) -> None:
            self.db = sqlite3.connect(":memory:")  # it refuses other threads

        def count(self) -> int:
            return int(self.db.execute("select 42").fetchone()[0])

        async def loop(self) -> Any:
            return asyncio.get_running_loop()

        def close(self) -> None:
            self.db.close()

    async def one() -> Any:
        live = Live(5, Caller(deterministic))
        await live.make(Shop)
        assert [await live.call(live.environment.count) for _ in range(3)] == [42] * 3
        loop = await live.call(live.environment.loop)
        await live.close()
        with pytest.raises(sqlite3.ProgrammingError):
            live.environment.count()
        return loop

    assert asyncio.run(one()) is asyncio.run(one()) is not None  # the loop outlives searches
    assert all_ended()


@ways
def test_calls_run_side_by_side(deterministic: bool) -> None:
    async def work() -> float:
        caller = Caller(deterministic)
        lives = [Live(5, caller) for _ in range(8)]
        began = time.monotonic()
        assert await asyncio.gather(*(live.call(lambda i=i: time.sleep(0.2) or i) for i, live in enumerate(lives))) == [
            *range(8)
        ]
        for live in lives:
            live.end()
        return time.monotonic() - began

    assert asyncio.run(work()) < 1.2  # eight times 0.2 seconds one after the other would be 1.6


@ways
def test_a_call_that_hangs_is_left_behind_and_its_environment_is_lost(deterministic: bool) -> None:
    release = threading.Event()

    class Stuck:
        closed = False

        def wait(self) -> None:
            release.wait(20)

        async def sleep(self) -> None:
            await asyncio.sleep(20)

        def fine(self) -> int:
            return 1

        def close(self) -> None:
            self.closed = True

    async def work() -> Any:
        live = Live(0.2, Caller(deterministic))
        await live.make(Stuck)
        with pytest.raises(CallError, match=r"^timed out after 0.2 s$"):
            await live.call(live.environment.sleep)
        assert await live.call(live.environment.fine) == 1  # an async call was cancelled, and all goes on
        with pytest.raises(CallError, match=r"^timed out after 0.2 s$"):
            await live.call(live.environment.wait)
        assert live.lost
        with pytest.raises(CallError, match="the environment is lost"):
            await live.call(live.environment.fine)
        await live.close()
        return live.environment

    assert asyncio.run(work()).closed
    assert all_ended(1)  # but for the one that hangs; a daemon, so that it does not hold up the end of the process
    assert ours()[0].daemon
    release.set()
    assert all_ended()


@ways
def test_what_a_call_raises_becomes_an_error_with_its_words(deterministic: bool) -> None:
    def fail() -> None:
        raise KeyError("door")

    def leave() -> None:
        raise SystemExit(3)

    async def late() -> None:
        raise ValueError("too late")

    def slow_server() -> None:
        raise TimeoutError("the server did not answer")

    async def work() -> list[tuple[str, str]]:
        live, found = Live(5, Caller(deterministic)), []
        for call in (fail, leave, late, lambda: late(), slow_server):
            with pytest.raises(CallError) as error:
                await live.call(call)
            found.append((str(error.value), error.value.reason))
        live.end()
        return found

    assert asyncio.run(work()) == [
        ("KeyError: 'door'", "'door'"),
        ("SystemExit: 3", "3"),
        ("ValueError: too late", "too late"),
        ("ValueError: too late", "too late"),
        ("TimeoutError: the server did not answer", "the server did not answer"),
    ]


def test_a_failed_turn_is_an_observation() -> None:
    assert failure({"content": "x"}, "no") == "{'error': 'no'}"
    calls = [{"type": "function", "function": {"name": "look", "arguments": {}}}, {"type": "function"}]
    assert failure({"content": "x", "tool_calls": calls}, "no") == [
        {"role": "tool", "name": "look", "content": "{'error': 'no'}"},
        {"role": "tool", "name": "unknown", "content": "{'error': 'no'}"},
    ]


def test_a_copy_shares_nothing_with_the_outside() -> None:
    class Client:
        def __init__(self, part: Any) -> None:
            self.parts = {"a": [part]}

    twin = independent_copy(client := Client([1]))
    twin.parts["a"][0].append(2)
    assert client.parts["a"] == [[1]]
    requests = pytest.importorskip("requests")
    with pytest.raises(TypeError, match="it holds an object of requests, which a copy would share"):
        independent_copy(Client(requests.Session()))
    with pytest.raises(TypeError):
        independent_copy(Client(threading.Lock()))


def test_a_factory_must_make_an_environment() -> None:
    class Mute:
        def reset(self) -> None:
            """Nothing."""

    class Odd(Tally):
        restores = "magic"

    for kind, message in (
        (dict, "environment dict has no method reset"),
        (Mute, r"environment Mute has neither respond\(message\) nor a public method that is a tool"),
        (Odd, "unknown restores 'magic'"),
    ):
        with pytest.raises(ConfigError, match=message):
            grow(options(), prompts(1), environments=environments(kind))
    for wrong, message in (({"max_live": 0}, "max_environments must be >= 1"), ({"timeout": 0}, "must be > 0 seconds")):
        with pytest.raises(ConfigError, match=message):
            environments(Tally, **wrong)
    with pytest.raises(ConfigError, match="neither an environment nor a tool"):
        environments(None)


# --- under load

FAILED = 1  # the token of an observation that is an error


class Loud:
    """Text that the scripted model can read: an error is the word a."""

    def __call__(self, text: str) -> list[int]:
        return [FAILED] if "error" in text else [5] * len(text.split())


@pytest.mark.parametrize("most", [100, 12])
def test_a_hundred_environments_that_fail_and_hang_lose_nothing_and_leave_nothing(most: int) -> None:
    Hanging.alive = 0
    their = Environments(Hanging, format=TextFormat(Loud(), decode), timeout=0.1, max_live=most)
    o = options("25,5,1,1", max_completion_length=80, max_in_flight=100, lookahead=1)
    verifier = FunctionVerifier(lambda row: float(row["environment_reward"]))
    verifier.names = ("own",)
    with warnings.catch_warnings(action="ignore"):  # where a fork failed, what hung is replayed and does not hang
        trees = grow(o, prompts(4), ScriptedEngine(next_token, [EOS]), verifier, environments=their)
    for tree in trees:
        check_laws(tree)
        assert len(tree.leaves) == 29
    calls = sum(tree.meta["environment"]["calls"] for tree in trees)
    failures = sum(tree.meta["environment"]["failures"] for tree in trees)
    assert calls > 200
    assert 0 < failures < 0.6 * calls
    assert their.most_live <= most
    assert asyncio.run(close(their)) == 0
    assert all_ended()
    assert Hanging.alive == 0


async def close(their: Any) -> int:
    """Closes the environments, and returns how many there are then."""
    await their.close()
    return int(their.live)


def test_a_search_that_is_cancelled_closes_its_environments() -> None:
    Hanging.alive = 0
    their = Environments(Hanging, format=TextFormat(Loud(), decode), timeout=5)
    Hanging.hang = 1.0

    async def work() -> None:
        engine = ScriptedEngine(next_token, [EOS], delay=lambda seed: seed % 100 / 1000)
        verifier = FunctionVerifier(lambda row: 1.0)
        search = TreeSearch(engine, verifier, decode, options(max_completion_length=60), environments=their)
        task = asyncio.ensure_future(search.grow_all(prompts(20)))
        await asyncio.sleep(0.3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await their.close()

    try:
        asyncio.run(work())
    finally:
        Hanging.hang = 0.3
    assert their.live == 0
    assert all_ended()
    assert Hanging.alive == 0
