"""Settings of `ibtpo train`: a recipe, a method and `--key value` overrides become one checked set of options.

Two kinds of key share one flat namespace: those of `RunSettings` below and every field of `IBTPOConfig`. The way of a
run's settings: `base_settings` reads the recipe, `resolve` merges it with method and overrides, `split` takes the two
kinds of key apart, `make_config` makes the trainer's configuration, and `resolved` is what `config.yaml` then holds.
"""

import dataclasses
import math
import os
import reprlib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .._options import DOTTED
from ..engines.models import DTYPES
from ..errors import ConfigError, unknown
from ..search import Budget
from ..storage.recipes import TRAIN_SWITCHES, find_recipe
from ..storage.yaml_file import read_yaml
from ..tasks.problems import ANSWER_VERIFIERS
from ..verify import BUILTIN
from ..verify.outcome import check_weights
from ..verify.pool import function_name
from .config import IBTPOConfig, check_least
from .methods import METHODS
from .processes import process_count
from .schedule import TOKEN_SCHEDULES

# G of a method without branches: in the paper 8 independent answers cost about as many tokens as a tree of 12, and 8 is
# TRL's default, too.
FLAT_GROUP = 8

# Fields that the command sets itself, from the run folder and the number of processes, and what to use in their place.
_RESERVED = {
    "output_dir": "--output",
    "run_dir": "--output",
    "per_device_train_batch_size": "prompts_per_step and rows_per_forward",
    "gradient_accumulation_steps": "prompts_per_step and rows_per_forward",
    "model_init_kwargs": "dtype and attn_implementation",
}


_VERIFIER_HELP = (
    f"{', '.join(BUILTIN)} or {DOTTED}; or a list of them, weighed by reward_weights, whose first decides what is "
    f"right; default: by the data"
)
_LORA_HELP = "other fields of peft.LoraConfig, e.g. {r: 8, target_modules: [q_proj, v_proj], use_dora: true}"


def _setting(default: Any, help: str) -> Any:
    """A field of `RunSettings`, with the help text that `ibtpo train --options` prints."""
    return field(default=default, metadata={"help": help})


@dataclass
class RunSettings:
    """What a run needs besides the trainer's configuration: model, data, evaluation, batch and adapter.

    Each field says what it means in its `help`. Raises `ConfigError` for a value that is wrong.
    """

    model: str = _setting("nano", "nano, smollm2-135m, a folder or a hub id")
    dtype: str = _setting("float32", "the model's floating point type")
    attn_implementation: str | None = _setting(
        None, "sdpa, eager or, on a GPU, flex_attention, which skips what a tree's mask hides; default: transformers'"
    )
    data: str = _setting("walk:train", "walk:train, a .jsonl file or a hub data set id")
    data_split: str = _setting("train", "split of a hub data set or of a folder of files")
    limit: int | None = _setting(None, "use the first n problems")
    eval_data: str | None = _setting(None, "held-out problems; default: no evaluation")
    eval_split: str = _setting("test", "split of the held-out problems, as data_split")
    eval_limit: int = _setting(200, "how many held-out problems")
    eval_k: int = _setting(4, "answers a held-out problem")
    eval_before: bool = _setting(True, "measure the untrained model on the held-out problems, too")
    eval_every_tokens: int | None = _setting(None, "measure also each time so many more tokens were generated")
    method: str = _setting("ibtpo", ", ".join(METHODS))
    question_column: str | None = _setting(None, "default: question, prompt or problem")
    answer_column: str | None = _setting(None, "default: answer or solution")
    verifier: str | list[str] | None = field(default=None, metadata={"help": _VERIFIER_HELP})
    system_prompt: str | None = _setting(None, "system message of a chat model")
    instruction: str | None = _setting(None, "text appended to every question")
    prompts_per_step: int = _setting(16, "questions an optimiser step, over all processes")
    rows_per_forward: int | None = _setting(None, "answers in one forward pass; default: all of the process's")
    threads: int | None = _setting(None, "CPU threads of PyTorch; one is fastest for a tiny model on a busy machine")
    lora_r: int = _setting(0, "rank of a LoRA adapter; 0 trains all weights")
    lora_alpha: int = _setting(16, "scale of the LoRA adapter")
    lora: dict[str, Any] | None = field(default=None, metadata={"help": _LORA_HELP})

    def __post_init__(self) -> None:
        if self.eval_data in ("none", ""):
            self.eval_data = None
        check_least(self, _LEAST)
        if self.dtype not in DTYPES:
            raise unknown("dtype", self.dtype, DTYPES)
        if isinstance(self.verifier, str) and "," in self.verifier:
            self.verifier = [name.strip() for name in self.verifier.split(",")]
        for name in self.verifiers:
            function_name(name)

    @property
    def verifiers(self) -> list[str]:
        """The names of the verifiers; empty where the data decides."""
        return [self.verifier] if isinstance(self.verifier, str) else list(self.verifier or ())

    @property
    def needs_answers(self) -> bool:
        """Whether every problem must have a reference answer."""
        return not self.verifiers or any(name in ANSWER_VERIFIERS for name in self.verifiers)

    @property
    def trains_adapter(self) -> bool:
        """Whether a LoRA adapter is trained in place of all weights."""
        return bool(self.lora_r or self.lora)


