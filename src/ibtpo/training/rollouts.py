"""Where the trainer's trees are sampled: the policy itself, or TRL's vLLM, in this process or on a server.

TRL's `use_vllm` generates whole batches; a tree asks for one rollout after another. So TRL sets vLLM up, pushes the
weights and puts it to sleep as it always does, and the engines of `ibtpo.engines` do the sampling in between.
Two things are changed in what TRL sets up, because trees and TRL's importance ratio both depend on them: vLLM reports
log-probs of the full softmax, which the trainer scores, in place of those renormalised after top-p and top-k; and a
weight sync that leaves the prefix cache as it was is an error.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import trl.generation.vllm_generation as trl_vllm
import trl.trainer.grpo_trainer as trl_grpo
from trl.extras.profiling import profiling_context
from trl.generation.vllm_generation import VLLMGeneration
from trl.models import unwrap_model_for_generation

from ..engines import Engine
from ..engines.completions import bias
from ..engines.open import make_engine
from ..engines.transformers import TransformersEngine
from ..engines.vllm import CPU_OPTIONS, FULL_SOFTMAX, VLLMEngine
from ..errors import ConfigError, EngineError


class TreeGeneration(VLLMGeneration):
    """TRL's vLLM backend, its log-probs and its weight sync as trees need them."""

    def _init_vllm(self) -> None:
        if self.mode != "colocate":
            super()._init_vllm()
            return

        # Left alone, vLLM would run a float32 model in bfloat16, and its log-probs would be off by 0.1 and more.
        precision = {"bf16": "bfloat16", "fp16": "float16"}.get(self.accelerator.mixed_precision)
        dtype = precision or str(self.model.dtype).removeprefix("torch.")

        def build(**options: Any) -> Any:
            ours = {"dtype": dtype, **CPU_OPTIONS} if _packs_weights() else {"dtype": dtype}
            return llm_class(**{**ours, **options, "enable_prefix_caching": True, **FULL_SOFTMAX})

        llm_class: Any = getattr(trl_vllm, "LLM", None)  # None without vLLM, of which TRL complains by itself
        with _in_place(trl_vllm, "LLM", build):
            super()._init_vllm()

    def sync_weights(self) -> None:
        """TRL's; then makes sure that no prefix of older weights is left."""
        if self.mode == "colocate" and _packs_weights():
            # vLLM on a CPU multiplies with packed copies, which TRL's way of loading cannot reach.
            if self.enable_sleep_mode:
                self.llm.wake_up(tags=["weights"])
                self._llm_weights_sleeping = False
            weights = ((name, tensor.clone()) for name, tensor in self._iter_named_params())
            VLLMEngine(self.llm, eos_token_ids=()).update_weights(weights)
            return
        super().sync_weights()
        if self.mode == "colocate":
            done = self.llm.reset_prefix_cache()
        else:
            done = self._server_forgot() if self.accelerator.is_main_process else True
            self.accelerator.wait_for_everyone()  # nobody samples before the weights are there
        if not done:
            raise EngineError("vLLM did not reset its prefix cache after the weight sync; its prefixes are stale")

    def _server_forgot(self) -> bool:
        client = self.vllm_client
        response = client.session.post(f"{client.base_url}/reset_prefix_cache")
        # An empty body is the answer of older versions, which cannot tell.
        return response.status_code == 200 and (not response.content or response.json().get("success", True))


@contextmanager
def tree_generation() -> Iterator[None]:
    """While TRL's trainer is built: it takes `TreeGeneration` for its vLLM backend."""

    def expected(record: logging.LogRecord) -> bool:
        return "logprobs-mode processed_logits" not in record.getMessage()  # what our servers are started with

    logger = logging.getLogger(trl_grpo.__name__)
    logger.addFilter(expected)
    try:
        with _in_place(trl_grpo, "VLLMGeneration", TreeGeneration):
            yield
    finally:
        logger.removeFilter(expected)


