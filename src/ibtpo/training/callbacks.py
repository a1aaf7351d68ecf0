"""What a run leaves behind and shows while it goes on: `metrics.jsonl` and the progress display."""

import json
import math
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
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


class ProgressDisplay(TrainerCallback):
    """A bar on a terminal, one plain line a step elsewhere.

    total: the run's budget in generated tokens, or None to count steps.
    """

    def __init__(self, console: Console, total: int | None) -> None:
        self.console = console
        self.total = total
        self.began = 0.0
        self.tokens_at_start: float | None = None
        self.bar: Progress | None = None
        self.task: Any = None

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Starts the clock and, on a terminal, the bar."""
        self.began = time.perf_counter()
        if self.console.is_terminal and state.is_world_process_zero:
            self.bar = Progress(
                TextColumn("[bold]step {task.fields[step]}"),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[line]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=self.console,
            )
            self.task = self.bar.add_task("train", total=self.total or state.max_steps, step=state.global_step, line="")
            self.bar.start()

    def on_log(
        self, args: Any, state: TrainerState, control: TrainerControl, logs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Shows the step just logged."""
        if not state.is_world_process_zero or not logs or "ibtpo/generated_tokens" not in logs:
            return
        tokens = logs["ibtpo/generated_tokens_total"]
        if self.tokens_at_start is None:
            self.tokens_at_start = tokens - logs["ibtpo/generated_tokens"]
        speed = (tokens - self.tokens_at_start) / (time.perf_counter() - self.began)
        line = (
            f"{logs['ibtpo/trajectories']:.0f} traj  {tokens / 1e3:.0f}k tokens  {speed:,.0f} tok/s  "
            f"Eff-Rate {logs['ibtpo/eff_rate']:.2f}  IB-Score {logs['ibtpo/ib_score']:+.2f}  "
            f"accuracy {logs['ibtpo/avg_rate']:.2f}"
        )
        if self.bar is None:
            self.console.print(f"step {state.global_step:>4}  {line}", highlight=False, soft_wrap=True)
        else:
            self.bar.update(
                self.task, completed=tokens if self.total else state.global_step, step=state.global_step, line=line
            )

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Ends the bar."""
        self.stop()

    def stop(self) -> None:
        """Leaves the terminal as it was; may be called twice."""
        if self.bar is not None:
            self.bar.stop()