# The least value of each number.
_LEAST = {
    **dict.fromkeys(("limit", "eval_limit", "eval_k", "eval_every_tokens"), 1),
    **dict.fromkeys(("prompts_per_step", "rows_per_forward", "threads"), 1),
    **{"lora_r": 0, "lora_alpha": 1},
}


def known_settings() -> dict[str, Any]:
    """Every key that a recipe or a command line may set, with the type of its values."""
    hints = {**typing.get_type_hints(IBTPOConfig), **typing.get_type_hints(RunSettings)}
    names = [f.name for cls in (IBTPOConfig, RunSettings) for f in dataclasses.fields(cls) if f.init]
    return {name: hints[name] for name in names if name not in _RESERVED}


def describe() -> list[tuple[str, Any, str]]:
    """The name, default and help text of every option that TRL does not have, or has with another default."""
    ours = [f for f in dataclasses.fields(IBTPOConfig) if f.name in IBTPOConfig.__annotations__]
    fields = [*dataclasses.fields(RunSettings), *ours]
    return [(f.name, f.default, f.metadata["help"]) for f in fields if f.name not in _RESERVED]


def read_recipe(path: Path) -> dict[str, Any]:
    """Reads the settings of a YAML recipe. Raises `ConfigError` for one that belongs to the command line."""
    return _without_switches(read_yaml(path), str(path))


def _without_switches(recipe: dict[str, Any], where: str) -> dict[str, Any]:
    """The recipe as it is, if no key of it belongs to the command line. where: what an error names as its source."""
    for name in (*TRAIN_SWITCHES, "output", "resume"):
        if name in recipe:
            python = f" (in Python {name}=…)" if name in ("overwrite", "output", "resume") else ""
            raise ConfigError(f"{where}: {name!r} is for the command line: --{name.replace('_', '-')}{python}")
    return recipe


