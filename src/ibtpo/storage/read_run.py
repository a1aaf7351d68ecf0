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
from .metrics_log import Curves, MetricsLog
from .run_folder import RunFolder
from .tree_file import tree_files

MOST_TREE_FILES = 20  # a long run stores hundreds; the ones read are spread evenly over it


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


def read_run(path: str | Path, log: MetricsLog | None = None) -> Run:
    """Reads a run folder, all but its trees, which `stored_trees` reads one by one.

    path: the folder.
    log: the reader of its metrics, if it was read before: only what is new of them is then read again.

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
    curves = (log or MetricsLog(folder.metrics)).read(notes)
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
