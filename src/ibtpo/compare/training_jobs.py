"""Runs `ibtpo train` in child processes, some at once, each in a run folder that a later call can resume."""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .._extras import child_environment
from ..storage.run_folder import RunFolder

COMMAND = (sys.executable, "-m", "ibtpo", "--end-with-parent")
POLL = 0.2  # seconds between two looks at the processes


@dataclass(frozen=True)
class Job:
    """One run of `ibtpo train`.

    name: what messages call it.
    folder: its run folder.
    words: the words after `ibtpo train`, that is, recipe and options, without the folder.
    """

    name: str
    folder: Path
    words: tuple[str, ...]

    @property
    def finished(self) -> bool:
        """Whether the run has been trained and measured."""
        return "after" in RunFolder(self.folder).read_eval()

    def command(self) -> list[str]:
        """The command that starts the run, or resumes it if it was started before."""
        if (self.folder / "config.yaml").is_file():
            return [*COMMAND, "train", "--resume", str(self.folder), "--quiet"]
        return [*COMMAND, "train", *self.words, "--output", str(self.folder), "--quiet"]

    def clean(self, keep_model: bool = False) -> None:
        """Deletes the checkpoints, which only an unfinished run needs, and the model unless it is to be kept."""
        for name in ("checkpoints", *(() if keep_model else ("model",))):
            shutil.rmtree(self.folder / name, ignore_errors=True)


def run_all(
    jobs: Sequence[Job], at_once: int, logs: Path, on_end: Callable[[Job, float, str | None], None]
) -> list[Job]:
    """Runs the jobs that are not finished, in order. A job that fails does not stop the others.

    jobs: the jobs, finished ones among them.
    at_once: how many run side by side.
    logs: folder for what the jobs print, inside that of the comparison. Only the output of failed jobs is kept.
    on_end: called when a job has ended, with the job, its seconds, and why it failed, or None if it did not.

    Returns the jobs that failed.
    """
    waiting = [job for job in jobs if not job.finished]
    running: dict[Job, tuple[subprocess.Popen[bytes], Path, float]] = {}
    failed = []
    logs.mkdir(parents=True, exist_ok=True)
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                job = waiting.pop(0)
                if job.folder.is_dir() and not (job.folder / "config.yaml").is_file():
                    shutil.rmtree(job.folder)  # An earlier run was killed before it wrote what `--resume` needs.
                log = logs / f"{'-'.join(job.folder.relative_to(logs.parent).parts)}.log"
                with log.open("ab") as out:
                    process = subprocess.Popen(
                        job.command(), stdin=subprocess.PIPE, stdout=out, stderr=out, env=child_environment()
                    )
                running[job] = process, log, time.monotonic()
            time.sleep(POLL)
            for job, (process, log, began) in list(running.items()):
                if process.poll() is None:
                    continue
                del running[job]
                why = None
                if process.returncode == 0 and job.finished:
                    log.unlink()
                else:
                    failed.append(job)
                    why = f"exit status {process.returncode}: {_last_line(log)} ({log})"
                on_end(job, time.monotonic() - began, why)
    finally:
        for process, _, _ in running.values():
            process.terminate()
        for process, _, _ in running.values():
            process.wait()
    return failed


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it printed nothing"
