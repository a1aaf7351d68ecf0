"""What a run does besides its steps: it writes `metrics.jsonl`, and measures held-out accuracy now and then."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState


class MetricsFile(TrainerCallback):
    """Appends each log to `metrics.jsonl`, one JSON object a line, NaN as null.

    A resumed run first drops the rows after the step it resumes from, so that every step stands there once.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Keeps the rows up to the step training starts from."""
        if state.is_world_process_zero and self.path.exists():
            kept = [line for line in _whole_lines(self.path) if json.loads(line)["step"] <= state.global_step]
            part = self.path.with_suffix(".part")
            part.write_text("".join(line + "\n" for line in kept))
            part.replace(self.path)

    def on_log(
        self, args: Any, state: TrainerState, control: TrainerControl, logs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Writes one row."""
        if state.is_world_process_zero and logs:
            row = {"step": state.global_step, **{k: _plain(v) for k, v in logs.items()}}
            with self.path.open("a") as f:
                f.write(json.dumps(row) + "\n")


class EveryTokens(TrainerCallback):
    """Calls `measure` after each step that takes the generated tokens to or beyond a multiple of `every`.

    Not after the last step, whose model is measured anyway. What it takes counts for no step's time. Add it after the
    trainer was made: its timer has to close the step first.
    """

    def __init__(self, trainer: Any, every: int, measure: Callable[[], None]) -> None:
        self.trainer, self.every, self.measure = trainer, every, measure
        self._reached = 0

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """A resumed run has measured what it had reached."""
        self._reached = self.trainer.generated_tokens // self.every

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Measures when it is time."""
        reached = self.trainer.generated_tokens // self.every
        if reached > self._reached and not control.should_training_stop:
            self.measure()
            self.trainer.timer.split()
        self._reached = reached


def _whole_lines(path: Path) -> list[str]:
    """Lines that hold a row; a killed run may have left half a line at the end."""
    lines = []
    for line in path.read_text(errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            lines.append(line)
    return lines


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
