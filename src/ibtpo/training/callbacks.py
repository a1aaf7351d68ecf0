"""Callbacks of a training run: they write `metrics.jsonl`, measure held-out accuracy, and save the last step."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState

from .._files import append, write_whole


class MetricsFile(TrainerCallback):
    """Appends each log of the trainer to a file, one JSON object a line, with null for NaN and infinities.

    A run that resumes from a checkpoint trains the steps after it once more, so their old rows are dropped first.

    path: the file, `metrics.jsonl` of a run folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Keeps only the rows up to the step that training starts from."""
        if state.is_world_process_zero and self.path.exists():
            kept = [line for line in _whole_lines(self.path) if json.loads(line)["step"] <= state.global_step]
            write_whole(self.path, "".join(line + "\n" for line in kept))

    def on_log(
        self, args: Any, state: TrainerState, control: TrainerControl, logs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Writes the logged numbers as one row, with the step they belong to."""
        if state.is_world_process_zero and logs:
            row = {"step": state.global_step, **{k: _plain(v) for k, v in logs.items()}}
            append(self.path, json.dumps(row) + "\n")


class AtStart(TrainerCallback):
    """Calls `measure` before the first step, when the model is where training has it: on its device, or spread.

    measure: evaluates the model as it is now.
    """

    def __init__(self, measure: Callable[[], None]) -> None:
        self.measure = measure

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Measures."""
        self.measure()


class EveryTokens(TrainerCallback):
    """Calls `measure` after each step that takes the generated tokens to or beyond a multiple of `every`.

    The last step is left out, because the trained model is measured anyway. Evaluation time is excluded from step
    times: the trainer's timer closes the step first, since callbacks run in the order they were added and the trainer
    adds its timer when it is made. So add this one to a finished trainer.

    trainer: an `IBTPOTrainer`, which counts the generated tokens and times its steps.
    every: generated tokens from one measurement to the next.
    measure: evaluates the model as it is now.
    """

    def __init__(self, trainer: Any, every: int, measure: Callable[[], None]) -> None:
        self.trainer, self.every, self.measure = trainer, every, measure
        self._reached = 0

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Starts from the tokens generated so far, so that a resumed run does not measure a second time."""
        self._reached = self.trainer.generated_tokens // self.every

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Measures if this step reached another multiple of `every`."""
        reached = self.trainer.generated_tokens // self.every
        if reached > self._reached and not control.should_training_stop:
            self.measure()
            self.trainer.timer.split()  # discards the time `measure` took: the next step must not include it
        self._reached = reached


class LastCheckpoint(TrainerCallback):
    """Saves a checkpoint at the end of a run, so that it can be prolonged without repeating steps.

    transformers does so where steps or epochs end a run, but not where something else does, such as the tokens. None
    is saved where `save_strategy` is not "steps". Callbacks run in the order they were added, so add this one after any
    that may stop the run.
    """

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Asks for a checkpoint if training stops here."""
        if control.should_training_stop and args.save_strategy == "steps":
            control.should_save = True


def _whole_lines(path: Path) -> list[str]:
    """The lines of a file that hold a complete row: a killed run may have left half a line at the end."""
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
    """The value, or None for NaN and infinities, which JSON does not have."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
