"""The environment's own reward as a verifier by name: what its `get_reward` said of the answer (docs/turns.md)."""

from typing import Any


def own_reward(completions: list[Any], environment_reward: list[Any] | None = None, **columns: Any) -> list[Any]:
    """The (R,) rewards that the environments of R answers gave; TRL's reward signature.

    Raises `ValueError` where there is no environment, or it gives no reward.
    """
    if environment_reward is None:
        raise ValueError("the answers have no environment with get_reward; name another verifier, or an environment")
    return environment_reward
