"""What `ibtpo train` shows while it trains: a screen that is redrawn in place on a terminal, else a line a step."""

import math
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text
from transformers import TrainerCallback, TrainerControl, TrainerState

from .._text import percent
from ..storage.run_folder import RunFolder
from .timing import PARTS

WINDOW = 40  # the last steps, which the screen shows in sparklines and shares of time
BARS = "▁▂▃▄▅▆▇█"
LEAST_WIDTH, MOST_WIDTH = 40, 120  # of the screen, in characters

# The metric, its name on the screen, the format of its value, and what it says (shown if the terminal is wide enough).
ROWS = (
    ("ibtpo/policy_rate", "accuracy", "{:.2f}", "first answers that are right"),
    ("ibtpo/eff_rate", "Eff-Rate", "{:.2f}", "questions whose answers differ"),
    ("ibtpo/ib_score", "IB-Score", "{:+.2f}", "of steps to branch at"),
    ("ibtpo/cov_eta", "Cov(η1,η2)", "{:+.4f}", "above 0: confidence follows correctness"),
    ("ibtpo/entropy", "entropy", "{:.2f}", "nats a token"),
    ("ibtpo/truncated", "truncated", "{:.2f}", "answers cut by the length limit"),
)
NO_SIGNAL_STEPS = 5  # the screen warns once so many steps in a row had no question whose answers differ
# Rounding explains a gap up to this between the engine's and the trainer's log-prob of a token; a larger one means that
# they disagree about the model.
MOST_GAP = {"float32": 1e-3, "half": 0.1}


