"""LoRA adapters: PEFT's options as settings of a run."""

import dataclasses
from typing import Any

from .._extras import missing_package
from .._text import describe
from ..errors import ConfigError, unknown
from .settings import RunSettings


def lora_config(run: RunSettings) -> Any | None:
    """`peft.LoraConfig` of a run's settings, or None for a run that trains all weights.

    `lora_r` and `lora_alpha` are its rank and scale, `lora` holds any other of its fields, and these two as well. What
    is given nowhere is PEFT's default, but that all linear layers get an adapter.
    Raises `ConfigError` for an unknown field or a value that PEFT refuses, `DependencyError` without PEFT.
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
    """Raises `ConfigError` where the model has no layer that the adapter names.

    PEFT finds out when it puts the adapter in. Here it does so into a model without weights, before a run folder is
    made, or an older one deleted.
    """
    import copy

    from peft import get_peft_model

    from ..engines.models import load_skeleton

    skeleton, _ = load_skeleton(model_name)
    trial = copy.deepcopy(config)
    trial.init_lora_weights, trial.use_dora = True, False  # other ways to begin compute with the weights
    try:
        get_peft_model(skeleton, trial)
    except (TypeError, ValueError) as e:
        raise ConfigError(f"lora: PEFT cannot put this adapter into {model_name}: {describe(e)}") from e
