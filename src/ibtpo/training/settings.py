"""Settings of `ibtpo train`: a recipe, a method and `--key value` overrides become one checked set of options.

Two kinds of key share one flat namespace: those of `RunSettings` below and every field of `IBTPOConfig`.
"""

import dataclasses
import math
import os
import reprlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..engines.models import DTYPES
from ..errors import ConfigError, unknown
from ..search import Budget
from ..storage.recipes import TRAIN_SWITCHES, find_recipe
from ..storage.yaml_file import read_yaml
from ..verify.pool import function_name
from .config import IBTPOConfig, check_least
from .methods import METHODS

# Flat groups of 8 cost about as many tokens as trees of 12 (spec section 9), and TRL's default is 8.
FLAT_GROUP = 8

# Set by the command itself, from the run folder and the number of processes; what to use in their place.
_RESERVED = {
    "output_dir": "--output",
    "run_dir": "--output",
    "per_device_train_batch_size": "prompts_per_step and rows_per_forward",
    "gradient_accumulation_steps": "prompts_per_step and rows_per_forward",
    "model_init_kwargs": "dtype and attn_implementation",
}


def _setting(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass
class RunSettings:
    """What a run needs besides the trainer's configuration."""

    model: str = _setting("nano", "nano, smollm2-135m, a folder or a hub id")
    dtype: str = _setting("float32", "the model's floating point type")
    attn_implementation: str | None = _setting(
        None, "sdpa, eager or, on a GPU, flex_attention, which skips what a tree's mask hides; default: transformers'"
    )
    data: str = _setting("walk:train", "walk:train, a .jsonl file or a hub data set id")
    data_split: str = _setting("train", "split of a hub data set")
    limit: int | None = _setting(None, "use the first n problems")
    eval_data: str | None = _setting(None, "held-out problems; default: no evaluation")
    eval_limit: int = _setting(200, "how many held-out problems")
    eval_k: int = _setting(4, "answers a held-out problem")
    eval_before: bool = _setting(True, "measure the untrained model on the held-out problems, too")
    eval_every_tokens: int | None = _setting(None, "measure also each time so many more tokens were generated")
    method: str = _setting("ibtpo", ", ".join(METHODS))
    verifier: str | None = _setting(
        None, "math, countdown, choice, walk or package.module:function; default: by the data"
    )
    system_prompt: str | None = _setting(None, "system message of a chat model")
    instruction: str | None = _setting(None, "text appended to every question")
    prompts_per_step: int = _setting(16, "questions an optimiser step, over all processes")
    rows_per_forward: int | None = _setting(None, "answers in one forward pass; default: all of the process's")
    threads: int | None = _setting(None, "CPU threads of PyTorch; one is fastest for a tiny model on a busy machine")
    lora_r: int = _setting(0, "rank of a LoRA adapter; 0 trains all weights")
    lora_alpha: int = _setting(16, "scale of the LoRA adapter")

    def __post_init__(self) -> None:
        if self.eval_data in ("none", ""):
            self.eval_data = None
        check_least(self, _LEAST)
        if self.dtype not in DTYPES:
            raise unknown("dtype", self.dtype, DTYPES)
        if self.verifier is not None:
            function_name(self.verifier)


_LEAST = {
    **dict.fromkeys(("limit", "eval_limit", "eval_k", "eval_every_tokens"), 1),
    **dict.fromkeys(("prompts_per_step", "rows_per_forward", "threads"), 1),
    **{"lora_r": 0, "lora_alpha": 1},
}


def known_settings() -> dict[str, Any]:
    """Every key `ibtpo train` takes, with the field that describes it."""
    fields = {f.name: f for f in dataclasses.fields(IBTPOConfig) if f.init and f.name not in _RESERVED}
    return {**fields, **{f.name: f for f in dataclasses.fields(RunSettings)}}


def describe() -> list[tuple[str, Any, str]]:
    """(name, default, help) of the run's options and of those IB-TPO adds to TRL or gives another default."""
    ours = [f for f in dataclasses.fields(IBTPOConfig) if f.name in IBTPOConfig.__annotations__]
    fields = [*dataclasses.fields(RunSettings), *ours]
    return [(f.name, f.default, f.metadata["help"]) for f in fields if f.name not in _RESERVED]


def read_recipe(path: Path) -> dict[str, Any]:
    """The keys of a YAML recipe."""
    recipe = read_yaml(path)
    for name in (*TRAIN_SWITCHES, "output", "resume"):
        if name in recipe:
            raise ConfigError(f"{path}: {name!r} is for the command line: --{name.replace('_', '-')}")
    return recipe


def resolve(recipe: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """Recipe, method and overrides as one dictionary, every key known and of the right type.

    A method in the recipe gives way to the recipe's own keys; one in `overrides` replaces them.
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
    if preset["branching"] == "independent":
        group = overrides.get("num_generations", FLAT_GROUP)
        preset |= {"num_generations": group, "tree": f"{group},1,1,1"}
    merged = {**recipe, **preset} if "method" in overrides else {**preset, **recipe}
    merged = {**merged, **overrides, "method": method}
    return {name: _typed(known[name], value) for name, value in merged.items()}


def resolved(settings: dict[str, Any], config: IBTPOConfig) -> dict[str, Any]:
    """The settings with every option of the method spelt out: what `config.yaml` holds."""
    run, _ = split(settings)
    own = {name: getattr(config, name) for name in IBTPOConfig.__annotations__ if name not in _RESERVED}
    return {**dataclasses.asdict(run), **settings, **own}


def _refuse_schedules(trainer: dict[str, Any]) -> None:
    """A run that ends at a token budget has no known number of steps: nothing can be a share of it."""
    kind = trainer.get("lr_scheduler_type", "constant")
    if kind not in ("constant", "constant_with_warmup"):
        raise ConfigError(f"lr_scheduler_type {kind} needs a number of steps; give max_steps or num_train_epochs in "
                          f"place of max_generated_tokens")  # fmt: skip
    warmup = trainer.get("warmup_steps") or 0
    if 0 < warmup < 1 or trainer.get("warmup_ratio"):
        raise ConfigError("with max_generated_tokens, warm-up must be a number of steps: warmup_steps 10")
    if "num_train_epochs" in trainer:
        raise ConfigError("max_generated_tokens and num_train_epochs both end the run; give one of them")


def _typed(f: Any, value: Any) -> Any:
    """YAML reads 1e-6 as text: numbers are turned into what the field holds; anything else must fit already."""
    kind = f.type if isinstance(f.type, str) else getattr(f.type, "__name__", str(f.type))
    kinds = [k.strip() for k in str(f.type if "|" in str(f.type) else kind).split("|")]
    if isinstance(value, bool) and "bool" in kinds:
        return value
    if value is None:
        if kinds in (["str"], ["int"], ["float"], ["bool"]):
            raise ConfigError(f"{f.name} needs a value, got none; leave it out for its default")
        return value
    if "float" in kinds and not isinstance(value, bool):
        try:
            number = int(value) if "int" in kinds and float(value).is_integer() else float(value)
        except (TypeError, ValueError, OverflowError) as e:
            raise ConfigError(f"{f.name} must be a number, got {_short(value)}") from e
        if not math.isfinite(number):
            raise ConfigError(f"{f.name} must be a finite number, got {value}")
        return number
    if kinds in (["float"], ["float", "None"]):
        raise ConfigError(f"{f.name} must be a number, got {value}")
    if "int" in kinds and "str" not in kinds and (isinstance(value, bool) or not isinstance(value, int)):
        raise ConfigError(f"{f.name} must be an integer, got {_short(value)}")
    if kinds in (["bool"], ["bool", "None"]) and not isinstance(value, bool):
        raise ConfigError(f"{f.name} must be true or false, got {_short(value)}")
    if set(kinds) <= {"str", "None"} and not isinstance(value, str):
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise ConfigError(f"{f.name} must be text, got {_short(value)}")
        return str(value)
    return value


def _short(value: Any) -> str:
    """A value in a message: a few words of it, however deep it is."""
    return reprlib.repr(value)


def split(settings: dict[str, Any]) -> tuple[RunSettings, dict[str, Any]]:
    """The run's own settings and the trainer's."""
    own = {f.name for f in dataclasses.fields(RunSettings)}
    run = RunSettings(**{k: v for k, v in settings.items() if k in own})
    return run, {k: v for k, v in settings.items() if k not in own}


def make_config(run: RunSettings, trainer: dict[str, Any], folder: Path) -> IBTPOConfig:
    """The trainer's configuration: batch sizes from prompts_per_step, G and the number of processes."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
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
        "run_name": folder.name,  # in trackers
        "disable_tqdm": True,
        "lr_scheduler_type": "constant",
        "save_steps": 10,
        "save_total_limit": 2,
        "gradient_checkpointing": False,
        "restore_callback_states_from_checkpoint": False,
    }
    if trainer.get("max_generated_tokens") is not None:
        defaults["max_steps"] = 1_000_000  # the token budget ends the run
        _refuse_schedules(trainer)
    if run.dtype != "float32" and not run.lora_r:
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


def base_settings(recipe: str | None, overrides: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Name and keys a run starts from: the recipe; without one the embedded task's, or for other data none."""
    if recipe is not None and recipe.endswith((".yaml", ".yml")):
        return Path(recipe).stem, read_recipe(Path(recipe))
    if recipe is None and str(overrides.get("data", "walk")).partition(":")[0] != "walk":
        return "run", {}
    return recipe or "nano-walk", read_recipe(find_recipe(recipe or "nano-walk"))
