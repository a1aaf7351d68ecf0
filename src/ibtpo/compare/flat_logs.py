"""Measures a GRPO run from the answers that TRL stored (`log_completions=True`), without its checkpoints.

TRL writes files such as `completions/completions_00010.parquet`, with a row for each answer. Its columns are step,
prompt, completion, one for each reward function, those that reward functions added, and advantage. Answers of one step
with the same prompt are a group. The files hold no log-probabilities and no answers that share a beginning, so numbers
that need those cannot be computed: `NOT_COMPUTED` lists them.
"""

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError, DataError, DependencyError, unknown
from ..score import effective

OWN = ("step", "prompt", "completion", "advantage")  # columns of TRL's; any other column with numbers is a reward

# The numbers that a log cannot give, and why.
NOT_COMPUTED = {
    "IB-Score, Cov(η1,η2)": "need the value of each step, from answers that share it, and the log-probabilities of its "
    "tokens; independent answers share no step, and the log holds no log-probabilities",
    "branch depth, branch cost": "need a tree; independent answers have no branches",
    "entropy": "needs the distribution at every token; the log holds text",
    "truncated, tokens": "need token ids and stop reasons; the log holds text without special tokens",
}
# How to get those numbers.
INSTEAD = (
    "measure checkpoints: ibtpo diagnose --model CHECKPOINT ... --data FILE; or a run while it trains: "
    "trainer.add_callback(ibtpo.IBScoreCallback(trainer))"
)


@dataclass(frozen=True, slots=True)
class FlatLog:
    """What a log says.

    steps: one row a step. `groups` and `answers` are counts, `distinct` is the mean share of a group's answers that
        differ, `characters` the mean length of an answer, `reward/NAME` the mean of a reward. If correctness is known,
        there are also `eff_rate`, `avg_rate`, `pass_at_g` and `uniform`, as in docs/metrics.md.
    correct: the reward column that is taken for correctness, or None.
    why: why that column is taken, or why none is.
    repeated: steps that are left out because they hold the answers of the step before once more: TRL writes answers
        again while it trains on them for more than one step.
    """

    steps: list[dict[str, Any]]
    correct: str | None
    why: str
    repeated: list[int]


def read_flat_log(path: str | Path, reward_column: str | None = None) -> FlatLog:
    """Reads and measures the answers that TRL logged.

    path: a `completions_….parquet`, or the folder of a run that holds such files.
    reward_column: the column that says right (1) or wrong (0). By default it is the only reward column, if there is
        only one. A column with other values is a shaped reward: it does not say what is right, and no correctness is
        taken from it.

    Raises `DataError`, which names file and row, for a file that is wrong, and `ConfigError` for a path or a column
    that does not exist.
    """
    by_step: dict[int, list[dict[str, Any]]] = {}
    source: dict[int, Path] = {}
    names: list[str] | None = None
    for file in _files(Path(path)):
        rows, found = _read(file)
        if names is not None and found != names:
            raise DataError(f"{file}: its reward columns are {_list(found)}, those of the file before {_list(names)}")
        names = found
        for step, group in _split(rows).items():
            if step in by_step:
                raise DataError(f"{file}: step {step} is in {source[step]} too; give the log of one run")
            by_step[step], source[step] = group, file
    assert names is not None
    if reward_column is not None and reward_column not in names:
        raise unknown("reward column", reward_column, names)
    correct, why = _correctness(by_step, names, reward_column)
    steps: list[dict[str, Any]] = []
    repeated: list[int] = []
    last: list[Any] | None = None
    for step in sorted(by_step):
        content = [[row["prompt"], row["completion"], *(row[n] for n in names)] for row in by_step[step]]
        if repr(content) == repr(last):  # compared as text, in which NaN equals itself
            repeated.append(step)
            continue
        last = content
        steps.append(_measure(step, by_step[step], names, correct))
    return FlatLog(steps, correct, why, repeated)


