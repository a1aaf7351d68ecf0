"""Reads a run folder into memory for the report, whether the run is finished, still going on, or was killed.

A file that is not there yet becomes a note in the report, and so does a tree that cannot be read. Any other broken file
is an error that names file and line. Only the last line of `metrics.jsonl` may be cut off, since a killed run leaves
such a line.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CheckpointError, DataError
from ..tree import ReasoningTree, read_trees
from .run_folder import RunFolder
from .tree_file import tree_files

LARGEST = 1e100  # a larger value counts as infinite: nothing can draw it
MOST_TREE_FILES = 20  # a long run stores hundreds; the ones read are spread evenly over it


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


@dataclass(frozen=True)
class Run:
    """A run folder in memory.

    path: the folder.
    name: its name.
    config: the settings the run was started with.
    env: versions and machine, as `env.json` holds them; empty if it is missing.
    curves: the metrics of all logged steps.
    evals: the results `before` and `after` training, as `eval.json` holds them.
    held_out: the rows of `evals.jsonl`, one a held-out evaluation.
    tree_files: (step, file) of the stored trees, in order.
    notes: what is missing or was left out, in sentences.
    """

    path: Path
    name: str
    config: dict[str, Any]
    env: dict[str, Any]
    curves: Curves
    evals: dict[str, Any]
    held_out: list[dict[str, Any]]
    tree_files: tuple[tuple[int, Path], ...]
    notes: list[str] = field(default_factory=list)


def read_run(path: str | Path) -> Run:
    """Reads a run folder, all but its trees, which `stored_trees` reads one by one.

    Raises `CheckpointError` if `path` is no run folder, and `CheckpointError` or `DataError`, naming the file and, if
    it has one a row, the line, where something in it is broken.
    """
    folder = RunFolder(path)
    if not folder.path.is_dir():
        raise CheckpointError(f"{folder.path} is no folder; give the run folder that `ibtpo train` printed")
    if not (folder.path / "config.yaml").is_file():
        raise CheckpointError(
            f"{folder.path} is no run folder: it has no config.yaml; give one that `ibtpo train` made"
        )
    notes: list[str] = []
    config = folder.settings()
    env = _read_env(folder.path / "env.json", notes)
    curves = _read_curves(folder.metrics, notes)
    evals = _check_evals(folder, notes)
    held_out = folder.read_evals()
    for row in held_out:
        _check_result(row, folder.path / "evals.jsonl", f"step {row['step']}")
    files = tree_files(folder.path / "trees")
    if not files:
        notes.append("No trees are stored (save_trees_every is 0, or the run ended before its first step).")
    return Run(folder.path, folder.path.resolve().name, config, env, curves, evals, held_out, files, notes)


def stored_trees(run: Run, notes: list[str]) -> Iterator[tuple[int, ReasoningTree]]:
    """Reads the trees of a run one by one, as (step, tree), from at most `MOST_TREE_FILES` of its files.

    run: the run; the files are spread evenly over it, the first and the last among them.
    notes: gets a sentence for each tree that cannot be read and is left out: one broken line must not cost a run its
        report.
    """
    files = run.tree_files
    if len(files) > MOST_TREE_FILES:
        chosen = np.linspace(0, len(files) - 1, MOST_TREE_FILES).round().astype(int)
        files = tuple(files[i] for i in chosen)
    for step, path in files:
        for tree in read_trees(path, lambda error: notes.append(str(error))):
            yield step, tree


def _read_env(path: Path, notes: list[str]) -> dict[str, Any]:
    """The contents of `env.json`; if it is missing, that becomes a note."""
    if not path.is_file():
        notes.append("env.json is missing: versions and machine are not known.")
        return {}
    try:
        env = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as e:
        raise DataError(f"{path}:{e.lineno}: not valid JSON ({e.msg}); delete the file to do without it") from e
    except (UnicodeDecodeError, RecursionError) as e:
        raise DataError(f"{path}: not valid JSON ({e}); delete the file to do without it") from e
    if not isinstance(env, dict):
        raise DataError(f"{path}:1: expected a JSON object, got {type(env).__name__}; delete the file to do without it")
    return env


def _read_curves(path: Path, notes: list[str]) -> Curves:
    """Reads `metrics.jsonl`. Of several rows of one step, as a resumed run leaves them, the last counts."""
    rows: dict[int, dict[str, float]] = {}
    lines = path.read_bytes().split(b"\n") if path.is_file() else []
    if not path.is_file():
        notes.append("metrics.jsonl is missing: no step was finished.")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as e:
            if number == len(lines):  # no newline ends it, so the run was killed while it wrote this line
                notes.append(f"The last line of metrics.jsonl (line {number}) is cut off and left out.")
                continue
            raise DataError(f"{path}:{number}: not valid JSON ({e}); remove the line") from e
        step = row.get("step") if isinstance(row, dict) else None
        if type(step) is not int or not 0 <= step < 2**53:
            raise DataError(f"{path}:{number}: expected an object with a step, an integer >= 0, got {row!r:.80}")
        # TRL logs a summary under the last step's number; only rows that count tokens are steps of the training.
        if "ibtpo/generated_tokens" in row:
            rows[step] = {key: _metric(value, key, f"{path}:{number}") for key, value in row.items() if "/" in key} | {
                key: _metric(row[key], key, f"{path}:{number}") for key in ("kl", "entropy", "loss") if key in row
            }
    steps = np.array(sorted(rows), dtype=np.int64)
    names = sorted({name for row in rows.values() for name in row})
    columns = {name: np.array([rows[s].get(name, math.nan) for s in steps.tolist()]) for name in names}
    if path.is_file() and not len(steps):
        notes.append("metrics.jsonl holds no step: none was finished.")
    none = np.full(len(steps), math.nan)
    # With logging_steps > 1 a row holds means over all steps since the row before, so totals multiply by their number.
    gaps = np.diff(steps, prepend=0)
    tokens = columns.get("ibtpo/generated_tokens_total")
    if tokens is None or np.isnan(tokens).any():
        tokens = np.cumsum(gaps * columns["ibtpo/generated_tokens"]) if len(steps) else none
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


def _check_evals(folder: RunFolder, notes: list[str]) -> dict[str, Any]:
    """The contents of `eval.json`, checked; what is missing becomes a note."""
    evals = folder.read_eval()
    file = folder.path / "eval.json"
    for name, result in evals.items():
        _check_result(result, file, name)
    missing = [name for name in ("before", "after") if name not in evals]
    if len(missing) == 2:
        notes.append("Held-out accuracy was not measured (no eval.json; eval_data says on what).")
    elif missing:
        notes.append(f"Held-out accuracy {missing[0]} training is not in eval.json (yet).")
    return evals


def _check_result(result: dict[str, Any], file: Path, name: str) -> None:
    """Raises `DataError` unless an evaluation's result holds what the report shows of it."""
    for key in ("avg", "pass"):
        value, interval = result.get(key), result.get(f"{key}_ci")
        numbers = [] if value is None else [value, *(interval if isinstance(interval, list) else ())]
        if any(type(v) not in (int, float) or not math.isfinite(v) for v in numbers) or len(numbers) not in (0, 3):
            raise DataError(f"{file}: {name}.{key} and {name}.{key}_ci must be a number and two, or null")
    for key in ("k", "n"):
        if type(result.get(key)) is not int:
            raise DataError(f"{file}: {name}.{key} must be an integer, got {result.get(key)!r:.80}")
