"""Plans a training comparison: its problems, the short runs that choose for each arm, and the final runs.

The folder of a comparison holds:

    plan.json           the settings all runs share, the arms and seeds, versions and machine
    data/               train.jsonl, validation.jsonl, held_out.jsonl: no question in two of them
    arms/ARM.yaml       the recipe of an arm
    sizes/ARM/, pilots/ARM/lrX/seedK/, runs/ARM/seedK/    run folders of `ibtpo train`
    logs/               what failed runs printed
    summary.json, table.md, curves.csv, *.svg    the result so far
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from .._files import write_whole
from ..errors import CheckpointError, ConfigError, DataError
from ..storage.run_folder import RunFolder
from .training_arms import assignments, folder_name, parse
from .training_choices import Accuracies, choose_rate, tried_rates
from .training_jobs import Job

if TYPE_CHECKING:
    from ..tasks.problems import Problem
    from ..training.settings import RunSettings

_COLUMNS = ("question_column", "answer_column")  # the problems' own; the files written of them have the usual ones
# What a comparison drops from a recipe, because it decides itself how long a run lasts, which seed and learning rate it
# has, and which problems there are.
SIZING_STEPS = 4  # optimiser steps of a run that measures how many tokens a question takes
_REPLACED = ("max_steps", "num_train_epochs", "seed", "learning_rate", "limit", "data_split", "eval_split", *_COLUMNS)


@dataclass(frozen=True)
class Plan:
    """What a comparison runs, and where.

    folder: the comparison's folder.
    shared: settings of all runs, which must stay the same when the comparison is resumed.
    arms: the arms, to which a resumed comparison may add.
    seeds: the seeds of the final runs, to which a resumed comparison may add.
    env: the versions and the machine it was begun with, as `collect_env` gives them.
    """

    folder: Path
    shared: dict[str, Any]
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    env: dict[str, Any]

    @property
    def rates(self) -> list[float]:
        """The learning rates of the grid, which pilots choose from first."""
        return list(self.shared["learning_rates"])

    @property
    def measure(self) -> str | None:
        """The arm whose optimiser steps the others match; None where steps are not matched."""
        return self.shared.get("match_steps")

    def sizing(self, arm: str) -> Job:
        """The job of a few steps that measures how many tokens a question takes in `arm`."""
        words = self._short(arm, min(self.rates), self.shared["pilot_seeds"][0], validation=1)
        ends = ("--max_generated_tokens", "null", "--max_steps", str(SIZING_STEPS), "--eval_k", "1")
        return Job(f"sizing of {arm}", self.folder / "sizes" / folder_name(arm), (*words, *ends))

    def sizings(self) -> list[Job]:
        """The sizing jobs of the measure and of each arm that is to match it; none if there is nothing to match."""
        sized = self.matched()
        return [self.sizing(arm) for arm in (self.measure, *sized) if arm] if sized else []

    def matched(self) -> list[str]:
        """The arms that get a number of questions a step: not the measure, nor those that set one themselves."""
        if self.measure is None:
            return []
        return [arm for arm in self.arms if arm != self.measure and "prompts_per_step" not in parse(arm)]

    def pilot(self, arm: str, rate: float, seed: int) -> Job:
        """The short job that tries `arm` at `rate`, and is measured on the validation problems at its end only."""
        words = self._short(arm, rate, seed, validation=self.shared["validation"])
        words = (*words, "--max_generated_tokens", str(self.shared["pilot_tokens"]))
        folder = self.folder / "pilots" / folder_name(arm) / f"lr{rate:g}" / f"seed{seed}"
        return Job(f"pilot of {arm} at {rate:g}, seed {seed}", folder, words)

    def final(self, arm: str, rate: float, seed: int) -> Job:
        """The job that trains `arm` at its chosen rate and enters the result table."""
        folder = self.folder / "runs" / folder_name(arm) / f"seed{seed}"
        return Job(f"{arm}, seed {seed}", folder, self._words(arm, rate, seed))

    def pilots(self) -> list[Job]:
        """Every pilot that is known to be needed; none if there is only one learning rate.

        When all of them are finished, there may be more, at rates beyond an end of the grid.
        """
        if len(self.rates) == 1:
            return []
        tried = {arm: self._tried(arm) for arm in dict.fromkeys(map(self.tried_by, self.arms))}
        return [self.pilot(a, rate, seed) for seed in self.shared["pilot_seeds"] for a in tried for rate in tried[a]]

    def tried_by(self, arm: str) -> str:
        """The arm whose pilots choose the learning rate of `arm`: itself, or its method without changes.

        The latter where the comparison is told so, and the method is an arm, too.
        """
        method = str(parse(arm)["method"])
        return method if self.shared.get("rates_by_method") and method in self.arms else arm

    def _tried(self, arm: str) -> Accuracies:
        """The pilots' accuracies at each learning rate of an arm, see `tried_rates`."""
        seeds = self.shared["pilot_seeds"]

        def accuracies(rate: float) -> list[float | None]:
            return [_validated(self.pilot(arm, rate, seed)) for seed in seeds]

        return tried_rates(self.rates, accuracies, self.shared.get("widenings", 0))

    def finals(self, rates: Mapping[str, float]) -> list[Job]:
        """The final job of each arm in `rates` with each seed.

        They come seed by seed, so that what is finished at any time compares the arms on the same seeds.

        rates: the chosen learning rate of each arm.
        """
        return [self.final(arm, rates[arm], seed) for seed in self.seeds for arm in self.arms if arm in rates]

    def choices(self) -> dict[str, dict[str, Any]]:
        """The chosen learning rate of each arm whose pilots are all finished.

        Returns what `choose_rate` says of each arm, or of the arm that it takes its rate from; if there is only one
        rate, {"learning_rate": rate} for every arm.
        """
        found = {}
        for arm in self.arms:
            if len(self.rates) == 1:
                found[arm] = {"learning_rate": self.rates[0]}
                continue
            accuracies = self._tried(self.tried_by(arm))
            if all(a is not None for row in accuracies.values() for a in row):
                found[arm] = choose_rate(accuracies)  # type: ignore[arg-type]
        return found

    def _words(self, arm: str, rate: float, seed: int) -> tuple[str, ...]:
        """The words after `ibtpo train` that pilots and final runs have in common."""
        return (str(arm_file(self, arm)), "--learning_rate", f"{rate:g}", "--seed", str(seed))

    def _short(self, arm: str, rate: float, seed: int, *, validation: int) -> tuple[str, ...]:
        """The words of a run that is measured once, at its end, on so many of the validation problems."""
        return (
            *self._words(arm, rate, seed), "--eval_data", str(self.folder / "data" / "validation.jsonl"),
            "--eval_limit", str(validation), "--eval_before", "false", "--eval_every_tokens", "null",
            "--save_trees_every", "0",
        )  # fmt: skip

    def save(self) -> None:
        """Writes `plan.json`."""
        plan = {"shared": self.shared, "arms": self.arms, "seeds": self.seeds, "env": self.env}
        write_whole(self.folder / "plan.json", json.dumps(plan, indent=1) + "\n")