@contextmanager
def _in_place(module: Any, name: str, value: Any) -> Iterator[None]:
    """A name of a module means something else inside the block."""
    missing = object()
    before = getattr(module, name, missing)
    setattr(module, name, value)
    try:
        yield
    finally:
        if before is missing:
            delattr(module, name)
        else:
            setattr(module, name, before)


def policy_engine(trainer: Any, model: Any) -> Engine:
    """The engine that samples from `model`, the trainer's policy, in this process, as the option `engine` says."""
    args = trainer.args
    if args.engine != "transformers":
        return make_engine(args.engine, model, trainer._tokenizer, max_in_flight=args.max_in_flight)
    return TransformersEngine(
        model,
        eos_token_ids=trainer.eos_token_ids,
        max_batch_size=args.max_in_flight,
        kv_memory_gb=args.kv_memory_gb,
    )


@contextmanager
def rollout_engine(trainer: Any) -> Iterator[Engine]:
    """The engine for one generation batch, with the trainer's present weights."""
    if trainer.use_vllm:
        with _vllm(trainer) as engine:
            yield engine
        return
    args = trainer.args
    with unwrap_model_for_generation(
        trainer.model_wrapped,
        trainer.accelerator,
        gather_deepspeed3_params=args.ds3_gather_for_generation,
        gradient_checkpointing_kwargs=args.gradient_checkpointing_kwargs,
    ) as model:
        if trainer._engine is None or trainer._engine_model is not model:
            trainer._engine, trainer._engine_model = policy_engine(trainer, model), model
        trainer._engine.reset_cache()  # the weights changed since the last batch
        yield trainer._engine
        trainer._engine.reset_cache()  # the update gets the memory back


@contextmanager
def _vllm(trainer: Any) -> Iterator[Engine]:
    generation = trainer.vllm_generation
    sleeps = generation.mode == "colocate" and generation.enable_sleep_mode
    if trainer.state.global_step != trainer._last_loaded_step or (sleeps and generation._llm_weights_sleeping):
        with profiling_context(trainer, "sync_weights"):
            generation.sync_weights()
        trainer._last_loaded_step = trainer.state.global_step
    if trainer._engine is None:
        trainer._engine = _server_engine(trainer) if generation.mode == "server" else _colocated(trainer)
    if sleeps:
        generation.llm.wake_up(tags=["kv_cache"])
    try:
        yield trainer._engine
    finally:
        if sleeps:
            generation.llm.sleep(level=2)
            generation._llm_weights_sleeping = True


def _colocated(trainer: Any) -> VLLMEngine:
    return VLLMEngine(trainer.vllm_generation.llm, eos_token_ids=trainer.eos_token_ids)


def _server_engine(trainer: Any) -> Engine:
    """Every process asks the server itself; only the weights go through the main one."""
    from ..engines.connect import connect
    from ..engines.server import FULL_LOGPROBS_HINT

    generation = trainer.vllm_generation
    config = trainer.model.config.get_text_config(decoder=True)
    url = generation.server_base_url or f"http://{generation.server_host}:{generation.server_port}"
    engine = connect(
        [url],
        vocab_size=trainer.accelerator.unwrap_model(trainer.model).get_input_embeddings().weight.shape[0],
        eos_token_ids=trainer.eos_token_ids,
        max_length=getattr(config, "max_position_embeddings", None),
    )
    what = bias(engine.logprobs, trainer.args.search_options().sampling)
    if what:
        raise ConfigError(
            f"{url} reports log-probs that are {what}, but importance ratios and advantages need those of the full "
            f"softmax at the sampling temperature; {FULL_LOGPROBS_HINT}, or set temperature, top_p and top_k to 1, 1 "
            "and 0"
        )
    return engine


def _packs_weights() -> bool:
    """Whether vLLM runs on a CPU."""
    from vllm.platforms import current_platform

    return bool(current_platform.is_cpu())
