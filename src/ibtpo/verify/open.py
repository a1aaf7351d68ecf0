"""Makes the verifier of the trees from a user's `reward_funcs`, and from a verifier the functions that TRL calls."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..errors import ConfigError
from .outcome import TIMEOUT, WORKERS, RewardFunction
from .pool import VerifierPool
from .rewards import RewardFunctions
from .tags import ANSWER_TAGS, THINKING_TAGS


def open_verifier(
    reward_funcs: Any,
    *,
    weights: Sequence[float] | None = None,
    workers: int = WORKERS,
    timeout: float = TIMEOUT,
    extra: Mapping[str, Any] | None = None,
    thinking_tags: str = THINKING_TAGS,
    answer_tags: str = ANSWER_TAGS,
) -> VerifierPool | RewardFunctions:
    """Makes the verifier for one reward or several.

    reward_funcs: names ("math", "package.module:function"), which run in child processes with a deadline, or functions
        with TRL's reward signature, which are called in this process.
    weights: (F,) what each reward's value is multiplied with before the sum; 1 each by default.
    workers: the number of child processes, for rewards that are given by name.
    timeout: how many seconds one answer may take; for functions, how many one call may.
    extra: keyword arguments for every call of a function. Rewards given by name get none of them, because they run in
        another process.
    thinking_tags, answer_tags: pairs of tags that built-in verifiers know, for rewards that are given by name.

    Raises `ConfigError` when nothing is given, when names and functions are mixed, and as the two verifiers do.
    """
    if reward_funcs is None:
        raise ConfigError("reward_funcs is missing: give a function with TRL's reward signature, or a name like 'math'")
    several = isinstance(reward_funcs, Sequence) and not isinstance(reward_funcs, str)
    rewards = list(reward_funcs) if several else [reward_funcs]
    if all(isinstance(reward, str) for reward in rewards):
        tags = {"thinking_tags": thinking_tags, "answer_tags": answer_tags}
        return VerifierPool(rewards, weights=weights, workers=workers, timeout=timeout, **tags)
    if any(isinstance(reward, str) for reward in rewards):
        raise ConfigError(
            "reward_funcs mixes names and functions; give all as names ('package.module:function' for your own) or "
            "all as functions (e.g. `from ibtpo.verify.math import math_reward`)"
        )
    return RewardFunctions(rewards, weights=weights, timeout=timeout, extra=extra)


def reward_functions(verifier: VerifierPool | RewardFunctions) -> list[RewardFunction]:
    """The (F,) rewards of a verifier as functions with TRL's signature. TRL calls them itself, in evaluation only."""
    if isinstance(verifier, RewardFunctions):
        return list(verifier.funcs)
    return [_pool_function(verifier, i) for i in range(len(verifier.names))]


def _pool_function(pool: VerifierPool, index: int) -> Callable[..., list[float | None]]:
    """The pool's reward number `index` as a function with TRL's signature."""

    def reward(prompts: list[Any], completions: list[Any], **columns: Any) -> list[float | None]:
        columns.pop("environments", None)  # they cannot be sent to another process
        lists = {k: v for k, v in columns.items() if isinstance(v, list) and len(v) == len(prompts)}
        rows = [
            {**{k: v[i] for k, v in lists.items()}, "prompt": p, "completion": c}
            for i, (p, c) in enumerate(zip(prompts, completions, strict=True))
        ]
        return [v.per_function[index] for v in pool.score(rows)]

    reward.__name__ = pool.names[index]
    return reward
