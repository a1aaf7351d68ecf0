"""Running a training comparison: the frozen data, the jobs, and the result of what is finished."""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._text import without_nan
from ..errors import ConfigError, IBTPOError

if TYPE_CHECKING:
    from .training_jobs import Job
    from .training_plan import Plan


def write_result(plan: "Plan", seconds: float = 0.0) -> dict[str, Any]:
    """Writes summary.json, table.md, curves.csv and the pictures of what is finished. seconds: to add to wall time."""
    from ..report.plots import csv_lines
    from ..storage.run_folder import write_whole
    from .training_results import markdown, training_summary

    file = plan.folder / "summary.json"
    before = json.loads(file.read_text())["wall_seconds"] if file.is_file() else 0.0
    summary, curves = training_summary(plan)
    summary |= {"wall_seconds": round(before + seconds, 1), "plan": plan.shared, "env": plan.env}
    text = json.dumps(without_nan(summary), indent=1, ensure_ascii=False, allow_nan=False)
    write_whole(file, text + "\n")
    write_whole(plan.folder / "table.md", markdown(summary, plan.shared) + "\n")
    header = ["arm", "seed", "measure", "tokens", "seconds", "value"]
    write_whole(
        plan.folder / "curves.csv", "".join(csv_lines(header, [[row[name] for name in header] for row in curves]))
    )
    if summary["arms"]:
        from .training_pictures import write_pictures

        write_pictures(summary, curves, plan.folder)
    return summary


def write_data(folder: Path, recipe: dict[str, Any], validation: int) -> dict[str, int]:
    """The three disjoint lists of problems, frozen as files; how many each holds."""
    from ..tasks.problems import load_problems
    from ..training import settings as st
    from .training_plan import split_problems, write_problems

    run, _ = st.split(st.resolve(recipe, {}))
    if run.eval_data is None:
        raise ConfigError("the recipe names no held-out problems; give --set eval_data=F")
    how: dict[str, Any] = {
        "question_column": run.question_column, "answer_column": run.answer_column, "require_answer": run.needs_answers
    }  # fmt: skip
    problems = load_problems(run.data, split=run.data_split, limit=run.limit, **how)
    held_out = load_problems(run.eval_data, split="test", limit=run.eval_limit, **how)
    train, chosen = split_problems(problems, held_out, validation)
    folder.mkdir(parents=True, exist_ok=True)
    found = {"train": train, "validation": chosen, "held_out": held_out}
    for name, listed in found.items():
        write_problems(folder / "data" / f"{name}.jsonl", listed)
    return {name: len(listed) for name, listed in found.items()}


class JobRunner:
    """Runs the jobs of a comparison and says how it goes.

    plan: what is compared, and in which folder.
    at_once: how many jobs run side by side.
    say: called with each line about the progress.
    """

    def __init__(self, plan: "Plan", at_once: int, say: Callable[[str], None]) -> None:
        self.plan, self.at_once, self._say = plan, at_once, say
        self._last = time.monotonic()

    def seconds_since(self) -> float:
        """Seconds since the last call, or since this object was made."""
        now = time.monotonic()
        last, self._last = self._last, now
        return now - last

    def phase(self, what: str, jobs: "Sequence[Job]", tokens: int) -> None:
        """Says what is to be done."""
        missing = sum(not job.finished for job in jobs)
        if jobs:
            self._say(f"{len(jobs)} {what} of {tokens:,} tokens each, {missing} of them to do, evaluation aside")

    def run(self, jobs: "Sequence[Job]", *, keep_models: bool = False, summarise: bool = False) -> "list[Job]":
        """Runs the missing ones; returns those that failed."""
        from .training_jobs import run_all

        for job in jobs:
            if job.finished:
                job.clean(keep_models)  # killed before it could
        done, times = sum(job.finished for job in jobs), []

        def ended(job: "Job", seconds: float, why: str | None) -> None:
            nonlocal done
            done += 1
            times.append(seconds)
            left = (len(jobs) - done) * sum(times) / len(times) / self.at_once
            self._say(
                f"{done}/{len(jobs)} {job.name}: {why or _result(job)}, {seconds:.0f} s, {left / 60:.0f} min left"
            )
            if why is None:
                job.clean(keep_models)
                if summarise:
                    self._summarise()

        return run_all(jobs, self.at_once, self.plan.folder / "logs", ended)

    def _summarise(self) -> None:
        try:
            write_result(self.plan, self.seconds_since())
        except Exception as e:  # hours of training do not stop for want of a table; the last one raises
            self._say(f"warning: no summary was written ({type(e).__name__}: {e})")

    def stop_if_failed(self, failed: "Sequence[Job]") -> None:
        """Raises `IBTPOError` naming the failed runs."""
        if failed:
            names = "; ".join(job.name for job in failed)
            logs = self.plan.folder / "logs"
            raise IBTPOError(f"{len(failed)} runs failed: {names}. See {logs}; --resume tries them again")


def _result(job: "Job") -> str:
    from ..storage.run_folder import RunFolder

    accuracy = RunFolder(job.folder).read_eval()["after"]["avg"]
    return "nothing graded" if accuracy is None else f"accuracy {100 * accuracy:.1f} %"
