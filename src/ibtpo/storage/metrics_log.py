"""Reads `metrics.jsonl` into columns, whole or as it grows.

A report of a run in progress asks again and again, over a disk that may be a remote one, so only what was added since
the last time is read. A last line that no newline ends may still be being written: it counts if it can be read, and is
read again the next time.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError

LARGEST = 1e100  # a larger value counts as infinite: nothing can draw it
PLAIN = ("kl", "entropy", "loss", "grad_norm", "learning_rate")  # TRL's metrics whose names hold no "/"
GIVEN_SHARE = "ibtpo/given_share"  # not logged, but worked out from the tokens that were


@dataclass(frozen=True)
class Curves:
    """The rows of `metrics.jsonl` as columns. A row stands for a logged step; n is how many there are.

    steps: (n,) their numbers, ascending.
    tokens: (n,) tokens generated so far.
    seconds: (n,) seconds of training so far, without the time of evaluations.
    columns: (n,) values of each metric by its name, NaN where it was not logged or not finite.

    `curves[name]` gives a metric's values, all NaN if it was never logged.
    """

    steps: np.ndarray
    tokens: np.ndarray
    seconds: np.ndarray
    columns: dict[str, np.ndarray]

    def __getitem__(self, name: str) -> np.ndarray:
        return self.columns.get(name, np.full(len(self.steps), math.nan))

    def has(self, name: str) -> bool:
        """Whether the metric was logged with a finite value at least once."""
        return name in self.columns and bool(np.isfinite(self.columns[name]).any())


class MetricsLog:
    """The rows of a `metrics.jsonl`, which may still grow.

    path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._start_again()

    def _start_again(self) -> None:
        self._rows: dict[int, dict[str, float]] = {}
        self._lines = 0  # whole lines read
        self._offset = 0  # where the first line begins that was not whole
        self._last = b""  # the line before it, by which a file that was replaced is told from one that grew

    def read(self, notes: list[str]) -> Curves:
        """Reads what is new; returns all steps. Of several rows of one step, as a resumed run leaves, the last counts.

        notes: gets a sentence on what is missing or cut off.

        Raises `DataError` naming file and line for a line that is broken, but not for the last if no newline ends it.
        """
        extra: dict[int, dict[str, float]] = {}
        if self.path.is_file():
            extra = self._read_more(notes)
            if not self._rows and not extra:
                notes.append("metrics.jsonl holds no step: none was finished.")
        else:
            self._start_again()
            notes.append("metrics.jsonl is missing: no step was finished.")
        return _columns({**self._rows, **extra})

    def _read_more(self, notes: list[str]) -> dict[int, dict[str, float]]:
        """Takes in the whole lines that are new, and returns the row of the last line if that is not whole."""
        with self.path.open("rb") as f:
            before = self._offset - len(self._last)
            f.seek(before)
            data = f.read()
            if not data.startswith(self._last):
                self._start_again()
                f.seek(0)
                data = f.read()
            else:
                data = data[len(self._last) :]
        lines = data.split(b"\n")
        for line in lines[:-1]:
            self._take(line, self._lines + 1, self._rows)
            self._lines += 1
            self._offset += len(line) + 1
            self._last = line + b"\n"
        extra: dict[int, dict[str, float]] = {}
        try:
            json.loads(lines[-1] or b"{}")
        except (ValueError, RecursionError):
            notes.append(f"The last line of metrics.jsonl (line {self._lines + 1}) is cut off and left out.")
        else:
            self._take(lines[-1], self._lines + 1, extra)
        return extra

    def _take(self, line: bytes, number: int, rows: dict[int, dict[str, float]]) -> None:
        """Puts the numbers of a line into `rows`, by step. number: the line's, from 1, for messages."""
        if not line.strip():
            return
        where = f"{self.path}:{number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as e:
            raise DataError(f"{where}: not valid JSON ({e}); remove the line") from e
        step = row.get("step") if isinstance(row, dict) else None
        if type(step) is not int or not 0 <= step < 2**53:
            raise DataError(f"{where}: expected an object with a step, an integer >= 0, got {row!r:.80}")
        # TRL logs a summary under the last step's number; only rows that count tokens are steps of the training.
        if "ibtpo/generated_tokens" in row:
            names = [name for name in row if "/" in name or name in PLAIN]
            rows[step] = {name: _metric(row[name], name, where) for name in names}


def _columns(rows: dict[int, dict[str, float]]) -> Curves:
    """The rows, by step, as columns."""
    steps = np.array(sorted(rows), dtype=np.int64)
    names = sorted({name for row in rows.values() for name in row})
    columns = {name: np.array([rows[s].get(name, math.nan) for s in steps.tolist()]) for name in names}
    none = np.full(len(steps), math.nan)
    # With logging_steps > 1 a row holds means over all steps since the row before, so totals multiply by their number.
    gaps = np.diff(steps, prepend=0)
    tokens = columns.get("ibtpo/generated_tokens_total")
    if tokens is None or np.isnan(tokens).any():
        tokens = np.cumsum(gaps * columns["ibtpo/generated_tokens"]) if len(steps) else none
    given = np.nan_to_num(columns.get("ibtpo/given_tokens", none))
    if given.any():  # else no environment spoke in this run
        columns[GIVEN_SHARE] = given / np.maximum(given + columns["ibtpo/generated_tokens"], 1)
    return Curves(steps, tokens, np.cumsum(gaps * columns.get("time/total", none)), columns)


def _metric(value: Any, name: str, where: str) -> float:
    """A value of `metrics.jsonl` as a float; NaN for null and for what is too large to be drawn."""
    if value is None:
        return math.nan
    if type(value) not in (int, float):
        raise DataError(f"{where}: {name} must be a number or null, got {value!r:.80}")
    try:
        number = float(value)
    except OverflowError:
        return math.nan
    return number if abs(number) < LARGEST else math.nan
