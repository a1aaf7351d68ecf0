"""`VerifierPool`: reward functions in child processes, with a deadline for each row.

A function that hangs or crashes the interpreter costs its row an error and nothing else: the child is killed and
replaced. What a function prints goes to standard error. Children are started as `python -m ibtpo.verify.worker`, not
with multiprocessing, so that a script without a `__main__` guard works, and no state of this process (threads, CUDA) is
forked into them.
"""

import asyncio
import contextlib
import json
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
from .tags import ANSWER_TAGS, THINKING_TAGS, pairs
from .worker import HEADER

IMPORT_TIMEOUT = 60.0  # seconds a child may take to import its functions; a row's deadline starts after that


class VerifierPool:
    """A `Verifier` that has named reward functions with TRL's signature judge each row in a child process.

    reward: "math", "countdown", "choice", "walk", "ifeval", "code", a dotted path ("package.module:function"), or
        several of them.
    weights: (F,) what each function's value is multiplied with before the sum; 1 each by default.
    workers: the number of child processes.
    timeout: how many seconds a row may take, all functions together.
    thinking_tags, answer_tags: pairs of tags, such as "<think> </think>", that built-in verifiers know, see `tags`.

    None or NaN from a function means that it does not apply, and is left out of the sum. A row is an error if no
    function gave it a value, or if one raised, hung, crashed, or gave anything else than one finite number. A pool may
    be used from several threads.

    Raises `ConfigError` for a name that cannot be one of a reward function and for an argument out of range. Its first
    use raises `VerifierError` if a function cannot be imported.
    """

    def __init__(
        self,
        reward: str | Sequence[str] = "math",
        *,
        weights: Sequence[float] | None = None,
        workers: int = WORKERS,
        timeout: float = TIMEOUT,
        thinking_tags: str = THINKING_TAGS,
        answer_tags: str = ANSWER_TAGS,
    ) -> None:
        rewards = tuple(reward) if isinstance(reward, Sequence) and not isinstance(reward, str) else (reward,)
        self.names = tuple(function_name(name) for name in rewards)
        self.may_compare = not set(rewards) <= set(BUILTIN)  # whether a function may be one that compares answers
        self.weights = check_weights(weights, self.names)
        self.timeout = check_timeout(timeout)
        if workers < 1:
            raise ConfigError(f"workers must be at least 1, got {workers}")
        tags = {"thinking_tags": thinking_tags, "answer_tags": answer_tags}
        for words in tags.values():
            pairs(words)  # so that a wrong option raises here, not in a child
        extra = json.dumps({**tags, "verifier_timeout": self.timeout})
        self._workers = [_Worker(rewards, extra) for _ in range(workers)]
        self._idle: queue.LifoQueue[_Worker] = queue.LifoQueue()
        for worker in reversed(self._workers):
            worker.start()  # does not wait: the child imports its functions while the caller goes on
            self._idle.put(worker)
        self._closed = False
        self._executor: ThreadPoolExecutor | None = None
        self._executor_lock = threading.Lock()
        self._finalizer = weakref.finalize(self, _kill_all, self._workers, os.getpid())  # also runs at interpreter exit

    def score(self, rows: Sequence[dict[str, Any]]) -> list[Verdict]:
        """Judges (R,) rows, and returns (R,) verdicts in their order. Rows are spread over the idle children.

        rows: see `Verifier.score`.

        Raises `VerifierError` if a reward function cannot be imported or the pool is closed.
        """
        return [verdict for verdicts in self._judge([[row] for row in rows]) for verdict in verdicts]

    def score_together(self, rows: Sequence[dict[str, Any]]) -> list[Verdict]:
        """Judges (R,) rows as `score` does, but calls each function once with all of them, in one child.

        It shows what a function that compares answers would say. All rows share one failure.
        """
        return self._judge([list(rows)])[0]

    def _judge(self, calls: Sequence[list[dict[str, Any]]]) -> list[list[Verdict]]:
        """Judges the rows of each call together, and returns their verdicts; the idle children share the calls."""
        todo = deque(enumerate(calls))
        verdicts: list[list[Verdict]] = [[] for _ in calls]
        busy: dict[int, _Worker] = {}  # by the file descriptor of the child's answers
        try:
            while todo or busy:
                self._assign(todo, busy, verdicts)
                if busy:
                    self._collect(busy, verdicts)
        finally:
            # Children are busy here only after an exception. A late answer would be taken for that to the next row.
            for worker in busy.values():
                worker.stop()
                self._idle.put(worker)
        return verdicts

    async def ascore(self, rows: Sequence[dict[str, Any]]) -> list[Verdict]:
        """The same as `score`, without blocking the event loop."""
        with self._executor_lock:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(len(self._workers), thread_name_prefix="ibtpo-verifier")
        return await asyncio.get_running_loop().run_in_executor(self._executor, self.score, rows)

    def close(self) -> None:
        """Stops the children. Calls in progress in other threads end with `VerifierError`."""
        self._closed = True
        self._finalizer()
        with contextlib.suppress(queue.Empty):
            while True:  # only the idle ones; the thread that uses a busy child cleans up after it
                self._idle.get_nowait().stop()
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)

    def __enter__(self) -> "VerifierPool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _assign(
        self, todo: deque[tuple[int, list[dict[str, Any]]]], busy: dict[int, "_Worker"], verdicts: list[list[Verdict]]
    ) -> None:
        """Gives calls of `todo` to idle children, which then are in `busy`.

        It waits for a child only while this call of `_judge` has none: other threads may use all the others.
        """
        while todo:
            if self._closed:
                raise VerifierError("the verifier pool is closed; make a new one")
            try:
                worker = self._idle.get_nowait() if busy else self._idle.get(timeout=0.5)
            except queue.Empty:
                if busy:
                    return
                continue  # the pool may have been closed meanwhile
            index, rows = todo.popleft()
            try:
                body = pickle.dumps(rows, protocol=pickle.HIGHEST_PROTOCOL)
            except Exception as error:
                failure: Outcome = (None, f"the row cannot be sent to a child process: {describe(error)}")
                verdicts[index] = [combine([failure] * len(self.names), self.names, self.weights)] * len(rows)
                self._idle.put(worker)
                continue
            if worker.gone():
                worker.stop()
                worker.start()
            worker.take(index, body, len(rows), self.timeout)
            busy[worker.answers] = worker

    def _collect(self, busy: dict[int, "_Worker"], verdicts: list[list[Verdict]]) -> None:
        """Waits until a child answers or a deadline passes, and turns what has come into verdicts."""
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
                worker.stop()  # it is started again at its next use, when the function's file may have been mended
                self._idle.put(worker)
                raise outcomes
            if isinstance(outcomes, str):
                worker.stop()
                if self._closed:
                    raise VerifierError("the verifier pool was closed while it was scoring")
                worker.start()
                if not worker.begun and not worker.second:  # it died before it read the row
                    worker.take(worker.index, worker.body, worker.rows, self.timeout, second=True)
                    busy[worker.answers] = worker
                    continue
                verdicts[worker.index] = [Verdict(None, (None,) * len(self.names), outcomes)] * worker.rows
            else:
                verdicts[worker.index] = [combine(row, self.names, self.weights) for row in outcomes]
            self._idle.put(worker)


