"""From what a reward function returns to a number or a reason, and from several of those to one verdict."""

import asyncio
import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .._options import OPTIONS
from .._text import describe, short
from ..errors import ConfigError
from ..tree import MOST_REWARD
from . import ENVIRONMENT, PROMPT_TEXT, Verdict

# What every verifier has where nothing else is given.
TIMEOUT: float = OPTIONS["verifier_timeout"].default  # seconds a row
WORKERS: int = OPTIONS["verifier_workers"].default  # child processes

RewardFunction = Callable[..., Any]
# One function's value for one row, and why there is none. (None, None): the function did not apply.
Outcome = tuple[float | None, str | None]


# The arguments that TRL gives a reward function besides the data set's columns. A column of such a name is left out.
ARGUMENTS = ("prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric", "environments")


def call(func: RewardFunction, rows: Sequence[Mapping[str, Any]], extra: Mapping[str, Any] | None = None) -> list[Any]:
    """Calls a reward function as TRL does: with a list for each column, and plural names for prompts and completions.

    func: a function with TRL's reward signature, plain or async.
    rows: (R,) dicts with `completion` and any other columns. A column that a row lacks is None there; one that has the
        name of an argument (`ARGUMENTS`) is left out.
    extra: more keyword arguments for the function.

    Returns what the function returned, as a list. Its length is not checked.

    Raises `TypeError` if the result is not a sequence, and whatever the function raises.
    """
    result = func(**_arguments(rows, extra))
    return _as_list(asyncio.run(_finish(result)) if inspect.isawaitable(result) else result)


async def acall(func: RewardFunction, rows: Sequence[Mapping[str, Any]], extra: Mapping[str, Any]) -> list[Any]:
    """The same as `call` for an async function, inside the running event loop."""
    return _as_list(await func(**_arguments(rows, extra)))


def is_async(func: RewardFunction) -> bool:
    """Whether calling `func` gives a coroutine: an async function, a partial of one, or an object that is called so."""
    while isinstance(func, functools.partial):
        func = func.func
    return inspect.iscoroutinefunction(func) or inspect.iscoroutinefunction(getattr(func, "__call__", None))  # noqa: B004


def _arguments(rows: Sequence[Mapping[str, Any]], extra: Mapping[str, Any] | None) -> dict[str, Any]:
    """The keyword arguments of a reward function for some rows."""
    columns = {key for row in rows for key in row} - {"prompt", "completion", PROMPT_TEXT, ENVIRONMENT, *ARGUMENTS}
    environments = any(ENVIRONMENT in row for row in rows)
    return {
        **({"environments": [row.get(ENVIRONMENT) for row in rows]} if environments else {}),
        **{key: [row.get(key) for row in rows] for key in sorted(columns)},
        "prompts": [row.get("prompt") for row in rows],
        "completions": [row["completion"] for row in rows],
        "completion_ids": [row.get("completion_ids") for row in rows],
        **(extra or {}),
    }


def _as_list(result: Any) -> list[Any]:
    """What a reward function returned, as a list. Raises `TypeError` if it is not a sequence."""
    if isinstance(result, str | bytes | Mapping) or not hasattr(result, "__len__") or not hasattr(result, "__iter__"):
        raise TypeError(f"returned {type(result).__name__}, expected a list with one number or None a row")
    return list(result)


async def _finish(awaitable: Any) -> Any:
    """Any awaitable as a coroutine, which is all that `asyncio.run` takes."""
    return await awaitable


def to_outcome(value: Any) -> Outcome:
    """What a function returned for one row, as a float or the reason why it cannot be a reward.

    None says that the function did not apply. NaN says the same, as in TRL: it passes here, and `combine` drops it.
    """
    if value is None:
        return None, None
    if isinstance(value, str | bytes) or not hasattr(value, "__float__"):
        return None, f"returned {type(value).__name__} {short(value)}, expected a number or None"
    try:
        number = float(value)
    except Exception as error:
        return None, f"returned {short(value)}, not a number: {describe(error)}"
    if math.isinf(number):
        return None, f"returned {number}, expected a finite number"
    if abs(number) > MOST_REWARD:
        return None, f"returned {number:g}, expected a number within ±{MOST_REWARD:g}"
    return number, None


def combine(outcomes: Sequence[Outcome], names: Sequence[str], weights: Sequence[float]) -> Verdict:
    """The verdict on one row: the weighted sum over the functions that gave a value, or why there is none.

    A function that failed fails the row, because a sum without it would be a silently wrong reward. A row for which no
    function gave a value fails too.

    outcomes: (F,) what each function said of the row.
    names: (F,) the functions' names, for the reason.
    weights: (F,) what each value is multiplied with before the sum.
    """
    failures = [f"{name}: {error}" for name, (_, error) in zip(names, outcomes, strict=True) if error is not None]
    values = tuple(None if value is None or math.isnan(value) else value for value, _ in outcomes)
    if not failures and all(value is None for value in values):
        failures = [f"{name}: returned {value}" for name, (value, _) in zip(names, outcomes, strict=True)]
    if failures:
        return Verdict(None, values, "; ".join(failures))
    total = sum(weight * value for weight, value in zip(weights, values, strict=True) if value is not None)
    return Verdict(float(total), values)


def check_weights(weights: Sequence[float] | None, names: Sequence[str]) -> tuple[float, ...]:
    """The (F,) weights of reward functions, 1 each where none are given.

    weights: what each function's value is multiplied with, or None.
    names: (F,) the functions' names.

    Raises `ConfigError` when there is no function, not one weight a function, or a weight that is not finite.
    """
    if not names:
        raise ConfigError("no reward function given; name at least one")
    if weights is None:
        return (1.0,) * len(names)
    if len(weights) != len(names):
        raise ConfigError(
            f"{count(len(weights), 'weight')} for {count(len(names), 'reward function')} ({', '.join(names)}); "
            "give one weight a function"
        )
    for weight, name in zip(weights, names, strict=True):
        if not hasattr(weight, "__float__") or not math.isfinite(weight):
            raise ConfigError(f"the weight of reward function {name!r} must be a finite number, got {weight!r}")
    return tuple(float(weight) for weight in weights)


def check_timeout(timeout: float) -> float:
    """`timeout` as a float. Raises `ConfigError` unless it is a positive number of seconds."""
    if not 0 < timeout < math.inf:
        raise ConfigError(f"timeout must be a positive number of seconds, got {timeout}")
    return float(timeout)


def count(number: int, noun: str) -> str:
    """A number with its noun, such as `1 row` or `8 rows`."""
    return f"{number} {noun}" + ("" if number == 1 else "s")
