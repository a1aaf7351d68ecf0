"""Weights that are spread over the processes, by FSDP2 or DeepSpeed ZeRO as accelerate sets them up.

Trees need whole weights: each process grows its own, with as many forwards as they happen to take, and a forward over
spread weights is one that all processes make together. So `whole_model` brings the weights together while trees grow or
problems are answered, and spreads them again for the update. Meanwhile each process has all weights beside its part of
them. With ZeRO-2, as with DDP, they are whole anyway.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.distributed.fsdp import FSDPModule
from trl.models import unwrap_model_for_generation

from ..errors import ConfigError
from .processes import check_process_count


@contextmanager
def whole_model(trainer: Any) -> Iterator[Any]:
    """Gives the block the policy with all its weights, without wrappers. Inside, forwards do not communicate.

    Every process must enter and leave the block.

    trainer: a `trl.GRPOTrainer`; before `train` has spread the weights they are whole only where they were loaded so.
    """
    args = trainer.args
    with (
        _unsharded(trainer),
        unwrap_model_for_generation(
            trainer.deepspeed or trainer.model_wrapped,
            trainer.accelerator,
            gather_deepspeed3_params=True,
            gradient_checkpointing_kwargs=args.gradient_checkpointing_kwargs,
        ) as model,
    ):
        yield model


@contextmanager
def _unsharded(trainer: Any) -> Iterator[None]:
    """With FSDP2, all parts of the model hold all of their weights inside; nothing changes otherwise."""
    root = trainer.model_wrapped
    parts = [part for part in root.modules() if isinstance(part, FSDPModule)]
    for part in parts:
        part.unshard()
        part.set_reshard_after_forward(False, recurse=False)
    try:
        yield
    finally:
        for part in parts:  # what the root holds itself is kept for the backward pass, as PyTorch has it
            again = part is not root and bool(trainer.accelerator.state.fsdp_plugin.reshard_after_forward)
            part.set_reshard_after_forward(again, recurse=False)
            part.reshard()


def prepare_fsdp(model: Any, accelerator: Any) -> Any:
    """Spreads the reference model as accelerate spreads the policy, layer by layer.

    It takes the place of TRL's function, which spreads the model as one piece: each GPU would hold all of it, in
    float32 when it is made and again in every forward.

    Raises `ConfigError` under FSDP1.
    """
    refuse_fsdp1(accelerator)
    from accelerate.utils.fsdp_utils import fsdp2_prepare_model

    return fsdp2_prepare_model(accelerator, model).eval()


def check_sharding(trainer: Any) -> None:
    """Refuses what was asked for and would not happen, and ways of spreading weights that leave no model behind.

    trainer: a trainer that TRL has made.

    Raises `ConfigError`.
    """
    check_process_count(trainer.accelerator.num_processes)
    state = trainer.accelerator.state
    by_launcher = os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"
    if (by_launcher or getattr(trainer.args, "fsdp_plugin_args", None)) and not trainer.is_fsdp_enabled:
        raise ConfigError(
            "FSDP was asked for, but accelerate ignores it on a CPU and without a launcher, so every process would "
            "keep a whole model: leave use_fsdp out (DDP), or start on GPUs with accelerate launch"
        )
    refuse_fsdp1(trainer.accelerator)
    if trainer.is_fsdp_enabled:
        kind = getattr(state.fsdp_plugin.state_dict_type, "name", str(state.fsdp_plugin.state_dict_type))
        if kind != "FULL_STATE_DICT":
            raise ConfigError(
                f"with fsdp_state_dict_type {kind} no trained model would be saved, only its parts: set "
                f"fsdp_state_dict_type: FULL_STATE_DICT"
            )
    zero = getattr(state, "deepspeed_plugin", None)
    if zero is not None and zero.zero_stage == 3:
        if not trainer.args.ds3_gather_for_generation:
            raise ConfigError("trees and held-out problems need whole weights: leave ds3_gather_for_generation true")
        options = zero.deepspeed_config["zero_optimization"]
        if not options.get("stage3_gather_16bit_weights_on_model_save"):
            raise ConfigError(
                "with ZeRO-3 no trained model would be saved, only its parts: set zero3_save_16bit_model: true "
                "(stage3_gather_16bit_weights_on_model_save in a DeepSpeed file)"
            )


def refuse_fsdp1(accelerator: Any) -> None:
    """Raises `ConfigError` under the older FSDP, whose weights `whole_model` does not bring together."""
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    if plugin is not None and plugin.fsdp_version != 2:
        raise ConfigError("trees cannot be grown under FSDP1: set fsdp_version: 2, or use DDP or DeepSpeed ZeRO")


def load_weights(trainer: Any, checkpoint: str) -> None:
    """Puts the weights of a checkpoint into a trainer that is not going to train.

    trainer: an `IBTPOTrainer`.
    checkpoint: the folder.

    Raises `CheckpointError` if it cannot be read.
    """
    if not (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled):
        trainer._load_from_checkpoint(checkpoint)
        return
    # What `train` does first: these checkpoints are read into a model that is spread.
    trainer._prepare_for_training(1, trainer.get_train_dataloader(), checkpoint)