def _files(path: Path) -> list[Path]:
    """The Parquet files that `path` stands for, in order of their steps."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ConfigError(f"{path} does not exist; give a completions_….parquet or the folder TRL wrote it to")
    for folder in (path, path / "completions", path / "checkpoints" / "completions"):
        if files := sorted(folder.glob("completions_*.parquet")):
            return files
    raise DataError(f"{path} holds no completions_*.parquet; TRL writes them with log_completions=True")


def _read(file: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows of one file, with prompt and completion as text, and the names of its reward columns.

    A reward that is missing or NaN is None.
    """
    try:
        import pyarrow  # type: ignore[import-untyped]
        from pyarrow import parquet
    except ImportError as e:
        raise DependencyError(f"{file}: Parquet needs pyarrow; install it with: pip install 'ibtpo[train]'") from e
    try:
        table = parquet.read_table(file)
        rows = table.to_pylist()
    except (pyarrow.ArrowException, OSError) as e:
        raise DataError(f"{file}: not a readable Parquet file ({' '.join(str(e).split())})") from e
    missing = [name for name in OWN[:3] if name not in table.column_names]
    if missing:
        raise DataError(f"{file}: no column {_list(missing)}; it has {_list(table.column_names)}")
    if not rows:
        raise DataError(f"{file}: no rows; expected one an answer")
    kinds = pyarrow.types
    names = [
        field.name
        for field in table.schema
        if field.name not in OWN and any(f(field.type) for f in (kinds.is_floating, kinds.is_integer, kinds.is_boolean))
    ]
    for number, row in enumerate(rows, 1):
        at = f"{file}: row {number}"
        row["step"] = _step(row["step"], at)
        for name in ("prompt", "completion"):
            row[name] = _text(row[name], f"{at}: {name}")
        for name in names:
            value = row[name]
            row[name] = None if value is None or math.isnan(value) else float(value)
            if row[name] is not None and math.isinf(row[name]):
                raise DataError(f"{at}: {name} must be a finite number, got {value}")
    return rows, names


def _step(value: Any, at: str) -> int:
    """The number of a step, which tables that were edited hold as text or as a float."""
    try:
        step = int(value) if isinstance(value, str) or value == int(value) else -1
    except (TypeError, ValueError, OverflowError):
        step = -1
    if step < 0 or isinstance(value, bool):
        raise DataError(f"{at}: step must be a whole number, got {value!r}")
    return step


def _text(value: Any, at: str) -> str:
    """A prompt or completion as text; of a conversation, the contents of its messages."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(isinstance(m, dict) and "content" in m for m in value):
        contents = [m["content"] for m in value]
        return "\n\n".join(c if isinstance(c, str) else json.dumps(c, ensure_ascii=False) for c in contents)
    raise DataError(f"{at} must be text or a list of messages, got {str(value)[:60]!r}")


def _split(rows: Sequence[dict[str, Any]]) -> dict[int, list[dict[str, Any]]]:
    """The rows of each step."""
    steps: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        steps[row["step"]].append(row)
    return steps


def _correctness(
    by_step: dict[int, list[dict[str, Any]]], names: list[str], chosen: str | None
) -> tuple[str | None, str]:
    """The column that is taken for correctness, or None, and why. `chosen` is the one that the user named, if any."""
    if chosen is None and len(names) != 1:
        if not names:
            return None, "there is no reward column"
        return (
            None,
            f"the columns {_list(names)} are numbers; --reward-column names the one that is 1 for right, 0 for wrong",
        )
    name = chosen or names[0]
    values = (row[name] for rows in by_step.values() for row in rows if row[name] is not None)
    other = next((v for v in values if v not in (0.0, 1.0)), None)
    if other is not None:
        return None, f"the column {name} holds {other:g}, so it is a shaped reward, which does not say what is right"
    return name, f"correctness is the column {name}"


def _measure(step: int, rows: list[dict[str, Any]], names: list[str], correct: str | None) -> dict[str, Any]:
    """The row of one step, as `FlatLog.steps` describes it."""
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row["prompt"]].append(row)
    out: dict[str, Any] = {"step": step, "groups": len(groups), "answers": len(rows)}
    if correct is not None:
        known = [[r[correct] for r in group if r[correct] is not None] for group in groups.values()]
        known = [grades for grades in known if grades]  # leaves out groups without any grade
        out["eff_rate"] = _mean(float(effective(grades)) for grades in known)
        out["avg_rate"] = _mean(_mean(grades) for grades in known)
        out["pass_at_g"] = _mean(max(grades) for grades in known)
        out["uniform"] = _mean(float(not effective(grades)) for grades in known)
    out["distinct"] = _mean(len({r["completion"] for r in group}) / len(group) for group in groups.values())
    out["characters"] = _mean(len(row["completion"]) for row in rows)
    for name in names:
        out[f"reward/{name}"] = _mean(row[name] for row in rows if row[name] is not None)
    return out


def _mean(values: Iterable[float]) -> float:
    """The mean, or NaN if there are no values."""
    known = list(values)
    return math.fsum(known) / len(known) if known else math.nan


def _list(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names)) or "none"
