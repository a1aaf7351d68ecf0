"""Ends a run at the end of a step, with a checkpoint, when it is sent a signal: Ctrl-C, or what a scheduler sends."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from accelerate.utils import gather_object
from transformers import TrainerCallback, TrainerControl, TrainerState

# Ctrl-C; a scheduler's end, and its warning before it (Slurm's --signal); the end of the terminal.
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP") if hasattr(signal, name))


class StoppedError(KeyboardInterrupt):
    """A run was ended by a signal.

    signal: its number.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.signal = number


class StopSignals(TrainerCallback):
    """Lets the step that is under way end, asks for a checkpoint and stops the training, once a signal has come.

    Training stops in all processes after the same step, whichever of them got the signal. Outside of training, as while
    held-out problems are answered, the signal raises `StoppedError` at once, and so does a second Ctrl-C.

    trainer: the trainer, to which this is to be added.
    tell: whether to say on stderr that a signal has come.
    """

    def __init__(self, trainer: Any, tell: bool) -> None:
        self.trainer, self.tell = trainer, tell
        self.received: int | None = None  # the first signal
        self._training = False

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Handles the signals while the block runs. Those that are ignored stay so, as after `nohup`.

        Only a main thread can handle signals; in another the block just runs.
        """
        before = {}
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    before[number] = signal.signal(number, self._receive)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _receive(self, number: int, frame: Any) -> None:
        again = self.received is not None
        self.received = self.received or number
        if not self._training or (again and number == signal.SIGINT):
            raise StoppedError(number)
        if self.tell and not again:
            name = signal.Signals(number).name
            at_once = "; Ctrl-C again ends it at once, without" if number == signal.SIGINT else ""
            # Not `print`: a handler may interrupt another call of it.
            with suppress(OSError):  # the terminal may be what has gone
                os.write(2, f"\n{name}: training stops after this step, with a checkpoint{at_once}\n".encode())

    def check(self) -> None:
        """Raises `StoppedError` if a signal has come."""
        if self.received is not None:
            raise StoppedError(self.received)

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """From now on a signal waits for the end of a step."""
        self._training = True

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Asks for a checkpoint and for the end of the training, if a signal has come."""
        if self.trainer.accelerator.num_processes > 1:
            self.received = next((number for number in gather_object([self.received]) if number is not None), None)
        if self.received is not None:
            control.should_training_stop = control.should_save = True

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """From now on a signal raises at once."""
        self._training = False
