"""`VerifierPool`: reward functions in child processes, with a deadline a row.

A function that hangs, crashes the interpreter or prints to standard output costs one row an error and nothing else: the
child is killed and replaced. Children are started as `python -m ibtpo.verify.worker`, not with multiprocessing, so that
a script without a `__main__` guard works, and no state of this process (threads, CUDA) is forked into them.
"""

import asyncio
import contextlib
import os
import pickle
import queue
import select
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from .._extras import child_environment
from .._text import describe
from ..errors import ConfigError, VerifierError, unknown
from . import BUILTIN, Verdict
from .outcome import TIMEOUT, WORKERS, Outcome, check_timeout, check_weights, combine
from .worker import HEADER

IMPORT_TIMEOUT = 60.0  # seconds a child may take to import its functions, apart from any row's deadline


class VerifierPool:
    """A `Verifier` over named reward functions with TRL's signature, each row judged in a child process.

    reward: "math", "countdown", "choice", "walk", "ifeval", a dotted path ("package.module:function"), or several of
        them.
    weights: (F,) what each value is multiplied with before the sum; 1 each by default.
    workers: child processes. timeout: seconds a row may take, all functions together.

    None or NaN from a function means "does not apply" and is left out of the sum; a row no function gave a value for
    is an error, as is a row for which one raised, hung, crashed, or gave anything else than one finite number.
    May be used from several threads. Raises `ConfigError` for an unknown name, and `VerifierError` at the first use
    if a function cannot be imported.
    """

    def __init__(
        self,
        reward: str | Sequence[str] = "math",
        *,
        weights: Sequence[float] | None = None,
        workers: int = WORKERS,
        timeout: float = TIMEOUT,
    ) -> None:
        rewards = tuple(reward) if isinstance(reward, Sequence) and not isinstance(reward, str) else (reward,)
        self.names = tuple(function_name(name) for name in rewards)
        self.weights = check_weights(weights, self.names)
        self.timeout = check_timeout(timeout)
        if workers < 1:
            raise ConfigError(f"workers must be at least 1, got {workers}")
        self._workers = [_Worker(rewards) for _ in range(workers)]
        self._idle: queue.LifoQueue[_Worker] = queue.LifoQueue()
        for worker in reversed(self._workers):
            worker.start()  # imports run while the caller goes on
            self._idle.put(worker)
        self._closed = False
        self._executor: ThreadPoolExecutor | None = None
        self._executor_lock = threading.Lock()
        self._finalizer = weakref.finalize(self, _kill_all, self._workers, os.getpid())  # also runs at interpreter exit

    def score(self, rows: Sequence[dict[str, Any]]) -> list[Verdict]:
        """(R,) one verdict a row, in order; rows are spread over the idle children.

        Raises `VerifierError` if a reward function cannot be imported or the pool is closed.
        """
        todo = deque(enumerate(rows))
        verdicts: list[Verdict | None] = [None] * len(rows)
        busy: dict[int, _Worker] = {}  # by the file descriptor of the child's answers
        try:
            while todo or busy:
                self._assign(todo, busy, verdicts)
                if busy:
                    self._collect(busy, verdicts)
        finally:
            for worker in busy.values():  # only after an exception: its answer would be taken for the next row's
                worker.stop()
                self._idle.put(worker)
        return verdicts  # type: ignore[return-value]  # every row was either answered or given an error

    async def ascore(self, rows: Sequence[dict[str, Any]]) -> list[Verdict]:
        """The same, without blocking the event loop."""
        with self._executor_lock:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(len(self._workers), thread_name_prefix="ibtpo-verifier")
        return await asyncio.get_running_loop().run_in_executor(self._executor, self.score, rows)

    def close(self) -> None:
        """Stops the children. Calls in progress in other threads end with `VerifierError`."""
        self._closed = True
        self._finalizer()
        with contextlib.suppress(queue.Empty):
            while True:  # a busy child is cleaned up by the thread that uses it
                self._idle.get_nowait().stop()
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)

    def __enter__(self) -> "VerifierPool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _assign(
        self, todo: deque[tuple[int, dict[str, Any]]], busy: dict[int, "_Worker"], verdicts: list[Verdict | None]
    ) -> None:
        """Gives waiting rows to idle children; waits for one only while holding none."""
        while todo:
            if self._closed:
                raise VerifierError("the verifier pool is closed; make a new one")
            try:
                worker = self._idle.get_nowait() if busy else self._idle.get(timeout=0.5)
            except queue.Empty:
                if busy:
                    return
                continue  # look at `_closed` again
            index, row = todo.popleft()
            try:
                body = pickle.dumps(row, protocol=pickle.HIGHEST_PROTOCOL)
            except Exception as error:
                failure: Outcome = (None, f"the row cannot be sent to a child process: {describe(error)}")
                verdicts[index] = combine([failure] * len(self.names), self.names, self.weights)
                self._idle.put(worker)
                continue
            if worker.gone():
                worker.stop()
                worker.start()
            worker.take(index, body, self.timeout)
            busy[worker.answers] = worker

    def _collect(self, busy: dict[int, "_Worker"], verdicts: list[Verdict | None]) -> None:
        """Waits for the next answers or deadline and books them."""
        poll = select.poll()
        for worker in busy.values():
            for descriptor, event in worker.interests():
                poll.register(descriptor, event)
        wait = max(0.0, min(worker.deadline for worker in busy.values()) - time.monotonic())
        poll.poll(wait * 1000 + 1)
        for descriptor, worker in list(busy.items()):
            outcomes = worker.advance()
            if outcomes is None:
                continue
            del busy[descriptor]
            if isinstance(outcomes, VerifierError):
                worker.stop()  # started again at the next use: the file may have been mended by then
                self._idle.put(worker)
                raise outcomes
            if isinstance(outcomes, str):
                worker.stop()
                if self._closed:
                    raise VerifierError("the verifier pool was closed while it was scoring")
                worker.start()
                if not worker.begun and not worker.second:  # it died between rows, which is no row's fault
                    worker.take(worker.index, worker.body, self.timeout, second=True)
                    busy[worker.answers] = worker
                    continue
                verdicts[worker.index] = Verdict(None, (None,) * len(self.names), outcomes)
            else:
                verdicts[worker.index] = combine(outcomes, self.names, self.weights)
            self._idle.put(worker)


