"""`Live`: one environment at work, whose calls have a time limit and never run on the search's event loop.

A plain method runs in a thread that belongs to the environment alone, where it was also made: what may be used in one
thread only, such as a database connection, works, and a call that blocks holds up nobody else. An async method runs in
one event loop for all environments that lives as long as the process, so that a client of a server may be kept from
search to search. Neither can hold up the end of the process: the threads are daemons.

A plain call that does not return in time cannot be stopped. Its thread is left behind, and the environment is *lost*,
since nobody knows its state: every further call of it fails at once. An async call is cancelled, and the environment
goes on.
"""

import asyncio
import contextlib
import inspect
import queue
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from functools import cache, partial
from typing import Any

from .._text import describe

CLOSING = 10.0  # seconds that are waited for `close`


class CallError(Exception):
    """A call of an environment or a tool failed; the text says how. `reason` is what it raised, without its class."""

    def __init__(self, text: str, reason: str | None = None) -> None:
        super().__init__(text)
        self.reason = text if reason is None else reason


@cache
def background_loop() -> asyncio.AbstractEventLoop:
    """The event loop of all async methods, in a thread of its own; it is started at the first use."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="ibtpo-environments", daemon=True).start()
    return loop


class Caller:
    """Makes the calls of a search wait for their results, in one of two ways.

    deterministic: whether all else waits meanwhile, as it does for verdicts (`SearchOptions.deterministic`). Calls that
        are asked for in one turn of the event loop then run side by side, and the loop stands still until all have
        ended, so that the engine's batches do not depend on how long a call takes.

    `seconds` is the time for which the loop stood still.
    """

    def __init__(self, deterministic: bool = False) -> None:
        self.deterministic = deterministic
        self.seconds = 0.0
        self._waiting: list[tuple[Callable[[], Future[Any]], float, asyncio.Future[Any]]] = []

    async def result(self, start: Callable[[], "Future[Any]"], timeout: float) -> Any:
        """What the future of `start()` gives. Raises `TimeoutError` after `timeout` seconds, and what the call raises.

        A future that is given up is cancelled.
        """
        if not self.deterministic:
            return await asyncio.wait_for(asyncio.wrap_future(start()), timeout)
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Any] = loop.create_future()
        self._waiting.append((start, timeout, done))
        loop.call_soon(self._run_waiting)  # by then all tasks that go on in this turn have come here
        return await done

    def _run_waiting(self) -> None:
        waiting, self._waiting = [w for w in self._waiting if not w[2].done()], []
        begin = time.monotonic()
        running = [(start(), timeout, done) for start, timeout, done in waiting]
        for future, timeout, done in running:
            try:
                done.set_result(future.result(max(0.0, begin + timeout - time.monotonic())))
            except TimeoutError as error:
                future.cancel()
                done.set_exception(error)
            except Exception as error:
                done.set_exception(error)
        self.seconds += time.monotonic() - begin


class Live:
    """An environment, or none for tools alone, with the thread and the time limit of its calls.

    timeout: seconds a call may take.
    caller: how the search waits for a call.
    environment: the user's object, if it exists already.
    made: whether a factory makes it, so that it is there to be reset again and again.

    The attribute `environment` is the user's object, None for tools alone. `lost` says that a call of it did not
    return.
    """

    def __init__(self, timeout: float, caller: Caller, environment: Any = None, *, made: bool = False) -> None:
        self.made = made
        self.timeout = timeout
        self.caller = caller
        self.environment = environment
        self.lost = False
        self._worker: _Worker | None = None

    async def make(self, factory: Callable[[], Any]) -> None:
        """Makes the environment, in its thread. Raises `CallError`."""
        self.environment = await self.create(factory)

    async def create(self, method: Callable[[], Any]) -> Any:
        """What a call returns that makes an environment: one that comes too late is closed. Raises `CallError`."""
        if is_async(method):
            return await self.call(method)
        lock, made, given_up = threading.Lock(), [], False

        def work() -> Any:
            environment = method()
            with lock:
                if not given_up:
                    made.append(environment)
                    return environment
            _close(environment)
            return None

        try:
            return await self.call(work)
        except BaseException:
            with lock:
                given_up = True
            if made:  # it came in this very moment
                threading.Thread(target=_close, args=made, daemon=True).start()
            raise

    async def call(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What a method of the environment, or a tool, returns. Raises `CallError` if it fails or takes too long."""
        if self.lost:
            raise CallError("the environment is lost: a call before this one did not return")
        call = partial(method, *args, **kwargs)
        try:
            if is_async(method):
                return await self.caller.result(lambda: _in_loop(call), self.timeout)
            result = await self.caller.result(lambda: self._in_thread(call), self.timeout)
            if inspect.isawaitable(result):  # a plain function that gives a coroutine
                return await self.caller.result(lambda: _in_loop(lambda: result), self.timeout)
            return result
        except asyncio.CancelledError:
            self._leave_behind()  # the search gave up: nobody waits for this call
            raise
        except TimeoutError as error:
            self._leave_behind()
            raise CallError(f"timed out after {self.timeout:g} s") from error
        except CallError:
            raise
        except Exception as error:
            raise CallError(describe(error), str(error)) from error

    def _in_thread(self, call: Callable[[], Any]) -> "Future[Any]":
        if self._worker is None:
            self._worker = _Worker()
            weakref.finalize(self, self._worker.end)  # a thread does not outlive an environment that nobody closed
        return self._worker.submit(call)

    def _leave_behind(self) -> None:
        """Gives up a thread that is in a call. A function has no state that could be lost with it."""
        if self._worker is not None and self._worker.busy:
            self.end()
            self.lost = self.environment is not None

    async def close(self) -> None:
        """Closes the environment and ends its thread; what fails is not reported, and what hangs is left behind.

        Closing has begun when this is first suspended, so that a search that is cancelled twice closes all the same.
        """
        self._leave_behind()
        if not callable(getattr(self.environment, "close", None)):
            self.end()
            return
        future = self._in_thread(partial(_close, self.environment))
        self.end()
        if self.caller.deterministic:
            with contextlib.suppress(TimeoutError):
                future.result(CLOSING)
        else:
            await asyncio.wait([asyncio.wrap_future(future)], timeout=CLOSING)

    def end(self) -> None:
        """Ends the thread, without a call of the environment."""
        if self._worker is not None:
            self._worker.end()
            self._worker = None


