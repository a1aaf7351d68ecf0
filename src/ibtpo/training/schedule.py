"""Learning rates that fall over a run whose end is a number of generated tokens, not of steps."""

import math
from collections.abc import Callable

# From the share of the tokens that is spent, the share of the learning rate that is left.
TOKEN_SCHEDULES: dict[str, Callable[[float], float]] = {
    "linear": lambda spent: 1 - spent,
    "cosine": lambda spent: (1 + math.cos(math.pi * spent)) / 2,
}


def token_schedule(kind: str, limit: int, warm_up: int, spent: Callable[[], int]) -> Callable[[int], float]:
    """The factor of the learning rate as `torch.optim.lr_scheduler.LambdaLR` asks for it.

    kind: a name in `TOKEN_SCHEDULES`.
    limit: the tokens at which the run ends.
    warm_up: steps over which the rate rises first; 0 for none.
    spent: tells how many tokens were generated so far.

    Returns a function of the optimiser step.
    """

    def factor(step: int) -> float:
        return min(1.0, (step + 1) / max(1, warm_up)) * TOKEN_SCHEDULES[kind](min(1.0, spent() / limit))

    return factor