class LiveScreen(TrainerCallback):
    """Shows a run: a screen if `console` is a terminal, one line a step if it is not, nothing if it is quiet.

    When `stop` is called at the end of the run, a summary of its last state takes the place of the screen. The
    attribute `held_out` is a text about the accuracy before training, which the screen shows: by default what the run
    folder holds; set it at any time.

    console: where to write.
    total: the run's budget in generated tokens, of which the progress bar shows the share that is spent; by
        default the configuration's. Steps are counted in a run that has none.
    """

    def __init__(self, console: Console, total: int | None = None) -> None:
        self.console = console
        self.total = total
        self.held_out = ""
        self.checkpoint = ""
        self.logs: deque[dict[str, Any]] = deque(maxlen=WINDOW)
        self.warnings: dict[str, str] = {}
        self._live: Live | None = None
        self._screen = console.is_terminal and not console.is_dumb_terminal and not console.quiet
        self._began = time.perf_counter()
        self._tokens_at_start: float | None = None
        self._steps_at_start = self._step = self._steps = 0
        self._errors = self._answers = 0.0
        self._without_signal = 0

    # --- what happens in the run -------------------------------------------------------------------------------

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Starts the clock and, on a terminal, the screen."""
        self._began = time.perf_counter()
        self._step = self._steps_at_start = state.global_step
        self._steps = state.max_steps
        self.total = self.total or getattr(args, "max_generated_tokens", None)
        run_dir = getattr(args, "run_dir", None)
        before = RunFolder(run_dir).read_eval().get("before") if run_dir else None
        if before and not self.held_out:
            self.held_out = f"{percent(before['avg'], before['avg_ci'])} before training"
        if state.is_world_process_zero and self._screen:
            # Rich redraws the screen once a second and clears it at the end. What a run prints appears above it.
            self._live = Live(get_renderable=self.screen, console=self.console, refresh_per_second=1, transient=True)
            self._live.start()

    def on_log(
        self, args: Any, state: TrainerState, control: TrainerControl, logs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Adds the step just logged to what the screen shows, or prints its line."""
        if not state.is_world_process_zero or not logs or "ibtpo/generated_tokens" not in logs:
            return
        self._step = state.global_step
        if self._tokens_at_start is None:
            self._tokens_at_start = logs["ibtpo/generated_tokens_total"] - logs["ibtpo/generated_tokens"]
        self.logs.append(logs)
        self._watch(logs, MOST_GAP["half" if args.bf16 or args.fp16 else "float32"])
        if not self._screen:
            self.console.print(f"step {self._step:>4}  {self._line(logs)}", highlight=False, soft_wrap=True)

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Remembers the checkpoint just saved, in order to show its name."""
        self.checkpoint = f"checkpoint-{state.global_step}"

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Replaces the screen by the summary."""
        self.stop()

    def stop(self) -> None:
        """Clears the screen and prints a summary in its place. A second call does nothing."""
        if self._live is not None:
            live, self._live = self._live, None
            live.stop()
            self.console.print(self.summary(), highlight=False, soft_wrap=True)

    def _watch(self, logs: dict[str, Any], most_gap: float) -> None:
        """Brings the warnings up to date: unverified answers, engine and trainer apart, steps without a signal."""
        self._errors += logs.get("ibtpo/verifier_errors") or 0
        self._answers += logs["ibtpo/trajectories"]
        if self._errors:
            share = 100 * self._errors / self._answers
            self.warnings["verifier"] = f"{self._errors:.0f} answers could not be verified ({share:.1f} %)"
        gap = logs.get("sampling/logp_gap_max")
        if gap is not None and gap > most_gap:
            self.warnings["gap"] = f"engine and trainer disagree: log-prob gap {gap:.2g} at step {self._step}"
        self._without_signal = self._without_signal + 1 if logs.get("ibtpo/eff_rate") == 0 else 0
        self.warnings.pop("signal", None)
        if self._without_signal >= NO_SIGNAL_STEPS:
            self.warnings["signal"] = f"Eff-Rate 0 for {self._without_signal} steps: no question carries a signal"

    # --- what is shown of it -----------------------------------------------------------------------------------

    def screen(self) -> RenderableType:
        """The whole screen as it is now, at most 16 lines."""
        width = max(LEAST_WIDTH, min(self.console.width, MOST_WIDTH) - 1)
        lines: list[RenderableType] = [self._progress(width)]
        if not self.logs:
            return Group(*lines, Text("the first step is on its way", style="dim"))
        lines += [Text(), self._metrics(width), Text()]
        facts = [("time", self._times()), ("held-out", self.held_out), ("saved", self.checkpoint)]
        for name, text in facts:
            if text:
                lines.append(Text.assemble((f"{name:<11}", "dim"), _cut(text, width - 11)))
        lines += [Text(_cut(f"! {text}", width), style="yellow") for text in self.warnings.values()]
        return Group(*lines)

    def summary(self) -> str:
        """The numbers of the last step in one line, and each warning in a line of its own."""
        if not self.logs:
            return "no step was finished"
        lines = [f"step {self._step}  {self._line(self.logs[-1])}", *(f"! {text}" for text in self.warnings.values())]
        if self.checkpoint:
            lines[0] += f"  {self.checkpoint}"
        return "\n".join(lines)

    def _line(self, logs: dict[str, Any]) -> str:
        """The most important numbers of one step, in one line."""
        tokens = logs["ibtpo/generated_tokens_total"]
        return (
            f"{logs['ibtpo/trajectories']:.0f} traj  {tokens / 1e3:.0f}k tokens  {self._speed():,.0f} tok/s  "
            f"Eff-Rate {_number(logs, 'ibtpo/eff_rate', '{:.2f}')}  "
            f"IB-Score {_number(logs, 'ibtpo/ib_score', '{:+.2f}')}  "
            f"accuracy {_number(logs, 'ibtpo/policy_rate', '{:.2f}')}"
        )

    def _speed(self) -> float:
        """Generated tokens a second since training began in this process; evaluations on the way count as time."""
        tokens = self.logs[-1]["ibtpo/generated_tokens_total"] - (self._tokens_at_start or 0)
        return tokens / max(time.perf_counter() - self._began, 1e-9)

    def _progress(self, width: int) -> RenderableType:
        """The line with the step, a bar for the share of the budget that is spent, the time left and the speed."""
        done: float = self._step
        total: float = self._steps
        since: float = self._steps_at_start
        amount = f"of {self._steps}"
        if self.total:
            done = self.logs[-1]["ibtpo/generated_tokens_total"] if self.logs else 0
            total, since = self.total, self._tokens_at_start or 0
            amount = f"{done / 1e3:.0f}k/{total / 1e3:.0f}k tokens"
        elapsed = time.perf_counter() - self._began
        left = elapsed * (total - done) / (done - since) if self.logs and done > since else math.nan
        after = f"{amount}  {_clock(max(left, 0))} left" + (f"  {self._speed():,.0f} tok/s" if self.logs else "")
        before = f"step {self._step}"
        grid = Table.grid(padding=(0, 1))
        bar = ProgressBar(
            total=max(total, 1), completed=min(done, total), width=max(8, width - len(before + after) - 2)
        )
        grid.add_row(Text(before), bar, Text(after))
        return grid

    def _metrics(self, width: int) -> RenderableType:
        # Names and values need 22 characters with the gaps. If there is too little room for the rest, the explanations
        # are left out first, then the sparklines show fewer steps.
        spark = min(WINDOW, max(8, width - 22))
        grid = Table.grid(padding=(0, 1))
        for name, title, form, meaning in ROWS:
            known = [row.get(name) for row in self.logs]
            cells = [Text(f"{title:<10}", style="dim"), Text(f"{_number(self.logs[-1], name, form):>8}", style="bold")]
            cells.append(Text(f"{sparkline(known, spark):<{spark}}", style="cyan"))
            if width >= 22 + spark + max(len(row[3]) for row in ROWS):
                cells.append(Text(meaning, style="dim"))
            grid.add_row(*cells)
        return grid

    def _times(self) -> str:
        """The share of each part in the time of the steps shown, largest first, without those below half a percent."""
        seconds = {part: math.fsum(row.get(f"time/{part}") or 0 for row in self.logs) for part in (*PARTS, "other")}
        total = math.fsum(seconds.values())
        shares = sorted(seconds.items(), key=lambda item: -item[1])
        return (
            "  ".join(f"{part} {100 * s / total:.0f}%" for part, s in shares if s >= 0.005 * total) if total > 0 else ""
        )


def sparkline(values: Sequence[float | None], width: int) -> str:
    """Draws the last `width` values as bars scaled from the lowest to the highest of them.

    values: numbers in order of time. None, NaN and infinities are unknown and leave a gap.
    width: how many values to draw, one a character.

    Returns an empty text if none of them is known.
    """
    shown = [None if v is None or not math.isfinite(v) else v for v in values][-width:]
    known = [v for v in shown if v is not None]
    if not known:
        return ""
    low, span = min(known), max(known) - min(known)
    if span < 1e-12:  # All values are equal, except for rounding: draw them at half height.
        return "".join(" " if v is None else BARS[3] for v in shown)
    return "".join(" " if v is None else BARS[min(7, int(8 * (v - low) / span))] for v in shown)


def _number(logs: dict[str, Any], name: str, form: str) -> str:
    """A logged metric in the format `form`, or "-" if it was not logged or is NaN."""
    value = logs.get(name)
    return "-" if value is None or math.isnan(value) else form.format(value)


def _clock(seconds: float) -> str:
    """A duration as 1:02:03 or 2:03, and "-:--" for NaN."""
    if math.isnan(seconds):
        return "-:--"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