class _Worker:
    """A thread that makes one call after the other. `busy` says whether it is in one."""

    def __init__(self) -> None:
        self.busy = False
        self._calls: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="ibtpo-environment", daemon=True).start()

    def submit(self, call: Callable[[], Any]) -> "Future[Any]":
        future: Future[Any] = Future()
        self.busy = True
        self._calls.put((future, call))
        return future

    def end(self) -> None:
        """Lets the thread end after the call that it is in, if that ever returns."""
        self._calls.put(None)

    def _run(self) -> None:
        while (task := self._calls.get()) is not None:
            future, call = task
            if not future.set_running_or_notify_cancel():
                self.busy = False
                continue
            try:
                result = call()
            except BaseException as error:  # a SystemExit of user code must not vanish with the thread
                self.busy = False
                future.set_exception(_told(error))
            else:
                self.busy = False
                future.set_result(result)
            del future, call, task  # nothing is kept alive while the thread waits


def _close(environment: Any) -> None:
    """Closes an environment that nobody waits for, and waits until an async `close` has ended."""
    with contextlib.suppress(Exception):
        close = getattr(environment, "close", None)
        if callable(close) and inspect.isawaitable(awaitable := close()):
            _in_loop(lambda: awaitable).result(CLOSING)


def is_async(method: Callable[..., Any]) -> bool:
    """Whether calling `method` gives a coroutine at once."""
    while isinstance(method, partial):
        method = method.func
    return inspect.iscoroutinefunction(method) or inspect.iscoroutinefunction(getattr(method, "__call__", None))  # noqa: B004


def _told(error: BaseException) -> Exception:
    """An error of user code that is told apart from a call's time limit, and from the end of a thread."""
    plain = isinstance(error, Exception) and not isinstance(error, TimeoutError)
    return error if plain else CallError(describe(error), str(error))  # type: ignore[return-value]


def _in_loop(call: Callable[[], Any]) -> "Future[Any]":
    async def run() -> Any:
        try:
            return await call()
        except TimeoutError as error:
            raise _told(error) from error

    return asyncio.run_coroutine_threadsafe(run(), background_loop())
