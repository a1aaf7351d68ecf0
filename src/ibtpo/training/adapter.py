"""LoRA adapters: what a run's settings say of them becomes PEFT's configuration, and is tried on the model early."""

import dataclasses
from typing import Any

from .._extras import missing_package
from .._text import describe
from ..errors import ConfigError, unknown
from .settings import RunSettings


def lora_config(run: RunSettings) -> Any | None:
    """The `peft.LoraConfig` of a run, or None for a run that trains all weights.

    run: its settings. `lora_r` and `lora_alpha` are rank and scale; `lora` maps any fields of `LoraConfig` to values,
        and a scale in it goes before `lora_alpha`. A field given nowhere has PEFT's default, except that all linear
        layers get an adapter and the task is causal language modelling.

    Raises `ConfigError` for an unknown field, for two different ranks, or for a value that PEFT refuses;
    `DependencyError` if PEFT is not installed.
    """
    if not run.trains_adapter:
        return None
    try:
        from peft import LoraConfig
    except ModuleNotFoundError as e:
        raise missing_package(e, "a LoRA adapter") or e from None
    fields = run.lora or {}
    known = [f.name for f in dataclasses.fields(LoraConfig) if f.init]
    for name in fields:
        if name not in known:
            raise unknown("option of lora", str(name), known)
    if run.lora_r and fields.get("r", run.lora_r) != run.lora_r:
        raise ConfigError(f"lora_r is {run.lora_r} but lora has r: {fields['r']}; give the rank once")
    given: dict[str, Any] = {"lora_alpha": run.lora_alpha, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    if run.lora_r:
        given["r"] = run.lora_r
    try:
        return LoraConfig(**{**given, **fields})
    except (TypeError, ValueError, ImportError) as e:
        raise ConfigError(f"lora: PEFT refuses these options: {describe(e)}") from e


def check_adapter(config: Any, model_name: str) -> None:
    """Checks that PEFT can put the adapter into the model, e.g. that the layers it names are there.

    PEFT finds out only when it puts the adapter in. So it is put into a model without weights first, before a run
    folder is made or an older one deleted.

    config: a `peft.LoraConfig`.
    model_name: a model's name, folder or hub id.

    Raises `ConfigError` with PEFT's reason if it cannot.
    """
    import copy

    from peft import get_peft_model

    from ..engines.models import load_skeleton

    skeleton, _ = load_skeleton(model_name)
    trial = copy.deepcopy(config)
    trial.init_lora_weights, trial.use_dora = True, False  # the other ways to initialise an adapter need the weights
    try:
        get_peft_model(skeleton, trial)
    except (TypeError, ValueError) as e:
        raise ConfigError(f"lora: PEFT cannot put this adapter into {model_name}: {describe(e)}") from e
