"""Verifiers: a completion in, a reward out, computed where a crash or a hang cannot hurt the run.

`pool.VerifierPool` runs a reward function in child processes with a deadline a row; `rewards.RewardFunctions` calls
functions with TRL's reward signature in this process. Both give `Verdict`s.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

# The verifiers that can be named by one word, and the function each stands for.
BUILTIN = {
    "math": "ibtpo.verify.math:math_reward",
    "countdown": "ibtpo.verify.countdown:countdown_reward",
    "choice": "ibtpo.verify.choice:choice_reward",
    "walk": "ibtpo.verify.walk:walk_reward",
    "ifeval": "ibtpo.verify.ifeval:ifeval_reward",
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a verifier says of one completion.

    reward: the (weighted) reward, or None when the verifier failed or did not apply: never a silent zero.
    per_function: (F,) each reward function's own value, None where it gave none. The first one decides
        raw correctness.
    error: why `reward` is None, or None.
    """

    reward: float | None
    per_function: tuple[float | None, ...]
    error: str | None = None


class Verifier(Protocol):
    """Scores rows; a row is a dict with `prompt`, `completion`, `completion_ids` and the problem's columns."""

    names: tuple[str, ...]

    def score(self, rows: Sequence[dict[str, Any]]) -> list[Verdict]:
        """(R,) one verdict a row, in order. Never raises for a row's content: a failure is a `Verdict.error`."""
        ...

    async def ascore(self, rows: Sequence[dict[str, Any]]) -> list[Verdict]:
        """The same, without blocking the event loop."""
        ...

    def close(self) -> None:
        """Stops child processes."""
        ...


def completion_text(completion: Any) -> str:
    """The text of a completion in either of TRL's forms: a string, or messages (the last one's content)."""
    if isinstance(completion, str):
        return completion
    content = completion[-1]["content"] if completion else ""
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content or ())
