"""What a training comparison runs: the problems, the pilots that choose each arm's learning rate, the final runs.

A comparison's folder:

    plan.json           the settings all runs share, the arms and seeds, versions and machine
    data/               train.jsonl, validation.jsonl, held_out.jsonl: no question in two of them
    arms/ARM.yaml       the recipe of an arm
    pilots/ARM/lrX/seedK/, runs/ARM/seedK/    run folders of `ibtpo train`
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

from ..errors import CheckpointError, ConfigError, DataError
from ..storage.run_folder import RunFolder, write_whole
from .training_arms import assignments, folder_name, parse
from .training_jobs import Job

if TYPE_CHECKING:
    from ..tasks.problems import Problem

# Of a recipe, what a comparison replaces: how long a run lasts, its seed and rate, and which problems there are.
_COLUMNS = ("question_column", "answer_column")  # the problems' own; the files written of them have the usual ones
_REPLACED = ("max_steps", "num_train_epochs", "seed", "learning_rate", "limit", "data_split", *_COLUMNS)


@dataclass(frozen=True)
class Plan:
    """A comparison. shared: settings that must not change when it is gone on with; arms and seeds may be added."""

    folder: Path
    shared: dict[str, Any]
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    env: dict[str, Any]

    @property
    def rates(self) -> list[float]:
        """The grid of learning rates."""
        return list(self.shared["learning_rates"])

    def pilot(self, arm: str, rate: float, seed: int) -> Job:
        """A short run that is measured on the validation problems, at its end only."""
        validation = self.folder / "data" / "validation.jsonl"
        words = (
            *self._words(arm, rate, seed), "--max_generated_tokens", str(self.shared["pilot_tokens"]),
            "--eval_data", str(validation), "--eval_limit",
            str(self.shared["validation"]), "--eval_before", "false", "--eval_every_tokens", "null",
            "--save_trees_every", "0",
        )  # fmt: skip
        folder = self.folder / "pilots" / folder_name(arm) / f"lr{rate:g}" / f"seed{seed}"
        return Job(f"pilot of {arm} at {rate:g}, seed {seed}", folder, words)

    def final(self, arm: str, rate: float, seed: int) -> Job:
        """A run of the result."""
        folder = self.folder / "runs" / folder_name(arm) / f"seed{seed}"
        return Job(f"{arm}, seed {seed}", folder, self._words(arm, rate, seed))

    def pilots(self) -> list[Job]:
        """Every pilot; none where there is nothing to choose."""
        if len(self.rates) == 1:
            return []
        seeds = self.shared["pilot_seeds"]
        return [self.pilot(arm, rate, seed) for seed in seeds for arm in self.arms for rate in self.rates]

    def finals(self, rates: Mapping[str, float]) -> list[Job]:
        """Every final run, seed by seed: what is finished at any time compares the arms on the same seeds."""
        return [self.final(arm, rates[arm], seed) for seed in self.seeds for arm in self.arms if arm in rates]

    def choices(self) -> dict[str, dict[str, Any]]:
        """Each arm whose pilots are all finished: its validation accuracies, and the rate they choose."""
        found = {}
        for arm in self.arms:
            if len(self.rates) == 1:
                found[arm] = {"learning_rate": self.rates[0]}
                continue
            accuracies = {
                rate: [_validated(self.pilot(arm, rate, seed)) for seed in self.shared["pilot_seeds"]]
                for rate in self.rates
            }
            if all(a is not None for row in accuracies.values() for a in row):
                found[arm] = choose_rate(accuracies)  # type: ignore[arg-type]
        return found

    def _words(self, arm: str, rate: float, seed: int) -> tuple[str, ...]:
        recipe = self.folder / "arms" / f"{folder_name(arm)}.yaml"
        return (str(recipe), "--learning_rate", f"{rate:g}", "--seed", str(seed))

    def save(self) -> None:
        """Writes `plan.json`."""
        plan = {"shared": self.shared, "arms": self.arms, "seeds": self.seeds, "env": self.env}
        write_whole(self.folder / "plan.json", json.dumps(plan, indent=1) + "\n")


def load_plan(folder: Path) -> Plan:
    """The plan of a comparison that was begun."""
    file = folder / "plan.json"
    if not file.is_file():
        raise CheckpointError(f"{folder} holds no comparison: it has no plan.json; name the --output of one")
    try:
        plan = json.loads(file.read_text())
        return Plan(folder, plan["shared"], tuple(plan["arms"]), tuple(plan["seeds"]), plan["env"])
    except (ValueError, LookupError, TypeError) as e:
        raise CheckpointError(f"{file} cannot be read ({type(e).__name__}: {e}); start again in another folder") from e


def go_on(old: Plan, new: Plan) -> Plan:
    """The plan of a comparison that is gone on with: arms and seeds of both. Raises `ConfigError` where they differ."""
    for key, value in json.loads(json.dumps(new.shared)).items():
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
    """A pilot's accuracy, NaN if nothing was graded; None if it is not finished."""
    after = RunFolder(pilot.folder).read_eval().get("after")
    if after is None:
        return None
    return math.nan if after["avg"] is None else float(after["avg"])