def load_plan(folder: Path) -> Plan:
    """Reads the plan of a comparison that was begun.

    folder: the comparison's folder.

    Raises `CheckpointError` if it holds no plan.json, or one that cannot be read.
    """
    file = folder / "plan.json"
    if not file.is_file():
        raise CheckpointError(f"{folder} holds no comparison: it has no plan.json; name the --output of one")
    try:
        plan = json.loads(file.read_text(encoding="utf-8-sig"))
        return Plan(folder, plan["shared"], tuple(plan["arms"]), tuple(plan["seeds"]), plan["env"])
    except (ValueError, LookupError, TypeError) as e:
        raise CheckpointError(f"{file} cannot be read ({type(e).__name__}: {e}); start again in another folder") from e


def go_on(old: Plan, new: Plan) -> Plan:
    """The plan of a comparison that is resumed: the old plan, with the arms and seeds of both.

    old: the plan it was begun with.
    new: the plan from the options of the command that resumes it.

    Raises `ConfigError` if their shared settings differ.
    """
    shared = json.loads(json.dumps(new.shared))
    if None not in (old.measure, new.measure):
        shared["match_steps"] = old.measure  # it stays, whichever arms are added
    for key, value in shared.items():
        if key not in old.shared:
            raise ConfigError(
                f"--resume: the comparison in {old.folder} was begun by an earlier version, which had no {key}; begin "
                "another with --output, or read what is finished with --summary-only"
            )
        if old.shared.get(key) != value:
            theirs, ours = old.shared.get(key), value
            if isinstance(value, dict) and isinstance(theirs, dict):
                name = next(k for k in (*value, *theirs) if value.get(k) != theirs.get(k))
                key, theirs, ours = name, theirs.get(name), value.get(name)
            raise ConfigError(
                f"--resume: {key} is {ours!r}, but {theirs!r} in {old.folder}; give the options it was started with, "
                "or another --output"
            )
    arms, seeds = (tuple(dict.fromkeys((*a, *b))) for a, b in ((old.arms, new.arms), (old.seeds, new.seeds)))
    return Plan(old.folder, old.shared, arms, seeds, old.env)


