"""Training runs as child processes, some at once, each in a run folder that a later call goes on with."""

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
POLL = 0.2  # seconds


@dataclass(frozen=True)
class Job:
    """One run of `ibtpo train`. words: recipe and options, without the folder."""

    name: str
    folder: Path
    words: tuple[str, ...]

    @property
    def finished(self) -> bool:
        """Whether the run has been trained and measured."""
        return "after" in RunFolder(self.folder).read_eval()

    def command(self) -> list[str]:
        """The command that starts the run, or goes on with it."""
        if (self.folder / "config.yaml").is_file():
            return [*COMMAND, "train", "--resume", str(self.folder), "--quiet"]
        return [*COMMAND, "train", *self.words, "--output", str(self.folder), "--quiet"]

    def clean(self, keep_model: bool = False) -> None:
        """Deletes what only an unfinished run needs."""
        for name in ("checkpoints", *(() if keep_model else ("model",))):
            shutil.rmtree(self.folder / name, ignore_errors=True)


def run_all(
    jobs: Sequence[Job], at_once: int, logs: Path, on_end: Callable[[Job, float, str | None], None]
) -> list[Job]:
    """Runs the unfinished ones in order, `at_once` at a time; returns those that failed.

    logs: folder for what a run prints, beside those of the runs; kept of failed runs only. on_end: called with the job,
    its seconds and, for a failed one, why. A failed run does not stop the others.
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
                    shutil.rmtree(job.folder)  # killed before it had written what it is
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
