"""Runs a training comparison: freezes the problems, runs the jobs, and writes the result of what is finished.

What is compared stands in a `Plan` (`training_plan.py`). The command `ibtpo compare training` calls this module.
"""

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
    """Writes summary.json, table.md, curves.csv and the pictures of the runs that are finished.

    plan: the comparison.
    seconds: wall time since the last summary was written; it is added to the `wall_seconds` of that one.

    Returns the content of summary.json.
    """
    from .._files import write_whole
    from ..report.plots import csv_lines
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
    """Writes three files of problems: to train on, to choose learning rates by, and to measure the result on.

    No question is in two of them. All runs of a comparison read these files, so that they meet the same problems even
    if the source of the data changes.

    folder: the comparison's folder, which gets data/train.jsonl, data/validation.jsonl and data/held_out.jsonl.
    recipe: options of `ibtpo train` that name the data.
    validation: how many training problems are set aside to choose learning rates by.

    Returns the number of problems in each file, by name.
    Raises `ConfigError` if the recipe names no held-out problems, and `DataError` if there are too few to train on.
    """
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
    held_out = load_problems(run.eval_data, split=run.eval_split, limit=run.eval_limit, **how)
    train, chosen = split_problems(problems, held_out, validation)
    folder.mkdir(parents=True, exist_ok=True)
    found = {"train": train, "validation": chosen, "held_out": held_out}
    for name, listed in found.items():
        write_problems(folder / "data" / f"{name}.jsonl", listed)
    return {name: len(listed) for name, listed in found.items()}


def match_steps(plan: "Plan") -> None:
    """Gives each arm as many questions a step as make it take as many steps as the measure for the same tokens.

    They follow from what the sizing runs, which must be finished, generated with the untrained model. They are written
    to the arms' recipes.

    Raises `ConfigError`, naming the arm, if no number of questions fits its other settings.
    """
    from ..storage.yaml_file import read_yaml
    from .training_choices import nearest_questions, tokens_a_question
    from .training_plan import arm_file, write_arm

    if not plan.sizings():
        return
    assert plan.measure is not None
    tokens, questions = tokens_a_question(plan.sizing(plan.measure).folder)
    for arm in plan.matched():
        wanted = questions * tokens / tokens_a_question(plan.sizing(arm).folder)[0]
        settings = read_yaml(arm_file(plan, arm))
        try:
            found = nearest_questions(settings, wanted, plan.shared["problems"]["train"])
        except ConfigError as e:
            raise ConfigError(f"--arms {arm!r}: {e}") from e
        write_arm(plan, arm, {**settings, "prompts_per_step": found})


class JobRunner:
    """Runs the jobs of a comparison and reports their progress.

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

    def phase(self, what: str, jobs: "Sequence[Job]", length: str) -> None:
        """Reports how many jobs there are, and how many of them are left to run.

        what: a name for the jobs, in the plural.
        jobs: the jobs, finished ones among them.
        length: how long each job trains, e.g. "4,000 tokens".
        """
        missing = sum(not job.finished for job in jobs)
        if jobs:
            self._say(f"{len(jobs)} {what} of {length} each, {missing} of them to do, evaluation aside")

    def run(self, jobs: "Sequence[Job]", *, keep_models: bool = False, update_result: bool = False) -> "list[Job]":
        """Runs the jobs that are not finished, and reports each when it ends.

        jobs: the jobs, finished ones among them.
        keep_models: whether the trained models are kept.
        update_result: whether the result is written anew after each job that finished.

        Returns the jobs that failed.
        """
        from .training_jobs import run_all

        for job in jobs:
            if job.finished:
                job.clean(keep_models)  # in case the comparison was killed before it had cleaned this one
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
                if update_result:
                    self._update_result()

        return run_all(jobs, self.at_once, self.plan.folder / "logs", ended)

    def _update_result(self) -> None:
        """Writes the result so far, and only warns if that fails."""
        try:
            write_result(self.plan, self.seconds_since())
        except Exception as e:  # A missing table must not stop hours of training. At the end the error would be raised.
            self._say(f"warning: no summary was written ({type(e).__name__}: {e})")

    def stop_if_failed(self, failed: "Sequence[Job]") -> None:
        """Raises `IBTPOError`, which names the failed jobs, if there are any."""
        if failed:
            names = "; ".join(job.name for job in failed)
            logs = self.plan.folder / "logs"
            raise IBTPOError(f"{len(failed)} runs failed: {names}. See {logs}; --resume tries them again")


def _result(job: "Job") -> str:
    """The accuracy of a finished job as text."""
    from ..storage.run_folder import RunFolder

    accuracy = RunFolder(job.folder).read_eval()["after"]["avg"]
    return "nothing graded" if accuracy is None else f"accuracy {100 * accuracy:.1f} %"