def _validated(pilot: Job) -> float | None:
    """The accuracy of a pilot on the validation problems: NaN if nothing was graded, None if it is not finished."""
    after = RunFolder(pilot.folder).read_eval().get("after")
    if after is None:
        return None
    return math.nan if after["avg"] is None else float(after["avg"])


def arm_settings(
    arm: str, recipe: Mapping[str, Any], changes: Sequence[str], common: Mapping[str, Any]
) -> "tuple[dict[str, Any], RunSettings]":
    """Resolves and checks the settings of an arm, before anything is run.

    arm: the arm, whose changes outweigh those of all arms.
    recipe: options of `ibtpo train` that the arms share.
    changes: KEY=VALUE texts that change the recipe for all arms.
    common: options that the comparison sets; they outweigh all others.

    Returns the settings by name, and the `RunSettings` among them.
    Raises `ConfigError`, which names the arm, if they are wrong.
    """
    from ..training import settings as st

    base = {name: value for name, value in recipe.items() if name not in _REPLACED}
    of_all = {name: value for name, value in assignments(changes, "--set").items() if name not in _COLUMNS}
    changed = {**of_all, **parse(arm), **common}
    try:
        settings = st.resolve(base, changed)
        if settings.get("threads"):
            settings["threads"] = 1  # because several runs may share the machine
        run, trainer = st.split(settings)
        st.make_config(run, trainer, Path("unused"))
    except ConfigError as e:
        raise ConfigError(f"--arms {arm!r}: {e}") from e
    return settings, run


def arm_file(plan: Plan, arm: str) -> Path:
    """The recipe of an arm, which its runs start from."""
    return plan.folder / "arms" / f"{folder_name(arm)}.yaml"


def write_arm(plan: Plan, arm: str, settings: Mapping[str, Any]) -> None:
    """Writes an arm's settings to its recipe."""
    file = arm_file(plan, arm)
    file.parent.mkdir(exist_ok=True)
    text = yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True)
    write_whole(file, f"# The arm {arm}\n{text}")


def split_problems(
    training: "Sequence[Problem]", held_out: "Sequence[Problem]", validation: int
) -> "tuple[list[Problem], list[Problem]]":
    """Splits the training problems so that no question is among two of training, validation and held-out problems.

    A question that occurs more than once stays with the held-out problems if it is there, else with the validation
    problems.

    training: problems to split; the last ones become validation problems.
    held_out: problems that the result is measured on.
    validation: how many problems to set aside for the choice of learning rates.

    Returns the problems to train on, and the validation problems.
    Raises `DataError` if there are too few.
    """
    taken = {json.dumps(p.prompt) for p in held_out}
    free = [p for p in training if json.dumps(p.prompt) not in taken]
    chosen = free[max(0, len(free) - validation) :]
    taken = {json.dumps(p.prompt) for p in chosen}
    rest = [p for p in free[: len(free) - len(chosen)] if json.dumps(p.prompt) not in taken]
    if len(chosen) < validation or not rest:
        raise DataError(
            f"--validation {validation}: only {len(free)} training problems are not among the held-out ones; "
            "lower it, or give more data"
        )
    return rest, chosen


def write_problems(path: Path, problems: "Sequence[Problem]") -> None:
    """Writes problems as JSON Lines that `ibtpo train` reads.

    Raises `DataError` if a column of a problem is nothing that JSON can hold.
    """
    path.parent.mkdir(exist_ok=True)
    lines = []
    for p in problems:
        try:
            lines.append(json.dumps({**p.columns, "question": p.prompt, "id": p.id}, ensure_ascii=False) + "\n")
        except TypeError as e:
            raise DataError(f"problem {p.id!r} cannot be written as JSON ({e}); remove the column") from e
    write_whole(path, "".join(lines))


def check_numbers(numbers: Mapping[str, Sequence[float]]) -> None:
    """Checks the numbers that were given for options.

    numbers: for each option, its values.

    Raises `ConfigError` for a value that is not above 0, or that an option has twice.
    """
    for name, values in numbers.items():
        for value in values:
            if not 0 < value < math.inf:
                raise ConfigError(f"{name} must be above 0, got {value:g}")
        if len(set(values)) < len(values):
            raise ConfigError(f"{name} {' '.join(f'{v:g}' for v in values)}: a value occurs twice; give each once")
