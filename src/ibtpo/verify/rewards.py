"""`RewardFunctions`: Python reward functions with TRL's signature, called in this process.

They are for functions that cannot leave it, such as closures or a reward model on the GPU; functions that can be
imported by name are safer in `pool.VerifierPool`. A call gets all answers that are ready when the one before has
returned: any number of them, from any questions. Async functions run together, in one event loop for all calls, so that
a client of a remote judge may be kept from call to call. A plain function that hangs cannot be stopped from inside the
process. Its thread is left behind, and after three of them scoring ends with an error.
"""

import asyncio
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from .._text import describe
from ..errors import ConfigError, VerifierError
from . import Verdict
from .outcome import (
    TIMEOUT,
    Outcome,
    RewardFunction,
    acall,
    call,
    check_timeout,
    check_weights,
    combine,
    count,
    is_async,
    to_outcome,
)

ASYNC_CALLS = 32  # calls under way at once where all functions are async
MAX_ABANDONED = 3  # hung calls that are left behind before scoring ends

_Returned = tuple[list[Any], str | None]  # what a call gave, and what went wrong
_Logged = list[dict[str, Any]]  # (R,) what was logged of each row, by column


class RewardFunctions:
    """A `Verifier` that calls functions with TRL's reward signature in this process.

    funcs: one function or several, `f(prompts=…, completions=…, completion_ids=…, **columns) -> list[float | None]`,
        plain or async.
    weights: (F,) what each function's value is multiplied with before the sum; 1 each by default.
    timeout: how many seconds a function may take for one row; a call with R rows may take R times as long.
    extra: keyword arguments for every call, such as TRL's `trainer_state`, `log_extra` and `log_metric`. What is logged
        with `log_extra` goes to `Verdict.logged` instead, since calls do not come in the order of TRL's rows. A value
        for `log_metric` is handed on once a row, so that its mean does not depend on how rows were divided into calls.

    Calls of plain functions are made one at a time, so they need not be thread-safe; where all functions are async,
    calls run side by side. None or NaN from a function means
    that it does not apply, and is left out of the sum. A row is an error if no function gave it a value, or if one
    raised, hung, or gave anything else than a finite number. When a call with several rows raises, each is tried alone,
    and those that can be judged are judged together.

    The attribute `waits` says whether a function is async, and so most likely waits for something outside.

    Raises `ConfigError` for a function that cannot be called and for an argument out of range. Scoring raises
    `VerifierError` once three calls have hung.
    """

    may_compare = True  # a function may be one that compares answers
    takes_all = True  # functions get all answers in one call where no rule waits for their values

    def __init__(
        self,
        funcs: RewardFunction | Sequence[RewardFunction],
        *,
        weights: Sequence[float] | None = None,
        timeout: float = TIMEOUT,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        self.funcs = tuple(funcs) if isinstance(funcs, Sequence) and not isinstance(funcs, str) else (funcs,)
        for func in self.funcs:
            _check_callable(func)
        self.names = tuple(getattr(func, "__name__", type(func).__name__) for func in self.funcs)
        self.weights = check_weights(weights, self.names)
        self.timeout = check_timeout(timeout)
        self.extra = dict(extra or {})
        self.waits = any(is_async(func) for func in self.funcs)
        self._plain = not all(is_async(func) for func in self.funcs)
        self._abandoned: list[str] = []
        self._turn = threading.Lock()
        self._device: int | None = None
        self._executor: ThreadPoolExecutor | None = None
        self._loop: asyncio.AbstractEventLoop | None = None  # runs the async functions, in a thread of its own
        self._ready: list[tuple[Sequence[dict[str, Any]], Future[list[Verdict]]]] = []  # calls of `ascore` that wait
        self._ready_lock = threading.Lock()

    def score(self, rows: Sequence[dict[str, Any]]) -> list[Verdict]:
        """Judges (R,) rows, and returns (R,) verdicts in their order.

        rows: see `Verifier.score`.

        Raises `VerifierError` once three calls have hung.
        """
        return self._score(rows, _current_device())

    def score_together(self, rows: Sequence[dict[str, Any]]) -> list[Verdict]:
        """Judges (R,) rows as `score` does, but drops what the functions log: to see what they say to these rows."""
        kept, self.extra = self.extra, {**self.extra, "log_metric": lambda name, value: None}
        try:
            return self.score(rows)
        finally:
            self.extra = kept

    def _score(self, rows: Sequence[dict[str, Any]], device: int | None) -> list[Verdict]:
        """`score`, with the CUDA device of the thread that asked for it."""
        if not rows:
            return []
        logged: _Logged = [{} for _ in rows]
        with self._turn if self._plain else nullcontext():
            self._device = device
            functions = list(zip(self.funcs, self.names, strict=True))
            # Async calls begin first, all at once, and go on while plain functions are called one after the other.
            begun = {i: self._begin(func, rows, logged) for i, (func, _) in enumerate(functions) if is_async(func)}
            by_function = [self._column(f, name, rows, logged, begun.get(i)) for i, (f, name) in enumerate(functions)]
        verdicts = [combine(outcomes, self.names, self.weights) for outcomes in zip(*by_function, strict=True)]
        return [replace(verdict, logged=row) if row else verdict for verdict, row in zip(verdicts, logged, strict=True)]

    async def ascore(self, rows: Sequence[dict[str, Any]]) -> list[Verdict]:
        """The same as `score`, without blocking the event loop; rows of calls that wait are judged together."""
        if self._executor is None:
            self._executor = ThreadPoolExecutor(1 if self._plain else ASYNC_CALLS, thread_name_prefix="ibtpo-rewards")
        verdicts: Future[list[Verdict]] = Future()
        with self._ready_lock:
            self._ready.append((rows, verdicts))
        self._executor.submit(self._score_ready, _current_device())
        return await asyncio.wrap_future(verdicts)

    def _score_ready(self, device: int | None) -> None:
        """Judges the rows of all calls of `ascore` that wait by now, in one call; none if they are judged already."""
        with self._ready_lock:
            waiting, self._ready = self._ready, []
        waiting = [(rows, future) for rows, future in waiting if future.set_running_or_notify_cancel()]
        try:
            verdicts = iter(self._score([row for rows, _ in waiting for row in rows], device))
        except BaseException as error:
            for _, future in waiting:
                future.set_exception(error)
            return
        for rows, future in waiting:
            future.set_result([next(verdicts) for _ in rows])

    def close(self) -> None:
        """Ends the helper threads of `ascore` and of async functions."""
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)
            self._executor = None
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._loop = None

    def __enter__(self) -> "RewardFunctions":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _column(
        self,
        func: RewardFunction,
        name: str,
        rows: Sequence[dict[str, Any]],
        logged: _Logged,
        begun: "Future[list[Any]] | None",
    ) -> list[Outcome]:
        """The (R,) outcomes of one function, one for each row.

        logged: (R,) where what it logs of each row goes.
        begun: its call with all rows, if that is under way.
        """
        values, error = self._call(func, name, rows, logged, begun)
        if error is None and len(values) == len(rows):
            return [to_outcome(value) for value in values]
        reason = error or f"returned {count(len(values), 'value')} for {count(len(rows), 'row')}"
        if len(rows) == 1 or reason.startswith("timed out"):
            return [(None, reason)] * len(rows)
        outcomes: list[Outcome] = []
        for row, log in zip(rows, logged, strict=True):
            one, failure = self._call(func, name, [row], [log])
            outcomes.append(to_outcome(one[0]) if failure is None and len(one) == 1 else (None, failure or reason))
        good = [i for i, (_, failure) in enumerate(outcomes) if failure is None]
        if len(good) > 1:  # together again, since a function may compare the answers that it gets
            values, error = self._call(func, name, [rows[i] for i in good], [logged[i] for i in good])
            if error is not None or len(values) == len(good):
                again = [to_outcome(value) for value in values] or [(None, error)] * len(good)
                for i, outcome in zip(good, again, strict=True):
                    outcomes[i] = outcome
        return outcomes

    def _call(
        self,
        func: RewardFunction,
        name: str,
        rows: Sequence[dict[str, Any]],
        logged: _Logged,
        begun: "Future[list[Any]] | None" = None,
    ) -> _Returned:
        """Calls a function with a time limit: returns (its values, None), or ([], what went wrong)."""
        limit = self.timeout * len(rows)
        started = time.monotonic()
        if is_async(func):
            future = begun or self._begin(func, rows, logged)
            try:
                return future.result(limit + 1), None  # it ends by itself at the limit, unless it blocks its loop
            except TimeoutError:
                if not future.done():
                    self._abandoned.append(name)
                    self._loop = None  # the next call gets a loop of its own
                return [], f"timed out after {time.monotonic() - started:.3g} s"
            except BaseException as error:
                return [], describe(error)
        self._check_abandoned()
        result: list[_Returned] = []

        def run() -> None:
            try:
                if self._device is not None:  # a new thread starts on CUDA device 0, not on its parent's
                    sys.modules["torch"].cuda.set_device(self._device)
                result.append((call(func, rows, self._arguments(logged)), None))
            except BaseException as error:  # a SystemExit of user code must not vanish with the thread
                result.append(([], describe(error)))

        thread = threading.Thread(target=run, name=f"ibtpo-reward-{name}", daemon=True)
        thread.start()
        thread.join(limit)
        if not result:
            self._abandoned.append(name)
            return [], f"timed out after {time.monotonic() - started:.3g} s"
        return result[0]

    def _begin(self, func: RewardFunction, rows: Sequence[dict[str, Any]], logged: _Logged) -> "Future[list[Any]]":
        """Begins the call of an async function, which ends at its time limit by itself."""
        self._check_abandoned()
        with self._ready_lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="ibtpo-async-rewards", daemon=True).start()
            loop = self._loop
        work = acall(func, rows, self._arguments(logged))
        return asyncio.run_coroutine_threadsafe(asyncio.wait_for(work, self.timeout * len(rows)), loop)

    def _check_abandoned(self) -> None:
        """Raises `VerifierError` once too many calls have hung."""
        if len(self._abandoned) >= MAX_ABANDONED:
            raise VerifierError(
                f"{len(self._abandoned)} reward calls hung for more than {self.timeout:g} s an answer and were left "
                f"behind ({', '.join(self._abandoned)}); raise timeout={self.timeout:g}, or move the function into a "
                "module and use VerifierPool('module:function'), whose processes can be stopped"
            )

    def _arguments(self, logged: _Logged) -> dict[str, Any]:
        """The extra keyword arguments of one call, whose rows' logs are kept in `logged`."""

        def log_extra(column: str, values: Sequence[Any]) -> None:
            if len(values) != len(logged):
                raise ValueError(f"log_extra({column!r}): {len(values)} values for {count(len(logged), 'answer')}")
            for row, value in zip(logged, values, strict=True):
                row[column] = value

        def log_metric(name: str, value: float) -> None:
            for _ in logged:
                self.extra["log_metric"](name, value)

        ours: dict[str, Callable[..., None]] = {"log_extra": log_extra, "log_metric": log_metric}
        return {key: ours.get(key, value) for key, value in self.extra.items()}


def _current_device() -> int | None:
    """The CUDA device of this thread, or None where CUDA is not in use."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    return int(torch.cuda.current_device())


def _check_callable(func: Any) -> None:
    """Raises `ConfigError` unless `func` can be called as a reward function."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(func, torch.nn.Module):
        raise ConfigError(
            f"{type(func).__name__} is a model, not a reward function; wrap it in a function that tokenizes prompts "
            "and completions and returns one float a row"
        )
    if isinstance(func, str):
        raise ConfigError(f"{func!r} is a name; names are for VerifierPool({func!r}), or pass the function itself")
    if not callable(func):
        raise ConfigError(f"a reward function must be callable, got {type(func).__name__}")
