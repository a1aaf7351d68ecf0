"""What samples the trainer's trees: the policy itself, or TRL's vLLM, in this process or on a server.

TRL's `use_vllm` generates whole batches, but a tree asks for one rollout after another. So TRL sets vLLM up with its
options, and the engines of `ibtpo.engines` do the sampling; `rollout_engine` copies the weights and puts vLLM to sleep
when TRL would. Two things are changed in what TRL sets up, because trees and TRL's importance ratio depend on them.
vLLM must report log-probs of the full softmax, as the trainer computes them, not those renormalised after top-p and
top-k: in this process it is set up that way, and a server that does otherwise is refused. And a copy of the weights
that leaves vLLM's prefix cache in place is an error, because the cache holds values of the old weights.

Every process samples its own trees. With a vLLM server all of them send requests to it, and the main process alone
sends the weights.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import trl.generation.vllm_generation as trl_vllm
import trl.trainer.grpo_trainer as trl_grpo
from trl.extras.profiling import profiling_context
from trl.generation.vllm_generation import VLLMGeneration

from ..engines import Engine
from ..engines.completions import bias
from ..engines.open import make_engine
from ..engines.transformers import TransformersEngine
from ..engines.vllm import CPU_OPTIONS, FULL_SOFTMAX, VLLMEngine
from ..errors import ConfigError, EngineError
from .sharding import prepare_fsdp, whole_model


class TreeGeneration(VLLMGeneration):
    """TRL's vLLM backend with two changes that trees need, see above: log-probs of the full softmax, a checked sync."""

    def _init_vllm(self) -> None:
        if self.mode != "colocate":
            super()._init_vllm()
            return

        # By default vLLM runs a float32 model in bfloat16, and its log-probs are then off by 0.1 and more.
        precision = {"bf16": "bfloat16", "fp16": "float16"}.get(self.accelerator.mixed_precision)
        dtype = precision or str(self.model.dtype).removeprefix("torch.")

        def build(**options: Any) -> Any:
            ours = {"dtype": dtype, **CPU_OPTIONS} if _packs_weights() else {"dtype": dtype}
            return llm_class(**{**ours, **options, "enable_prefix_caching": True, **FULL_SOFTMAX})

        llm_class: Any = getattr(trl_vllm, "LLM", None)  # None where vLLM is missing: TRL reports that itself
        with _in_place(trl_vllm, "LLM", build):
            super()._init_vllm()

    def sync_weights(self) -> None:
        """Copies the weights to vLLM as TRL does, then makes sure that no prefix of older weights is cached.

        Every process must call this. Raises `EngineError` if vLLM keeps its prefix cache.
        """
        if self.mode == "colocate" and _packs_weights():
            # vLLM on a CPU computes with packed copies of the weights, which TRL's way of loading does not renew.
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
        """Whether the server says that it has reset its prefix cache."""
        client = self.vllm_client
        response = client.session.post(f"{client.base_url}/reset_prefix_cache")
        # Older versions answer with an empty body and do not say whether it worked.
        return response.status_code == 200 and (not response.content or response.json().get("success", True))


@contextmanager
def tree_generation() -> Iterator[None]:
    """Makes TRL's trainer, if it is built inside the block, use `TreeGeneration` and our `prepare_fsdp`."""

    def expected(record: logging.LogRecord) -> bool:
        # TRL warns of a server that is started with this option, but trees need it.
        return "logprobs-mode processed_logits" not in record.getMessage()

    logger = logging.getLogger(trl_grpo.__name__)
    logger.addFilter(expected)
    try:
        with (
            _in_place(trl_grpo, "VLLMGeneration", TreeGeneration),
            _in_place(trl_grpo, "prepare_fsdp", prepare_fsdp),
        ):
            yield
    finally:
        logger.removeFilter(expected)


@contextmanager
def _in_place(module: Any, name: str, value: Any) -> Iterator[None]:
    """Gives the name `name` in `module` another value inside the block."""
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
    """Makes the engine of the option `engine`, which samples in this process.

    trainer: an `IBTPOTrainer`, for its options and its tokenizer.
    model: the policy, without the wrappers of distributed training.
    """
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
    """Gives the block an engine that samples from the trainer's present weights.

    The engine is made at the first use and kept. Before and after the block what it caches is dropped, because weights
    change between generation batches and the update needs the memory. Weights that are spread over the processes are
    brought together while the block runs (`sharding`); with vLLM they are copied first if they have changed.

    trainer: an `IBTPOTrainer`.
    """
    if trainer.use_vllm:
        with _vllm(trainer) as engine:
            yield engine
        return
    with whole_model(trainer) as model:
        if trainer._engine is None or trainer._engine_model is not model:
            trainer._engine, trainer._engine_model = policy_engine(trainer, model), model
        trainer._engine.reset_cache()  # the weights changed since the last batch
        try:
            yield trainer._engine
        finally:
            trainer._engine.reset_cache()  # the update gets the memory back


@contextmanager
def _vllm(trainer: Any) -> Iterator[Engine]:
    """The same for vLLM, following the order of TRL's own calls: sync weights, wake up, generate, sleep."""
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
    """An engine on TRL's vLLM server.

    Raises `ConfigError` if the server reports log-probs that are known not to be those of the full softmax.
    """
    from ..engines.connect import connect
    from ..engines.server import FULL_LOGPROBS_HINT

    generation = trainer.vllm_generation
    config = trainer.model.config.get_text_config(decoder=True)
    url = generation.server_base_url or f"http://{generation.server_host}:{generation.server_port}"
    engine = connect(
        [url],
        vocab_size=config.vocab_size,
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
    """Whether vLLM computes with packed copies of the weights, which it does on a CPU."""
    from vllm.platforms import current_platform

    return bool(current_platform.is_cpu())
