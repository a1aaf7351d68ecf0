"""Verifiers: a completion in, a reward out. What goes wrong with one row becomes an error of that row's verdict.

`pool.VerifierPool` runs reward functions in child processes, with a deadline for each row. `rewards.RewardFunctions`
calls functions with TRL's reward signature in this process. Both give `Verdict`s.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

# The verifiers that can be named by one word, and the function each stands for.
BUILTIN = {
    "math": "ibtpo.verify.math:math_reward",
    "countdown": "ibtpo.verify.countdown:countdown_reward",
    "choice": "ibtpo.verify.choice:choice_reward",
    "walk": "ibtpo.verify.walk:walk_reward",
    "ifeval": "ibtpo.verify.ifeval:ifeval_reward",
    "environment": "ibtpo.verify.own:own_reward",
}

# The column of a row that holds the prompt as the model read it, where that is known: a chat template may have opened
# the thinking at its end. Reward functions are not given it.
PROMPT_TEXT = "ibtpo_prompt_text"

# The columns of a row of an answer with an environment: the environment after the last turn, which functions in this
# process get as TRL's `environments`, and what its `get_reward` said, a number or the reason why it failed.
ENVIRONMENT = "ibtpo_environment"
OWN_REWARD = "environment_reward"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a verifier says of one completion.

    reward: the weighted sum of the functions' values. It is None, never a silent zero, when the verifier failed or did
        not apply.
    per_function: (F,) each reward function's own value, None where it gave none. The first one decides raw correctness.
    error: why `reward` is None; None when there is a reward.
    logged: what reward functions logged of this completion with TRL's `log_extra`, by the name of the column.
    """

    reward: float | None
    per_function: tuple[float | None, ...]
    error: str | None = None
    logged: Mapping[str, Any] = field(default_factory=dict, compare=False)


class Verifier(Protocol):
    """What grades completions.

    names: (F,) names of its reward functions, in the order of `Verdict.per_function`.
    """

    names: tuple[str, ...]

    def score(self, rows: Sequence[dict[str, Any]]) -> list[Verdict]:
        """The verdicts on some rows, in order. A row's content never makes it raise: a failure is a `Verdict.error`.

        rows: (R,) dicts with `prompt`, `completion`, `completion_ids` and the problem's columns.
        """
        ...

    async def ascore(self, rows: Sequence[dict[str, Any]]) -> list[Verdict]:
        """The same as `score`, without blocking the event loop."""
        ...

    def close(self) -> None:
        """Stops the child processes or threads that scoring has started."""
        ...


def completion_text(completion: Any) -> str:
    """The text of a completion in either of TRL's forms.

    completion: a string, or a list of messages, of which the content of the model's last counts.
    """
    if isinstance(completion, str):
        return completion
    turns = [message for message in completion if message.get("role") in ("assistant", None)]
    content = turns[-1].get("content") if turns else ""
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content or ())
