"""Number walks in turns: the model chooses the moves, and an environment computes where they lead.

It is the task of `walk`, with the same problems, texts and verifier. But the model writes only half of a step; its turn
ends with " = ", which is one token of the embedded model, and the environment writes the rest:

    model          +9 =
    environment    26.
    model          Done.

What the environment has written is given: it is no token of the model's, and is not trained on.
"""

import re
from collections.abc import Sequence
from typing import Any

from .walk import STEP_END, VALUES

_TURN = re.compile(r"([-+][0-9]{1,2}) = ")


# --8<-- [start:environment]
class WalkTurns:
    """The environment of one walk. docs/turns.md explains its methods."""

    stop_tokens = (" = ",)

    def __init__(self) -> None:
        self.value = 0
        self.moves: list[int] = []

    def reset(self, start: int, moves: Sequence[int], **row: Any) -> None:
        """Begins at a problem's start."""
        self.value, self.moves = start, list(moves)

    def respond(self, message: dict[str, Any]) -> str | None:
        """The value that the turn's move leads to, with the end of the step.

        None, which ends the answer, for a turn that is no move of the problem's or leads out of 0..99, and for a last
        turn such as "Done.".
        """
        found = _TURN.fullmatch(message["content"])
        if found is None or int(found[1]) not in self.moves or self.value + int(found[1]) not in VALUES:
            return None
        self.value += int(found[1])
        return f"{self.value}{STEP_END}"


# --8<-- [end:environment]