def resolve(recipe: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """Merges recipe, method and overrides into one set of settings, each of a known name and of the right type.

    A method is a preset of options. Where the recipe names the method, the recipe's own keys go before the preset;
    where `overrides` name it, the preset goes before the recipe. `overrides` go before everything.

    recipe: settings by name.
    overrides: settings by name.

    Raises `ConfigError` for an unknown name or method, for a setting that the command sets itself, and for a value of
    the wrong type.
    """
    known = known_settings()
    for name in (*recipe, *overrides):
        if name in _RESERVED:
            raise ConfigError(f"{name!r} is set by the command itself; use {_RESERVED[name]}")
        if name not in known:
            raise unknown("option", name, (*known, *TRAIN_SWITCHES, "output", "resume"))
    method = overrides.get("method", recipe.get("method", "ibtpo"))
    if not isinstance(method, str) or method not in METHODS:
        raise unknown("method", str(method), METHODS)
    preset = dict(METHODS[method])
    given = overrides if "method" in overrides else {**recipe, **overrides}  # what goes before the preset
    # With a branching rule in place of the preset's, the tree is the one given.
    if preset["branching"] == given.get("branching", "independent") == "independent":
        group = given.get("num_generations") or FLAT_GROUP
        preset |= {"num_generations": group, "tree": f"{group},1,1,1"}
    merged = {**recipe, **preset} if "method" in overrides else {**preset, **recipe}
    merged = {**merged, **overrides, "method": method}
    return {name: _typed(name, known[name], value) for name, value in merged.items()}


def resolved(settings: dict[str, Any], config: IBTPOConfig) -> dict[str, Any]:
    """The settings as `config.yaml` holds them.

    These are every option that TRL does not have, or has with another default, and those of TRL's own that were given.

    settings: what `resolve` returned.
    config: the configuration that `make_config` made of them.
    """
    run, _ = split(settings)
    own = {name: getattr(config, name) for name in IBTPOConfig.__annotations__ if name not in _RESERVED}
    return {**dataclasses.asdict(run), **settings, **own}


def _refuse_schedules(trainer: dict[str, Any]) -> None:
    """Refuses schedules that need the number of steps, which a run that ends at a token budget does not know.

    trainer: the trainer's settings.
    """
    kind = trainer.get("lr_scheduler_type", "constant")
    if kind not in ("constant", "constant_with_warmup", *TOKEN_SCHEDULES):
        raise ConfigError(f"lr_scheduler_type {kind} needs a number of steps; give max_steps or num_train_epochs in "
                          f"place of max_generated_tokens, or {' or '.join(TOKEN_SCHEDULES)}")  # fmt: skip
    warmup = trainer.get("warmup_steps") or 0
    if 0 < warmup < 1 or trainer.get("warmup_ratio"):
        raise ConfigError("with max_generated_tokens, warm-up must be a number of steps: warmup_steps 10")
    if "num_train_epochs" in trainer:
        raise ConfigError("max_generated_tokens and num_train_epochs both end the run; give one of them")


def _typed(name: str, hint: Any, value: Any) -> Any:
    """A value converted to the type of its option, or a `ConfigError`.

    name: the option, for messages.
    hint: the type of its field.
    value: the value as YAML reads it, which takes 1e-6 for a text, not a number.
    """
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if name == "tree" and isinstance(value, list | tuple):  # as YAML writes four integers: [4, 9, 1, 1]
        value = ",".join(map(str, value))
    members = typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)
    kinds = {typing.get_origin(member) or member for member in members}
    optional = type(None) in kinds
    kinds.discard(type(None))
    if value is None:
        if not optional and kinds <= {str, int, float, bool}:
            raise ConfigError(f"{name} needs a value, got none; leave it out for its default")
        return value
    if isinstance(value, bool) and bool in kinds:
        return value
    if float in kinds:
        return _number(name, value, whole=int in kinds)
    if int in kinds and str not in kinds and (isinstance(value, bool) or not isinstance(value, int)):
        raise ConfigError(f"{name} must be an integer, got {_short(value)}")
    if kinds == {bool}:
        raise ConfigError(f"{name} must be true or false, got {_short(value)}")
    if kinds == {dict} and not isinstance(value, Mapping):
        raise ConfigError(f"{name} must be a mapping such as {{key: value}}, got {_short(value)}")
    if list in kinds and isinstance(value, Sequence) and not isinstance(value, str):
        (of,) = next(typing.get_args(member) for member in members if typing.get_origin(member) is list)
        return [_typed(f"each of {name}", of, item) for item in value]
    if kinds == {list}:
        raise ConfigError(f"{name} must be a list such as [1, 0.5], got {_short(value)}")
    if str in kinds and kinds <= {str, list} and not isinstance(value, str):
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise ConfigError(f"{name} must be text{' or a list' * (list in kinds)}, got {_short(value)}")
        return str(value)
    return value


def _number(name: str, value: Any, *, whole: bool) -> float:
    """A finite number read from a number or a text.

    name: the option, for messages.
    whole: whether a whole number becomes an integer, for options that may be one.
    """
    if isinstance(value, bool):
        raise ConfigError(f"{name} must be a number, got {value}")
    try:
        number = int(value) if whole and float(value).is_integer() else float(value)
    except (TypeError, ValueError, OverflowError) as e:
        raise ConfigError(f"{name} must be a number, got {_short(value)}") from e
    if not math.isfinite(number):
        raise ConfigError(f"{name} must be a finite number, got {value}")
    return number


def _short(value: Any) -> str:
    """A value as a message shows it: cut short, however deep it is."""
    return reprlib.repr(value)


def split(settings: dict[str, Any]) -> tuple[RunSettings, dict[str, Any]]:
    """Takes the settings apart: those of the run, checked, and those of the trainer, by name."""
    own = {f.name for f in dataclasses.fields(RunSettings)}
    run = RunSettings(**{k: v for k, v in settings.items() if k in own})
    return run, {k: v for k, v in settings.items() if k not in own}


