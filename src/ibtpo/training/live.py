"""What `ibtpo train` shows while it trains: one calm screen on a terminal, a plain line a step elsewhere."""

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

WINDOW = 40  # steps in a sparkline
BARS = "▁▂▃▄▅▆▇█"
LEAST_WIDTH, MOST_WIDTH = 40, 120

# Metric, its name on the screen, how it is written, what it says (shown where there is room).
ROWS = (
    ("ibtpo/avg_rate", "accuracy", "{:.2f}", "answers that are right"),
    ("ibtpo/eff_rate", "Eff-Rate", "{:.2f}", "questions whose answers differ"),
    ("ibtpo/ib_score", "IB-Score", "{:+.2f}", "of steps to branch at"),
    ("ibtpo/cov_eta", "Cov(η1,η2)", "{:+.4f}", "above 0: confidence follows correctness"),
    ("ibtpo/entropy", "entropy", "{:.2f}", "nats a token"),
    ("ibtpo/truncated", "truncated", "{:.2f}", "answers cut by the length limit"),
)
NO_SIGNAL_STEPS = 5  # so many steps without a group that differs are worth a warning
# Engine and trainer disagree about a token's log-prob by more than rounding explains.
MOST_GAP = {"float32": 1e-3, "half": 0.1}


class LiveScreen(TrainerCallback):
    """Shows a run: a screen where `console` is a terminal, one line a step where it is not, nothing if it is quiet.

    total: the run's budget in generated tokens; by default the configuration's. Steps are counted where it has none.
    held_out: what to show of the accuracy before training; by default what the run folder holds.

    The screen is gone when the run ends, however it ends, and a summary of its last state stands in its place.
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
            # Drawn once a second and cleared at the end; a run's own prints go above it.
            self._live = Live(get_renderable=self.screen, console=self.console, refresh_per_second=1, transient=True)
            self._live.start()

    def on_log(
        self, args: Any, state: TrainerState, control: TrainerControl, logs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Takes in the step just logged."""
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
        """Notes the checkpoint."""
        self.checkpoint = f"checkpoint-{state.global_step}"

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Ends the screen."""
        self.stop()

    def stop(self) -> None:
        """Leaves the terminal as it was, with a summary; may be called twice."""
        if self._live is not None:
            live, self._live = self._live, None
            live.stop()
            self.console.print(self.summary(), highlight=False, soft_wrap=True)

    def _watch(self, logs: dict[str, Any], most_gap: float) -> None:
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
        """The whole screen, at most 16 lines."""
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
        """The last state in a line or a few."""
        if not self.logs:
            return "no step was finished"
        lines = [f"step {self._step}  {self._line(self.logs[-1])}", *(f"! {text}" for text in self.warnings.values())]
        if self.checkpoint:
            lines[0] += f"  {self.checkpoint}"
        return "\n".join(lines)

    def _line(self, logs: dict[str, Any]) -> str:
        tokens = logs["ibtpo/generated_tokens_total"]
        return (
            f"{logs['ibtpo/trajectories']:.0f} traj  {tokens / 1e3:.0f}k tokens  {self._speed():,.0f} tok/s  "
            f"Eff-Rate {_number(logs, 'ibtpo/eff_rate', '{:.2f}')}  "
            f"IB-Score {_number(logs, 'ibtpo/ib_score', '{:+.2f}')}  "
            f"accuracy {_number(logs, 'ibtpo/avg_rate', '{:.2f}')}"
        )

    def _speed(self) -> float:
        tokens = self.logs[-1]["ibtpo/generated_tokens_total"] - (self._tokens_at_start or 0)
        return tokens / max(time.perf_counter() - self._began, 1e-9)

    def _progress(self, width: int) -> RenderableType:
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
        # 11 for names, 9 for values; below that much room the words go first, then the older steps.
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
        seconds = {part: math.fsum(row.get(f"time/{part}") or 0 for row in self.logs) for part in (*PARTS, "other")}
        total = math.fsum(seconds.values())
        shares = sorted(seconds.items(), key=lambda item: -item[1])
        return (
            "  ".join(f"{part} {100 * s / total:.0f}%" for part, s in shares if s >= 0.005 * total) if total > 0 else ""
        )


def sparkline(values: Sequence[float | None], width: int) -> str:
    """The last `width` values as bars between their least and their greatest; a gap for what is not known."""
    shown = [None if v is None or not math.isfinite(v) else v for v in values][-width:]
    known = [v for v in shown if v is not None]
    if not known:
        return ""
    low, span = min(known), max(known) - min(known)
    if span < 1e-12:  # constant but for rounding
        return "".join(" " if v is None else BARS[3] for v in shown)
    return "".join(" " if v is None else BARS[min(7, int(8 * (v - low) / span))] for v in shown)


def _number(logs: dict[str, Any], name: str, form: str) -> str:
    value = logs.get(name)
    return "-" if value is None or math.isnan(value) else form.format(value)


def _clock(seconds: float) -> str:
    if math.isnan(seconds):
        return "-:--"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
