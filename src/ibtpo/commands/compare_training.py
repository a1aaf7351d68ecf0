"""Compare training methods at the same number of generated tokens: the paper's training comparison.

An ARM is a method with options of `ibtpo train` after commas: grpo, ibtpo, ibtpo,lam=0.5, ibtpo,branching=random or
grpo,advantage=ibtpo. "methods" stands for the seven methods, "components" for the parts of IB-TPO one by one.
RECIPE is what all arms share: a YAML file or the name of a shipped recipe; default: the embedded task's.

Each arm's learning rate is chosen by short pilots on problems taken from the end of the training data. Then every arm
trains with every seed. --output gets a run folder a run, summary.json, table.md, curves.csv and pictures, anew after
every run; --resume goes on where the command was stopped, and may add arms and seeds.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._text import without_nan
from ..errors import ConfigError, IBTPOError
from ..tasks.problems import ANSWER_VERIFIERS
from .options import add_output_options
from .output import print_json

if TYPE_CHECKING:
    from ..experiments.jobs import Job
    from ..experiments.plan import Plan

RATES = (1e-4, 2e-4, 4e-4)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `ibtpo compare training`."""
    parser.usage = "ibtpo compare training [RECIPE] --output DIR [--arms ARM ...] [--tokens N] [options]"
    parser.add_argument("recipe", nargs="?", metavar="RECIPE", help="what all arms share")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder for runs and result")
    parser.add_argument("--arms", nargs="+", default=["methods"], metavar="ARM", help="default: methods")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4], metavar="N", help="default: 0 1 2 3 4")
    parser.add_argument("--tokens", type=int, help="generated tokens a run (default: the recipe's)")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="changes the recipe for all arms")
    parser.add_argument(
        "--evaluations", type=int, default=5, help="held-out evaluations in a run, the last at its end (default: 5)"
    )
    group = parser.add_argument_group("learning rates")
    group.add_argument(
        "--learning-rates", nargs="+", type=float, default=list(RATES), metavar="X",
        help="the grid; with a single one there are no pilots (default: 1e-4 2e-4 4e-4)",
    )  # fmt: skip
    group.add_argument("--pilot-tokens", type=int, help="tokens of a pilot (default: a fifth of --tokens)")
    group.add_argument("--pilot-seeds", nargs="+", type=int, default=[1000], metavar="N", help="default: 1000")
    group.add_argument(
        "--validation", type=int, default=100, help="problems pilots are measured on, not trained on (default: 100)"
    )
    group = parser.add_argument_group("how")
    group.add_argument("--jobs", type=int, default=1, help="runs at once; for wall-clock curves leave it at 1")
    group.add_argument("--resume", action="store_true", help="go on with the comparison in --output")
    group.add_argument("--summary-only", action="store_true", help="write the result of what is finished, run nothing")
    group.add_argument("--keep-models", action="store_true", help="keep the trained models of final runs")
    add_output_options(parser)


def run(args: argparse.Namespace) -> int:
    """Runs what is missing; writes and prints the result."""
    from ..experiments.plan import load_plan

    began = time.monotonic()
    if args.summary_only:
        plan = load_plan(args.output)
    else:
        plan = _prepare(args)
        report = _Report(args, plan, began)
        pilots = plan.pilots()
        report.phase("pilots", pilots, plan.shared["pilot_tokens"])
        report.stop_if_failed(report.run(pilots))
        rates = {arm: choice["learning_rate"] for arm, choice in plan.choices().items()}
        finals = plan.finals(rates)
        report.phase("runs", finals, plan.shared["tokens"])
        failed = report.run(finals, keep_models=args.keep_models, summarise=True)
        report.stop_if_failed(failed)
    summary = write_result(plan, 0.0 if args.summary_only else report.seconds_since())
    if args.json:
        print_json(summary)
    else:
        print((plan.folder / "table.md").read_text(encoding="utf-8"), end="")
    return 0


def write_result(plan: "Plan", seconds: float = 0.0) -> dict[str, Any]:
    """Writes summary.json, table.md, curves.csv and the pictures of what is finished. seconds: to add to wall time."""
    from ..experiments.results import markdown, summarise
    from ..report.plots import csv_lines
    from ..storage.run_folder import write_whole

    file = plan.folder / "summary.json"
    before = json.loads(file.read_text())["wall_seconds"] if file.is_file() else 0.0
    summary, curves = summarise(plan)
    summary |= {"wall_seconds": round(before + seconds, 1), "plan": plan.shared, "env": plan.env}
    text = json.dumps(without_nan(summary), indent=1, ensure_ascii=False, allow_nan=False)
    write_whole(file, text + "\n")
    write_whole(plan.folder / "table.md", markdown(summary, plan.shared) + "\n")
    header = ["arm", "seed", "measure", "tokens", "seconds", "value"]
    write_whole(
        plan.folder / "curves.csv", "".join(csv_lines(header, [[row[name] for name in header] for row in curves]))
    )
    if summary["arms"]:
        from ..experiments.pictures import draw

        draw(summary, curves, plan.folder)
    return summary


