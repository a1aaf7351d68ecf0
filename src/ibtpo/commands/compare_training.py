"""Compare training methods at the same number of generated tokens: the paper's training comparison.

An ARM is a method with options of `ibtpo train` after commas: grpo, ibtpo, ibtpo,lam=0.5, ibtpo,branching=random or
grpo,advantage=ibtpo. "methods" stands for the seven methods, "components" for the parts of IB-TPO one by one.
RECIPE is what all arms share: a YAML file or the name of a shipped recipe; default: the embedded task's.

Short runs find how many questions a step make an arm take as many optimiser steps for its tokens as grpo does (or,
without it, the first arm). Each arm's learning rate is chosen by pilots on problems taken from the end of the training
data; a grid whose best rate is at its end grows there. Then every arm trains with every seed. --output gets a folder
for each run, and summary.json, table.md, curves.csv and pictures, which are written anew after every run. --resume goes
on where the command was stopped, and may add arms and seeds.
"""

import argparse
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConfigError
from .options import add_output_options
from .output import print_json

if TYPE_CHECKING:
    from ..compare.training_jobs import Job
    from ..compare.training_plan import Plan


RATES = (1e-4, 2e-4, 4e-4)  # the learning rates that pilots try


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `ibtpo compare training`."""
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
    parser.add_argument(
        "--match-steps", action=argparse.BooleanOptionalAction, default=True,
        help="choose each arm's questions a step so that all take as many optimiser steps (default: on)",
    )  # fmt: skip
    group = parser.add_argument_group("learning rates")
    group.add_argument(
        "--learning-rates", nargs="+", type=float, default=list(RATES), metavar="X",
        help="the grid; with a single one there are no pilots (default: 1e-4 2e-4 4e-4)",
    )  # fmt: skip
    group.add_argument("--pilot-tokens", type=int, help="tokens of a pilot (default: a fifth of --tokens)")
    group.add_argument(
        "--pilot-seeds", nargs="+", type=int, default=[1000, 1001, 1002], metavar="N", help="default: 1000 1001 1002"
    )
    group.add_argument(
        "--validation", type=int, default=100, help="problems pilots are measured on, not trained on (default: 100)"
    )
    group.add_argument(
        "--rates-by-method", action="store_true",
        help="pilots of plain methods only: an arm with changes takes the rate of its method, where that is an arm",
    )  # fmt: skip
    group = parser.add_argument_group("how")
    group.add_argument("--jobs", type=int, default=1, help="runs at once; for wall-clock curves leave it at 1")
    group.add_argument("--resume", action="store_true", help="go on with the comparison in --output")
    group.add_argument("--summary-only", action="store_true", help="write the result of what is finished, run nothing")
    group.add_argument("--keep-models", action="store_true", help="keep the trained models of final runs")
    add_output_options(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the pilots and the runs that are missing, writes the result into the folder and prints it."""
    from ..compare.training import JobRunner, match_steps, write_result
    from ..compare.training_plan import SIZING_STEPS, load_plan

    def say(text: str) -> None:
        if not args.quiet:
            print(text, file=sys.stderr, flush=True)

    if args.summary_only:
        plan = load_plan(args.output)
    else:
        plan = _prepare(args)
        runner = JobRunner(plan, args.jobs, say)
        sizings = plan.sizings()
        runner.phase("sizing runs", sizings, f"{SIZING_STEPS} steps")
        runner.stop_if_failed(runner.run(sizings))
        match_steps(plan)
        pilots: list[Job] = []
        while (wanted := plan.pilots()) != pilots:  # finished pilots may ask for others, beyond an end of the grid
            pilots = wanted
            runner.phase("pilots", pilots, f"{plan.shared['pilot_tokens']:,} tokens")
            runner.stop_if_failed(runner.run(pilots))
        rates = {arm: choice["learning_rate"] for arm, choice in plan.choices().items()}
        finals = plan.finals(rates)
        runner.phase("runs", finals, f"{plan.shared['tokens']:,} tokens")
        failed = runner.run(finals, keep_models=args.keep_models, update_result=True)
        runner.stop_if_failed(failed)
    summary = write_result(plan, 0.0 if args.summary_only else runner.seconds_since())
    if args.json:
        print_json(summary)
    else:
        print((plan.folder / "table.md").read_text(encoding="utf-8"), end="")
    return 0


def _prepare(args: argparse.Namespace) -> "Plan":
    """The plan of the comparison. All of it is checked before the folder and the files of its runs are written."""
    from ..compare.training import write_data
    from ..compare.training_arms import assignments, expand
    from ..compare.training_choices import WIDENINGS
    from ..compare.training_plan import Plan, arm_settings, check_numbers, go_on, load_plan, write_arm
    from ..storage.env import collect_env
    from ..training.launch import quiet_warnings
    from ..training.settings import base_settings

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
        "validation": args.validation, "evaluations": args.evaluations, "recipe": changed, "widenings": WIDENINGS,
        "rates_by_method": args.rates_by_method,
        "match_steps": ("grpo" if "grpo" in arms else arms[0]) if args.match_steps else None,
    }  # fmt: skip
    plan = Plan(folder, shared, tuple(arms), tuple(dict.fromkeys(args.seeds)), collect_env())
    if begun and (folder / "plan.json").is_file():
        plan = go_on(load_plan(folder), plan)
    else:
        plan.shared["problems"] = write_data(folder, changed, args.validation)
    for arm in arms:
        write_arm(plan, arm, {**settings[arm][0], "eval_limit": plan.shared["problems"]["held_out"]})
    plan.save()
    return plan