def make_config(run: RunSettings, trainer: dict[str, Any], folder: Path) -> IBTPOConfig:
    """Makes the trainer's configuration, with batch sizes from prompts_per_step, G and the number of processes.

    A step samples prompts_per_step x G answers, each process the same share. A process's share is computed in forward
    passes of `rows_per_forward` answers, whose gradients are accumulated.

    run: the run's own settings.
    trainer: the trainer's settings by name; what they leave out has the defaults of a run, then `IBTPOConfig`'s.
    folder: the run folder, for checkpoints and trees.

    Raises `ConfigError` for settings that do not fit each other.
    """
    processes = process_count()
    group = trainer.get("num_generations")
    if group is not None and group < 2:
        raise ConfigError(f"num_generations must be at least 2, got {group}: an advantage compares answers")
    group = group or 12
    if trainer.get("tree") and "num_generations" not in trainer:
        group = Budget.parse(trainer["tree"]).trajectories
    if run.prompts_per_step % processes:
        raise ConfigError(
            f"prompts_per_step ({run.prompts_per_step}) must be a multiple of the number of processes ({processes})"
        )
    rows = run.prompts_per_step // processes * group
    per_forward = min(run.rows_per_forward or rows, rows)
    if rows % per_forward:
        raise ConfigError(
            f"rows_per_forward ({per_forward}) must divide the answers a process has in a step: prompts_per_step / "
            f"processes x num_generations = {rows}"
        )
    defaults: dict[str, Any] = {
        "report_to": "none",
        "run_name": folder.name,  # what trackers call the run
        "disable_tqdm": True,
        "lr_scheduler_type": "constant",
        "save_steps": 10,
        "save_total_limit": 2,
        "gradient_checkpointing": False,
        "restore_callback_states_from_checkpoint": False,
    }
    if trainer.get("max_generated_tokens") is not None:
        defaults["max_steps"] = 1_000_000  # more than any budget lasts: the tokens end the run
        _refuse_schedules(trainer)
    if trainer.get("reward_weights") is not None:
        check_weights(trainer["reward_weights"], run.verifiers or ["the one that goes with the data"])
    if run.dtype != "float32" and not run.trains_adapter:
        raise ConfigError(
            f"dtype {run.dtype} loses updates as small as lr 1e-6 makes them: keep float32 weights (on an accelerator "
            f"the arithmetic is bfloat16 anyway, bf16: true), or train a LoRA adapter with lora_r"
        )
    try:
        return IBTPOConfig(
            output_dir=str(folder / "checkpoints"),
            run_dir=str(folder),
            per_device_train_batch_size=per_forward,
            gradient_accumulation_steps=rows // per_forward,
            **{**defaults, "num_generations": group, **trainer},
        )
    except (TypeError, ValueError) as e:
        if isinstance(e, ConfigError):
            raise
        raise ConfigError(str(e)) from e


def base_settings(
    recipe: str | os.PathLike[str] | Mapping[str, Any] | None, overrides: Mapping[str, Any]
) -> tuple[str, dict[str, Any]]:
    """The name and the settings that a run starts from.

    recipe: the name of a shipped recipe, a YAML file, or settings by name. None stands for the recipe of the embedded
        task, or for no settings if `overrides` name other data.
    overrides: the settings given beside the recipe; only `data` is looked at.

    Returns the name, of which the default run folder is made, and the settings. Raises `ConfigError` for a recipe that
    does not exist or cannot be read.
    """
    if isinstance(recipe, Mapping):
        return "run", _without_switches(dict(recipe), "the recipe")
    recipe = None if recipe is None else os.fspath(recipe)
    if recipe is not None and recipe.endswith((".yaml", ".yml")):
        return Path(recipe).stem, read_recipe(Path(recipe))
    if recipe is None and str(overrides.get("data", "walk")).partition(":")[0] != "walk":
        return "run", {}
    return recipe or "nano-walk", read_recipe(find_recipe(recipe or "nano-walk"))


# The settings that may change when a run is resumed: those that say where it ends.
ENDS = ("max_generated_tokens", "max_steps", "num_train_epochs")


def prolong(settings: dict[str, Any], changes: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The settings of a resumed run, whose end may be put off.

    settings: those the run was started with.
    changes: those of `ENDS` that move the end; empty if it stays.
    folder: the run folder, for messages.

    Raises `ConfigError` for a change of any other setting, for an end that the run does not have, and for an earlier
    end.
    """
    others = [name for name in changes if name not in ENDS]
    if changes and settings.get("lr_scheduler_type", "constant") not in ("constant", "constant_with_warmup"):
        raise ConfigError(
            f"--resume: the learning rate of the run in {folder} fell towards its end, which cannot be put off; start "
            "another run"
        )
    if others:
        raise ConfigError(
            f"--resume takes the settings of {folder}; leave out {others}: only {', '.join(ENDS)} may change"
        )
    ends = [name for name in ENDS if settings.get(name) not in (None, -1)] or ["num_train_epochs"]
    wanted = resolve(settings, changes)
    for name in changes:
        before = settings.get(name, IBTPOConfig.num_train_epochs)
        if name not in ends:
            raise ConfigError(f"--resume: the run in {folder} ends by {' and '.join(ends)}, {name} cannot prolong it")
        if wanted[name] is None or wanted[name] < before:
            raise ConfigError(
                f"--resume: {name} was {before}, and the end of a run can only be put off; got {wanted[name]}"
            )
    return wanted