def choose_rate(accuracies: Mapping[float, Sequence[float]]) -> dict[str, Any]:
    """The rate of the best mean accuracy over the pilots' seeds, of equal ones the smallest.

    {"learning_rate", "validation": {rate: [accuracy a seed]}, "at_edge": a rate beyond the grid might be better}.
    """
    means = {
        rate: -math.inf if any(map(math.isnan, row)) else math.fsum(row) / len(row) for rate, row in accuracies.items()
    }
    best = min(means, key=lambda rate: (-means[rate], rate))
    return {
        "learning_rate": best,
        "at_edge": best in (min(means), max(means)),
        "validation": {f"{rate:g}": list(row) for rate, row in sorted(accuracies.items())},
    }


def arm_settings(arm: str, recipe: Mapping[str, Any], changes: Sequence[str], common: Mapping[str, Any]) -> Any:
    """The checked settings of an arm, and with them `RunSettings`. changes: KEY=VALUE of all arms."""
    from ..training import settings as st

    base = {name: value for name, value in recipe.items() if name not in _REPLACED}
    try:
        changed = {name: value for name, value in assignments(changes, "--set").items() if name not in _COLUMNS}
        settings = st.resolve(base, {**changed, **parse(arm), **common})
        if settings.get("threads"):
            settings["threads"] = 1  # runs share the machine
        run, trainer = st.split(settings)
        st.make_config(run, trainer, Path("unused"))
    except ConfigError as e:
        raise e if str(e).startswith("--") else ConfigError(f"--arms {arm!r}: {e}") from e
    return settings, run


def write_arm(plan: Plan, arm: str, settings: Mapping[str, Any]) -> None:
    """The arm's recipe."""
    file = plan.folder / "arms" / f"{folder_name(arm)}.yaml"
    file.parent.mkdir(exist_ok=True)
    text = yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True)
    write_whole(file, f"# The arm {arm}\n{text}")


def split_problems(
    training: "Sequence[Problem]", held_out: "Sequence[Problem]", validation: int
) -> "tuple[list[Problem], list[Problem]]":
    """What to train on, and the last `validation` problems for choosing rates: no question in two of the three lists.

    A question that occurs in two goes to the held-out problems before the validation problems before training.
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
    """Problems as JSON Lines that `ibtpo train` reads."""
    path.parent.mkdir(exist_ok=True)
    lines = []
    for p in problems:
        try:
            lines.append(json.dumps({**p.columns, "question": p.prompt, "id": p.id}, ensure_ascii=False) + "\n")
        except TypeError as e:
            raise DataError(f"problem {p.id!r} cannot be written as JSON ({e}); remove the column") from e
    write_whole(path, "".join(lines))


def check_numbers(numbers: Mapping[str, Sequence[float]]) -> None:
    """Raises `ConfigError` for option values that are not above 0, or given twice."""
    for name, values in numbers.items():
        for value in values:
            if not 0 < value < math.inf:
                raise ConfigError(f"{name} must be above 0, got {value:g}")
        if len(set(values)) < len(values):
            raise ConfigError(f"{name} {' '.join(f'{v:g}' for v in values)}: a value occurs twice; give each once")
