"""Where the time of a training step goes: sampling, environments, verifying, credit, update, and the rest."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import TrainerCallback

PARTS = ("sampling", "environments", "verifying", "credit", "update")


class StepTimer:
    """Adds up the seconds that each part of one optimiser step takes.

    The parts are those of `PARTS` and what is left:

    sampling: inside the engine, that is, the model and the choice of tokens.
    environments: waiting for environments and tools; not logged where there are none.
    verifying: waiting for verdicts.
    credit: scores, places to branch, advantages and diagnostics.
    update: forward, backward, optimiser and reference model.
    other: everything else.

    The attribute `seconds` holds the parts of the step in progress; `trained` holds the seconds of all steps so far,
    which checkpoints keep.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.trained = 0.0
        self._begin = time.perf_counter()

    @contextmanager
    def measure(self, part: str, only_if: bool = True) -> Iterator[None]:
        """Adds the time of the block to `part`.

        part: one of `PARTS`.
        only_if: False leaves the block unmeasured, for a block that an enclosing `measure` counts already.
        """
        begin = time.perf_counter()
        try:
            yield
        finally:
            if only_if:
                self.seconds[part] += time.perf_counter() - begin

    @contextmanager
    def pause(self, part: str) -> Iterator[None]:
        """Takes the time of the block out of an enclosing `measure(part)`, for work that belongs to other parts."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[part] -= time.perf_counter() - begin

    def split(self) -> dict[str, float]:
        """Returns the seconds of each part since the last call, "other" and "total" among them, and starts anew."""
        now = time.perf_counter()
        total = now - self._begin
        parts = {part: self.seconds[part] for part in PARTS if part != "environments" or part in self.seconds}
        self.seconds.clear()
        self._begin = now
        return {**parts, "other": total - sum(parts.values()), "total": total}

    def callback(self, trainer: Any) -> TrainerCallback:
        """Makes a callback that times the optimiser and logs the seconds of each part of every step as `time/…`.

        trainer: the TRL trainer to whose metrics the seconds are added.
        """
        timer = self

        class _Times(TrainerCallback):
            def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
                timer.split()

            # The two hooks around the optimiser's step: together they add the time between them.
            def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
                timer.seconds["update"] -= time.perf_counter()

            def on_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
                timer.seconds["update"] += time.perf_counter()

            def on_step_end(self, *args: Any, **kwargs: Any) -> None:
                parts = timer.split()
                timer.trained += parts["total"]
                for part, seconds in parts.items():
                    trainer._metrics["train"][f"time/{part}"].append(seconds)

        return _Times()