def _prepare(args: argparse.Namespace) -> "Plan":
    """The plan, checked before anything is made, and the files its runs start from."""
    from ..experiments.arms import assignments, expand
    from ..experiments.plan import Plan, arm_settings, check_numbers, go_on, load_plan, write_arm
    from ..storage.env import collect_env
    from .train import base_settings, quiet_warnings

    quiet_warnings()
    folder = args.output
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; name a folder")
    begun = folder.is_dir() and any(folder.iterdir())
    if begun and not args.resume:
        raise ConfigError(f"{folder} exists already; give --resume to go on with it, or another --output")
    arms = expand(args.arms)
    _, recipe = base_settings(args.recipe, assignments(args.set, "--set"))
    tokens = args.tokens if args.tokens is not None else recipe.get("max_generated_tokens")
    if tokens is None:
        raise ConfigError("the recipe has no max_generated_tokens; give --tokens N, what every run may generate")
    pilot_tokens = args.pilot_tokens if args.pilot_tokens is not None else max(1, tokens // 5)
    rates = sorted(args.learning_rates)
    counts = {"--tokens": [tokens], "--pilot-tokens": [pilot_tokens], "--validation": [args.validation],
              "--evaluations": [args.evaluations], "--jobs": [args.jobs], "--learning-rates": rates}  # fmt: skip
    check_numbers(counts)
    both = set(args.seeds) & set(args.pilot_seeds)
    if both and len(rates) > 1:
        raise ConfigError(f"--pilot-seeds: {min(both)} is one of --seeds, too; pilots need seeds of their own")
    data = {name: str(folder / "data" / f"{name}.jsonl") for name in ("train", "held_out")}
    common = {"data": data["train"], "eval_data": data["held_out"], "max_generated_tokens": tokens,
              "eval_every_tokens": max(1, math.ceil(tokens / args.evaluations))}  # fmt: skip
    settings = {arm: arm_settings(arm, recipe, args.set, common) for arm in arms}
    changed = {**recipe, **assignments(args.set, "--set")}
    shared = {
        "tokens": tokens, "pilot_tokens": pilot_tokens, "learning_rates": rates, "pilot_seeds": args.pilot_seeds,
        "validation": args.validation, "evaluations": args.evaluations, "recipe": changed,
    }  # fmt: skip
    plan = Plan(folder, shared, tuple(arms), tuple(dict.fromkeys(args.seeds)), collect_env())
    if begun and (folder / "plan.json").is_file():
        plan = go_on(load_plan(folder), plan)
    else:
        plan.shared["problems"] = _write_data(folder, changed, args.validation)
    for arm in arms:
        write_arm(plan, arm, {**settings[arm][0], "eval_limit": plan.shared["problems"]["held_out"]})
    plan.save()
    return plan


def _write_data(folder: Path, recipe: dict[str, Any], validation: int) -> dict[str, int]:
    """The three disjoint lists of problems, frozen as files; how many each holds."""
    from ..experiments.plan import split_problems, write_problems
    from ..tasks.problems import load_problems
    from ..training import settings as st

    run, _ = st.split(st.resolve(recipe, {}))
    if run.eval_data is None:
        raise ConfigError("the recipe names no held-out problems; give --set eval_data=F")
    required = run.verifier in (None, *ANSWER_VERIFIERS)
    problems = load_problems(run.data, split=run.data_split, limit=run.limit, require_answer=required)
    held_out = load_problems(run.eval_data, split="test", limit=run.eval_limit, require_answer=required)
    train, chosen = split_problems(problems, held_out, validation)
    folder.mkdir(parents=True, exist_ok=True)
    found = {"train": train, "validation": chosen, "held_out": held_out}
    for name, listed in found.items():
        write_problems(folder / "data" / f"{name}.jsonl", listed)
    return {name: len(listed) for name, listed in found.items()}


class _Report:
    """Runs jobs and says on stderr how it goes."""

    def __init__(self, args: argparse.Namespace, plan: "Plan", began: float) -> None:
        self.args, self.plan, self._last = args, plan, began

    def seconds_since(self) -> float:
        """Seconds since the last call."""
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
        from ..experiments.jobs import run_all

        for job in jobs:
            if job.finished:
                job.clean(keep_models)  # killed before it could
        done, times = sum(job.finished for job in jobs), []

        def ended(job: "Job", seconds: float, why: str | None) -> None:
            nonlocal done
            done += 1
            times.append(seconds)
            left = (len(jobs) - done) * sum(times) / len(times) / self.args.jobs
            self._say(
                f"{done}/{len(jobs)} {job.name}: {why or _result(job)}, {seconds:.0f} s, {left / 60:.0f} min left"
            )
            if why is None:
                job.clean(keep_models)
                if summarise:
                    self._summarise()

        return run_all(jobs, self.args.jobs, self.plan.folder / "logs", ended)

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

    def _say(self, text: str) -> None:
        if not self.args.quiet:
            print(text, file=sys.stderr, flush=True)


def _result(job: "Job") -> str:
    from ..storage.run_folder import RunFolder

    accuracy = RunFolder(job.folder).read_eval()["after"]["avg"]
    return "nothing graded" if accuracy is None else f"accuracy {100 * accuracy:.1f} %"
