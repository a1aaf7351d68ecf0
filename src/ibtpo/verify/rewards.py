"""`RewardFunctions`: Python reward functions with TRL's signature, called in this process.

They are for functions that cannot leave it, such as closures or a reward model on the GPU; functions that can be
imported by name are safer in `pool.VerifierPool`. The search scores each answer as soon as it ends, so that a call gets
one row and not a group: a function cannot compare the answers to a question. A function that hangs cannot be stopped
from inside the process. Its thread is left behind, and after three of them scoring ends with an error.
"""

import asyncio
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from .._text import describe
from ..errors import ConfigError, VerifierError
from . import Verdict
from .outcome import TIMEOUT, Outcome, RewardFunction, call, check_timeout, check_weights, combine, count, to_outcome

MAX_ABANDONED = 3  # hung calls that are left behind before scoring ends


class RewardFunctions:
    """A `Verifier` that calls functions with TRL's reward signature in this process.

    funcs: one function or several, `f(prompts=…, completions=…, completion_ids=…, **columns) -> list[float | None]`,
        plain or async.
    weights: (F,) what each function's value is multiplied with before the sum; 1 each by default.
    timeout: how many seconds one call of one function may take.
    extra: keyword arguments for every call, such as TRL's `trainer_state`, `log_extra` and `log_metric`.

    Calls are made one at a time, so functions need not be thread-safe. None or NaN from a function means that it does
    not apply, and is left out of the sum. A row is an error if no function gave it a value, or if one raised, hung, or
    gave anything else than a finite number.

    Raises `ConfigError` for a function that cannot be called and for an argument out of range. Scoring raises
    `VerifierError` once three calls have hung.
    """

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
        self._abandoned: list[str] = []
        self._turn = threading.Lock()
        self._device: int | None = None
        self._executor: ThreadPoolExecutor | None = None

    def score(self, rows: Sequence[dict[str, Any]]) -> list[Verdict]:
        """Judges (R,) rows, and returns (R,) verdicts in their order.

        rows: see `Verifier.score`.

        Raises `VerifierError` once three calls have hung.
        """
        return self._score(rows, _current_device())

    def _score(self, rows: Sequence[dict[str, Any]], device: int | None) -> list[Verdict]:
        """`score`, with the CUDA device of the thread that asked for it."""
        if not rows:
            return []
        with self._turn:
            self._device = device
            by_function = [self._column(func, name, rows) for func, name in zip(self.funcs, self.names, strict=True)]
        return [combine(outcomes, self.names, self.weights) for outcomes in zip(*by_function, strict=True)]

    async def ascore(self, rows: Sequence[dict[str, Any]]) -> list[Verdict]:
        """The same as `score`, without blocking the event loop."""
        if self._executor is None:
            self._executor = ThreadPoolExecutor(1, thread_name_prefix="ibtpo-rewards")
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._score, rows, _current_device())

    def close(self) -> None:
        """Ends the helper thread of `ascore`."""
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)
            self._executor = None

    def __enter__(self) -> "RewardFunctions":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _column(self, func: RewardFunction, name: str, rows: Sequence[dict[str, Any]]) -> list["Outcome"]:
        """The (R,) outcomes of one function, one for each row."""
        values, error = self._timed(func, name, rows)
        if error is None and len(values) == len(rows):
            return [to_outcome(value) for value in values]
        if error is not None:
            return [(None, error)] * len(rows)
        wrong_length = f"returned {count(len(values), 'value')} for {count(len(rows), 'row')}"
        if len(rows) == 1:
            return [(None, wrong_length)]
        outcomes: list[Outcome] = []
        for row in rows:  # a function that leaves out rows of a list may still judge each of them alone
            values, error = self._timed(func, name, [row])
            outcomes.append(
                to_outcome(values[0]) if error is None and len(values) == 1 else (None, error or wrong_length)
            )
        return outcomes

    def _timed(self, func: RewardFunction, name: str, rows: Sequence[dict[str, Any]]) -> tuple[list[Any], str | None]:
        """Calls a function with a time limit: returns (its values, None), or ([], what went wrong)."""
        if len(self._abandoned) >= MAX_ABANDONED:
            raise VerifierError(
                f"{len(self._abandoned)} reward calls hung for {self.timeout:g} s each and were left behind "
                f"({', '.join(self._abandoned)}); raise timeout={self.timeout:g}, or move the function into a module "
                "and use VerifierPool('module:function'), whose processes can be stopped"
            )
        result: list[tuple[list[Any], str | None]] = []

        def run() -> None:
            try:
                if self._device is not None:  # a new thread starts on CUDA device 0, not on its parent's
                    sys.modules["torch"].cuda.set_device(self._device)
                result.append((call(func, rows, self.extra), None))
            except BaseException as error:  # a SystemExit of user code must not vanish with the thread
                result.append(([], describe(error)))

        thread = threading.Thread(target=run, name=f"ibtpo-reward-{name}", daemon=True)
        started = time.monotonic()
        thread.start()
        thread.join(self.timeout)
        if not result:
            self._abandoned.append(name)
            return [], f"timed out after {time.monotonic() - started:.3g} s"
        return result[0]


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