class _Worker:
    """One child process and the row that it is working on. Only one thread may use it at a time, but for `kill`."""

    def __init__(self, rewards: tuple[str, ...], extra: str) -> None:
        self.rewards = rewards
        self.extra = extra  # keyword arguments of this package's own functions, as JSON
        self.process: subprocess.Popen[bytes] | None = None
        self.index = -1  # of the rows among the calls that are judged at once
        self.body = b""  # the rows of one call as a pickle
        self.rows = 0  # how many they are
        self.begun = False  # whether the child has read them
        self.second = False  # whether an earlier child died before it read the same rows
        self.deadline = 0.0  # when they, or the import before them, have taken too long; by `time.monotonic`
        self.answers = -1  # the file descriptor from which the child's answers are read

    def start(self) -> None:
        """Starts a child, which first imports the reward functions."""
        # The child gets this process's import path, and with -P it puts no folder of its own before that. So a dotted
        # path means the same function there as here, and a file in the current folder hides no module from the child
        # that it does not hide from us.
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "ibtpo.verify.worker", str(os.getpid()), self.extra, *self.rewards],
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
        if process is not None and process.returncode is None:  # not waited for yet, so no other process has its id
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def stop(self) -> None:
        """Ends the child and closes its pipes. `start` may be called again."""
        self.kill()
        process, self.process = self.process, None
        if process is None:
            return
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()

    def gone(self) -> bool:
        """Whether an idle child has died or was stopped, so that a new one is needed.

        A child that ended because an import failed is not gone: why it failed still waits in its pipe.
        """
        return self.process is None or (self.ready and self.process.poll() is not None)

    def take(self, index: int, body: bytes, rows: int, timeout: float, second: bool = False) -> None:
        """Gives the child the rows of one call; they are sent as soon as the child is ready for them.

        index: the index of the call among those that are judged at once.
        body: the rows as a pickle.
        rows: how many they are.
        timeout: seconds that each row may take.
        second: whether an earlier child died before it read these rows.
        """
        self.index, self.body, self.rows, self.timeout = index, body, rows, timeout * rows
        self.begun, self.second = False, second
        self.outbox = memoryview(HEADER.pack(len(body)) + body)
        self.deadline = time.monotonic() + self.timeout if self.ready else self.started + IMPORT_TIMEOUT
        self._write()

    def interests(self) -> list[tuple[int, int]]:
        """What `select.poll` should wait for: answers, and room in the pipe while a row is being sent."""
        reading = [(self.answers, select.POLLIN)]
        return [*reading, (self.requests, select.POLLOUT)] if self.ready and self.outbox else reading

    def advance(self) -> list[list[Outcome]] | str | VerifierError | None:
        """Sends and reads what can be moved without waiting, and tells how far the rows are.

        Returns None while they are not done, (R, F) outcomes when they are judged, a string that says why they failed,
        or, where no row can be judged, an error that the caller is to raise.
        """
        self._write()
        message, ended = self._read()
        while message is not None:
            if isinstance(message, list):
                return message
            state, reason = message
            if state == "failed":
                return VerifierError(reason)
            if state == "unread":
                return str(reason)
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
            self.begun = True  # so that rows that take too long are not sent to a second child
            return f"timed out after {self.timeout:g} s"
        return VerifierError(
            f"importing the reward function {self._rewards()} took more than {IMPORT_TIMEOUT:g} s; "
            "move slow work from the module into the function"
        )

    def _write(self) -> None:
        """Sends as much of the row as the pipe takes, once the child is ready."""
        if not self.ready:
            return
        while self.outbox:
            try:
                self.outbox = self.outbox[os.write(self.requests, self.outbox) :]
            except BlockingIOError:
                return
            except BrokenPipeError:
                return  # the child has died; `advance` finds out how when the answers end

    def _read(self) -> tuple[Any | None, bool]:
        """Reads what has come: the next whole message, or None, and whether the child has closed its end."""
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
        """How the child ended: as the reason why its row failed, or, during the imports, as an error to raise."""
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
    """Ends all children. `owner`: the id of the process that made the pool; in any other nothing is done."""
    if os.getpid() == owner:  # a fork inherits the pool, but the children are not its own
        for worker in workers:
            worker.kill()


def function_name(name: str) -> str:
    """The bare name of the function that a reward's name, built-in or dotted path, stands for.

    Raises `ConfigError` for what cannot be the name of a reward, without importing anything.
    """
    if not isinstance(name, str):
        raise ConfigError(
            f"a reward of VerifierPool is a name or a dotted path, got {type(name).__name__}; "
            "RewardFunctions takes functions"
        )
    if "," in name:
        raise ConfigError(
            f"{name!r} names several verifiers; only ibtpo train takes them, weighed by reward_weights: name one"
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
