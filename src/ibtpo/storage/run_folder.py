"""The run folder: everything a training run is made of and leaves behind.

config.yaml     the resolved settings        env.json       versions, machine, command line
metrics.jsonl   one row a step               trees/         step_000010.jsonl.gz
checkpoints/    checkpoint-10, …             eval.json      {"before": …, "after": …}
evals.jsonl     one row a held-out evaluation: step, tokens and seconds of training so far, result, mean grades;
                "kept": true in the result of a run that was prolonged later
model/          the trained model            report.html    what the run did; report_data/ and trees.html with it
.lock           there, and locked, while a process trains
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from .._files import locked, real_path, write_whole
from ..errors import CheckpointError, ConfigError
from .yaml_file import read_yaml

STATE_FILE = "ibtpo_state.json"  # the file that our trainer adds to a checkpoint of the Hugging Face trainer
# These two are written last, in this order, so a checkpoint that has both has everything else. Each is named with a
# number it must hold: a file that was cut off while it was written does not.
_LAST_FILES = {"trainer_state.json": "global_step", STATE_FILE: "generated_tokens"}


class RunFolder:
    """One training run on disk: where its files are, and how they are written and read.

    path: the folder, which need not exist yet.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        """The file with one row of metrics a step."""
        return self.path / "metrics.jsonl"

    def check_free(self, overwrite: bool = False) -> None:
        """Raises `ConfigError` if the place is taken and may not be used.

        With `overwrite` an earlier run may be there, but nothing that is no run: no other folder is ever deleted.
        """
        if self.path.exists() and (not self.path.is_dir() or any(map(self._matters, self.path.iterdir()))):
            if not overwrite:
                raise ConfigError(
                    f"{self.path} exists; go on with it with --resume {self.path}, start anew with --overwrite, or "
                    f"choose another --output (in Python resume=True, overwrite=True, output=…)"
                )
            if not (self.path / "config.yaml").is_file():
                raise ConfigError(f"{self.path} is no run folder (no config.yaml): --overwrite will not delete it")

    def _matters(self, path: Path) -> bool:
        """Whether a path in the folder is more than a lock, or than the empty folders that a trainer makes."""
        if path == self._lock:
            return False
        inside = list(path.rglob("*")) if path == self.checkpoints and path.is_dir() else [path]
        return any(p != self._answers or not p.is_dir() for p in inside)

    @property
    def _answers(self) -> Path:
        """Where TRL writes answers, with `log_completions`: it makes this folder once, when its trainer is built."""
        return self.checkpoints / "completions"

    def create(self, settings: dict[str, Any], env: dict[str, Any], overwrite: bool = False) -> None:
        """Makes the folder and writes `config.yaml` and `env.json` into it.

        settings: the resolved settings of the run.
        env: what `collect_env` found.
        overwrite: whether a run that is there is deleted first.

        Raises `ConfigError` as `check_free` does, and if the folder cannot be made.
        """
        self.check_free(overwrite)
        answers = self._answers.is_dir()
        self.make()
        for path in self.path.iterdir():  # the folder itself stays: it may be a symbolic link, and it holds the lock
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path != self._lock:
                path.unlink()
        if answers:
            self._answers.mkdir(parents=True)
        write_whole(self.path / "env.json", json.dumps(env, indent=2) + "\n")
        write_whole(self.path / "config.yaml", yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))

    def make(self) -> None:
        """Makes the folder, empty, if it is not there. Raises `ConfigError` if it cannot be made."""
        try:
            real_path(self.path).mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise ConfigError(
                f"the run folder {self.path} cannot be made: {e.strerror}; choose another --output (in Python output=…)"
            ) from e

    @property
    def _lock(self) -> Path:
        """The file whose lock says that a process trains in this folder."""
        return self.path / ".lock"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes from training in the folder, which must be there, while the block runs.

        Raises `CheckpointError` if one does.
        """
        with locked(self._lock) as alone:
            if not alone:
                try:
                    who = self._lock.read_text(encoding="utf-8").strip() or "another process"
                except (OSError, ValueError):
                    who = "another process"
                raise CheckpointError(f"{self.path} is being trained by {who}; wait for its end or stop it first")
            yield

    def reopen(self, settings: dict[str, Any]) -> None:
        """Makes a finished run an unfinished one with other settings: one that ends later.

        Its result leaves `eval.json`. Its row in `evals.jsonl` is marked `kept`: going on drops no such row, though
        training starts again from a checkpoint that may lie before it.
        """
        results = self.read_eval()
        if "after" in results:
            rows = self.read_evals()
            if rows:
                rows[-1]["kept"] = True
                self._write_evals(rows)
            del results["after"]
            write_whole(self.path / "eval.json", json.dumps(results, indent=2) + "\n")
        write_whole(self.path / "config.yaml", yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))

    def settings(self) -> dict[str, Any]:
        """The settings the run was started with.

        Raises `CheckpointError` if there is no `config.yaml`, or it cannot be read.
        """
        file = self.path / "config.yaml"
        if not file.is_file():
            raise CheckpointError(f"{self.path} is no run folder: it has no config.yaml, so there is nothing to resume")
        try:
            return read_yaml(file)
        except ConfigError as e:
            raise CheckpointError(str(e)) from e

    def last_checkpoint(self) -> Path | None:
        """The newest checkpoint that is whole, or None.

        A run that was killed while it wrote a checkpoint falls back to the one before; the half-written one is deleted.
        """
        found = [p for p in self.checkpoints.glob("checkpoint-*") if p.name.rpartition("-")[2].isdigit()]
        for folder in sorted(found, key=lambda p: int(p.name.rpartition("-")[2]), reverse=True):
            if _is_whole(folder):
                return folder
            shutil.rmtree(folder)  # or the trainer, back at this step, would write into what is left of it
        return None

    def read_eval(self) -> dict[str, Any]:
        """The results of the evaluations `before` and `after` training, by these names; those there are so far.

        Raises `CheckpointError` if `eval.json` is broken.
        """
        file = self.path / "eval.json"
        if not file.is_file():
            return {}
        try:
            found = json.loads(file.read_text(encoding="utf-8-sig"))
        except ValueError as e:
            raise CheckpointError(f"{file}: not valid JSON ({e}); delete it to have the model measured again") from e
        if not isinstance(found, dict) or not all(isinstance(result, dict) for result in found.values()):
            raise CheckpointError(f'{file}: expected {{"before": {{…}}}}; delete it to have the model measured again')
        return found

    def read_evals(self) -> list[dict[str, Any]]:
        """The rows of `evals.jsonl`, one a held-out evaluation, in order of step.

        Raises `CheckpointError` naming file and line if one is broken.
        """
        file = self.path / "evals.jsonl"
        rows: list[dict[str, Any]] = []
        for number, line in enumerate(file.read_bytes().splitlines() if file.is_file() else [], 1):
            try:
                row = json.loads(line)
            except ValueError as e:
                raise CheckpointError(f"{file}:{number}: not valid JSON ({e}); remove the line") from e
            if not isinstance(row, dict) or type(row.get("step")) is not int:
                raise CheckpointError(f"{file}:{number}: expected an object with a step; remove the line")
            rows.append(row)
        return rows

    def add_evals(self, step: int, *rows: dict[str, Any]) -> None:
        """Adds rows of `step` to `evals.jsonl`, in place of all rows of that and later steps.

        Such rows are there if a run was killed after its last checkpoint and goes on from it: it measures them again.
        Without `rows` they are only removed. Rows that `reopen` has marked stay, unless one of the same step comes.
        """
        found = self.read_evals()
        before = [row for row in found if row["step"] < step]
        new = {row["step"] for row in rows}
        later = [row for row in found if row["step"] >= step and row.get("kept") and row["step"] not in new]
        self._write_evals([*before, *rows, *later])

    def _write_evals(self, rows: Sequence[dict[str, Any]]) -> None:
        write_whole(self.path / "evals.jsonl", "".join(json.dumps(row) + "\n" for row in rows))

    def write_eval(self, name: str, result: dict[str, Any]) -> None:
        """Adds a result to `eval.json` under the name `before` or `after`."""
        write_whole(self.path / "eval.json", json.dumps({**self.read_eval(), name: result}, indent=2) + "\n")


def _is_whole(checkpoint: Path) -> bool:
    """Whether both files that are written last are there and hold their numbers."""
    try:
        return all(
            isinstance(json.loads((checkpoint / name).read_text())[key], int) for name, key in _LAST_FILES.items()
        )
    except (OSError, ValueError, TypeError, LookupError):
        return False