class _Worker:
    """One child process and the row it is at. Used by one thread at a time."""

    def __init__(self, rewards: tuple[str, ...]) -> None:
        self.rewards = rewards
        self.process: subprocess.Popen[bytes] | None = None
        self.index = -1
        self.body = b""
        self.begun = False  # whether the child has read the row
        self.second = False  # whether an earlier child died before it had
        self.deadline = 0.0
        self.answers = -1

    def start(self) -> None:
        # With -P the child puts no folder of its own before the path it is given, which is this process's: a dotted
        # path means the same function there as here, and no file in the current folder hides a module that it did not
        # hide from us.
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "ibtpo.verify.worker", str(os.getpid()), *self.rewards],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env=child_environment(),
            start_new_session=True,  # Ctrl-C is the parent's to handle; and the group can be killed whole
        )
        assert self.process.stdin is not None, "a pipe was asked for"
        assert self.process.stdout is not None, "a pipe was asked for"
        self.requests, self.answers = self.process.stdin.fileno(), self.process.stdout.fileno()
        os.set_blocking(self.requests, False)
        os.set_blocking(self.answers, False)
        self.ready = False
        self.started = time.monotonic()
        self.outbox, self.inbox = memoryview(b""), bytearray()

    def kill(self) -> None:
        """Ends the child and what it started. Safe from any thread."""
        process = self.process
        if process is not None and process.returncode is None:  # not reaped, so the id is still this process's
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def stop(self) -> None:
        self.kill()
        process, self.process = self.process, None
        if process is None:
            return
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()

    def gone(self) -> bool:
        """Whether an idle child has died, or was never started again. One that failed to import is not: it says why."""
        return self.process is None or (self.ready and self.process.poll() is not None)

    def take(self, index: int, body: bytes, timeout: float, second: bool = False) -> None:
        self.index, self.body, self.timeout = index, body, timeout
        self.begun, self.second = False, second
        self.outbox = memoryview(HEADER.pack(len(body)) + body)
        self.deadline = time.monotonic() + timeout if self.ready else self.started + IMPORT_TIMEOUT
        self._write()

    def interests(self) -> list[tuple[int, int]]:
        """What to wait for: answers, and room in the pipe while a long row is being sent."""
        reading = [(self.answers, select.POLLIN)]
        return [*reading, (self.requests, select.POLLOUT)] if self.ready and self.outbox else reading

    def advance(self) -> list[Outcome] | str | VerifierError | None:
        """Moves bytes. None: not done; a list: the outcomes; a string: why the row failed; an error: for the caller."""
        self._write()
        message, ended = self._read()
        while message is not None:
            if isinstance(message, list):
                return message
            state, reason = message
            if state == "failed":
                return VerifierError(reason)
            if state == "ready":
                self.ready = True
                self.deadline = time.monotonic() + self.timeout
                self._write()
            else:
                self.begun = True
            message, ended = self._read()
        if ended:
            return self._death()
        if time.monotonic() < self.deadline:
            return None
        if self.ready:
            self.begun = True  # too long a row is not sent twice
            return f"timed out after {self.timeout:g} s"
        return VerifierError(
            f"importing the reward function {self._rewards()} took more than {IMPORT_TIMEOUT:g} s; "
            "move slow work from the module into the function"
        )

    def _write(self) -> None:
        if not self.ready:
            return
        while self.outbox:
            try:
                self.outbox = self.outbox[os.write(self.requests, self.outbox) :]
            except BlockingIOError:
                return
            except BrokenPipeError:
                return  # the end of its answers tells the same, and then we know how it died

    def _read(self) -> tuple[Any | None, bool]:
        """(a whole message or None, whether the child closed its end)."""
        ended = False
        while True:
            try:
                chunk = os.read(self.answers, 1 << 16)
            except BlockingIOError:
                break
            if not chunk:
                ended = True
                break
            self.inbox += chunk
        if len(self.inbox) >= HEADER.size:
            end = HEADER.size + HEADER.unpack_from(self.inbox)[0]
            if len(self.inbox) >= end:
                message = pickle.loads(self.inbox[HEADER.size : end])
                del self.inbox[:end]
                return message, ended
        return None, ended

    def _death(self) -> str | VerifierError:
        assert self.process is not None, "a child at work has a process"
        try:
            code = self.process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            return "the verifier process closed its pipe"
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"
        if self.ready:
            return f"the verifier process {how}"
        return VerifierError(
            f"the verifier process {how} while importing the reward function {self._rewards()}; see its standard error"
        )

    def _rewards(self) -> str:
        return ", ".join(repr(name) for name in self.rewards)


def _kill_all(workers: list[_Worker], owner: int) -> None:
    if os.getpid() == owner:  # a fork of this process inherits the pool, but not the children
        for worker in workers:
            worker.kill()


def function_name(name: str) -> str:
    """The name of the function that `name` stands for. Raises `ConfigError` for what cannot be one."""
    if not isinstance(name, str):
        raise ConfigError(
            f"a reward of VerifierPool is a name or a dotted path, got {type(name).__name__}; "
            "RewardFunctions takes functions"
        )
    path = BUILTIN.get(name, name).replace(":", ".")
    module, _, function = path.rpartition(".")
    if not module:
        raise unknown("reward", name, BUILTIN)
    if not all(part.isidentifier() for part in path.split(".")):
        raise ConfigError(f"{name!r} is not a dotted path; write package.module:function")
    if module == "__main__":
        raise ConfigError(
            f"{name!r} is in the running script, which a child process cannot import; move it to a module"
        )
    return function
