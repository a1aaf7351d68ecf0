"""vLLM in this process as an `Engine`, with its paged keys and values, prefix caching and continuous batching.

The event loop steps vLLM, as it steps our own engine: requests join its batch as trees ask for them, a rollout is
returned as soon as it ends, and no other thread can find a step half done. The model lives in this process, so new
weights are handed over by reference.
"""

import asyncio
import contextlib
import itertools
import os
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ..errors import ConfigError, EngineError
from . import Completion, Engine, Sampling, check_request
from .turns import let_callers_run

# With both settings vLLM reports log-probs of the full softmax at the sampling temperature, see full_softmax.py.
LOGITS_PROCESSOR = "ibtpo.engines.full_softmax:FullSoftmax"
LOGPROBS_MODE = "processed_logits"
FULL_SOFTMAX = {"logits_processors": [LOGITS_PROCESSOR], "logprobs_mode": LOGPROBS_MODE}

CPU_OPTIONS = {"block_size": 32}  # tokens; prefixes are shared in whole blocks, and on a CPU vLLM's default is 128
MIN_TEMPERATURE = 0.01  # vLLM samples at this temperature where a lower one is asked for


def open_llm(
    model: str, *, dtype: str = "float32", max_batch_size: int = 64, kv_memory_gb: float | None = None, **options: Any
) -> Any:
    """Loads a model into a `vllm.LLM` that is set up for `VLLMEngine`.

    model: a folder, or an id on the Hugging Face hub.
    dtype: the numbers that the weights are loaded as, such as "float32" or "bfloat16".
    max_batch_size: how many rollouts run at once.
    kv_memory_gb: memory for all keys and values, in units of 10**9 bytes; by default 2 on a CPU, and what vLLM finds
        free on an accelerator.
    options: further arguments of `vllm.LLM`, which win over the ones set here.

    Raises `ConfigError` for an argument out of range, and when vLLM cannot load the model.
    """
    if max_batch_size < 1:
        raise ConfigError(f"max_batch_size must be at least 1, got {max_batch_size}")
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    from vllm import LLM
    from vllm.platforms import current_platform

    settings: dict[str, Any] = {
        "dtype": dtype,
        "max_num_seqs": max_batch_size,
        "enable_prefix_caching": True,
        "skip_tokenizer_init": True,
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
        **FULL_SOFTMAX,
    }
    if current_platform.is_cpu():
        settings |= CPU_OPTIONS
        kv_memory_gb = 2.0 if kv_memory_gb is None else kv_memory_gb
    if kv_memory_gb is not None:
        if not kv_memory_gb > 0:
            raise ConfigError(f"kv_memory_gb must be > 0 for vLLM, got {kv_memory_gb}: its running batch lives in it")
        settings["kv_cache_memory_bytes"] = int(kv_memory_gb * 1e9)
    try:
        return LLM(model=model, **settings | options)
    except Exception as e:  # vLLM, transformers and the GPU's driver may raise anything
        reason = " ".join(str(e).split())
        raise ConfigError(f"vLLM cannot load model {model!r}: {type(e).__name__}: {reason[:400]}") from e


class VLLMEngine(Engine):
    """A `vllm.LLM` as an `Engine`.

    llm: what `open_llm` returns. One that is made otherwise needs `FULL_SOFTMAX` among its options, or its log-probs
        are of another distribution than the trainer's.
    eos_token_ids: ids that end a rollout when they are sampled; may be empty.
    clock: the time in seconds, for `busy_seconds`.

    Counted since construction: `generated_tokens`, `prefilled_tokens` (prompt tokens that were computed),
    `cached_tokens` (prompt tokens found in the prefix cache), `steps` (of vLLM), and `busy_seconds` (time spent in
    them).

    Raises `ConfigError` for an `llm` whose log-probs are not those of the full softmax.
    """

    def __init__(
        self, llm: Any, *, eos_token_ids: Sequence[int], clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.llm = llm
        self._engine = llm.llm_engine
        config = self._engine.model_config
        if config.logprobs_mode != LOGPROBS_MODE or LOGITS_PROCESSOR not in (config.logits_processors or ()):
            raise ConfigError(
                f"this vLLM reports log-probs in mode {config.logprobs_mode!r}, which are not those of the full "
                f"softmax at the sampling temperature; build it with ibtpo.engines.vllm.open_llm, or with LLM(..., "
                f"logprobs_mode={LOGPROBS_MODE!r}, logits_processors=[{LOGITS_PROCESSOR!r}])"
            )
        self.vocab_size: int = config.get_vocab_size()
        self.max_length = config.max_model_len
        self.eos_token_ids = frozenset(eos_token_ids)
        self.generated_tokens = self.prefilled_tokens = self.cached_tokens = self.steps = 0
        self.busy_seconds = 0.0
        self._clock = clock
        self._numbers = itertools.count()
        self._running: dict[str, asyncio.Future[Completion]] = {}
        self._driver: asyncio.Task[None] | None = None
        self._death: str | None = None

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, seed: int, max_new_tokens: int
    ) -> Completion:
        """See `Engine.generate`. Where the model's context ends, the rollout is cut off with the stop reason "length".

        Raises `EngineError` for a request that cannot be served, and for every request once vLLM has failed, because
        its state is unknown then: the engine cannot be used any more.
        """
        prompt, room = check_request(
            prompt_ids, seed, max_new_tokens, vocab_size=self.vocab_size, max_length=self.max_length
        )
        params = self._parameters(sampling, seed, room)
        self._start_driver()  # before the request: it raises when the engine is dead or in use elsewhere
        name = str(next(self._numbers))
        future = asyncio.get_running_loop().create_future()
        try:
            self._engine.add_request(name, {"prompt_token_ids": prompt}, params)
        except Exception as e:
            raise EngineError(f"vLLM refuses the request: {type(e).__name__}: {e}") from e
        self._running[name] = future
        try:
            return await future
        finally:
            if self._running.pop(name, None) is not None and self._death is None:  # nobody waits for it any more
                self._engine.abort_request([name])

    def reset_cache(self) -> None:
        """Forgets all kept keys and values. It must be called when the weights have changed.

        Raises `EngineError` while rollouts are in flight, because part of their tokens would come from old weights.
        """
        self._check_idle("reset the cache")
        if not self.llm.reset_prefix_cache():
            raise EngineError("vLLM did not reset its prefix cache, so kept prefixes may be of older weights")

    def update_weights(self, named_parameters: Iterable[tuple[str, Any]]) -> None:
        """Takes over new weights of the model, and forgets all kept keys and values.

        named_parameters: (name, tensor) pairs, as `named_parameters()` of the transformers model gives them.

        Raises `EngineError` while rollouts are in flight, and when vLLM cannot take the weights.
        """
        self._check_idle("update the weights")
        try:
            # The model's own `load_weights` would not do: what vLLM made of the weights when it loaded them (packed,
            # fused or quantised copies) has to be made again.
            self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(named_parameters)})
            self.llm.apply_model(_repack_embeddings)
        except Exception as e:
            self._death = f"a weight update failed half-way: {type(e).__name__}: {e}"
            raise EngineError(self._death) from e
        self.reset_cache()

    def _check_idle(self, what: str) -> None:
        """Raises `EngineError` if vLLM has failed or rollouts are in flight. `what`: what is to be done, in words."""
        if self._death is not None:
            raise EngineError(self._death)
        if self._running:
            raise EngineError(f"cannot {what} with {len(self._running)} rollouts in flight; await or cancel them first")

    def _parameters(self, sampling: Sampling, seed: int, room: int) -> Any:
        """vLLM's own form of what a request asks for: at most `room` tokens, of which the log-probs are returned."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        if sampling.temperature < MIN_TEMPERATURE:
            raise EngineError(
                f"vLLM samples at temperature {MIN_TEMPERATURE} or above, got {sampling.temperature}; raise it or use "
                "the transformers engine"
            )
        return SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            seed=seed % 2**63,
            max_tokens=room,
            # Only our own ids may end a rollout; without this vLLM adds those of the model's generation config.
            ignore_eos=True,
            stop_token_ids=sorted(self.eos_token_ids.union(sampling.stop_token_ids)),
            logprobs=0,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def _start_driver(self) -> None:
        """Makes sure that a task of the running event loop steps vLLM."""
        if self._death is not None:
            raise EngineError(self._death)
        loop = asyncio.get_running_loop()
        if self._driver is not None and not self._driver.done():
            owner = self._driver.get_loop()
            if owner is loop:
                return
            if owner.is_running():
                raise EngineError("the engine serves one event loop at a time, and another one is using it now")
            self._engine.abort_request(list(self._running))  # the other loop was stopped with these in flight
            self._running.clear()
        self._driver = loop.create_task(self._drive())

    async def _drive(self) -> None:
        """Makes steps until no rollout is left or vLLM fails."""
        while self._running:
            try:
                finished = self._step()
            except Exception as e:
                self._die(e)
                return
            await let_callers_run(finished)

    def _step(self) -> bool:
        """Makes one step of vLLM, gives the rollouts that ended in it their result, and returns whether any did."""
        started = self._clock()
        outputs = [output for output in self._engine.step() if output.finished]
        self.steps += 1
        self.busy_seconds += self._clock() - started
        for output in outputs:
            future = self._running.pop(output.request_id, None)
            if future is None or future.done():
                continue
            try:
                future.set_result(self._completion(output))
            except EngineError as e:
                future.set_exception(e)
        return bool(outputs)

    def _completion(self, output: Any) -> Completion:
        sampled = output.outputs[0]
        if sampled.finish_reason not in ("stop", "length"):
            raise EngineError(f"vLLM ended a rollout with finish reason {sampled.finish_reason!r}")
        ids = list(sampled.token_ids)
        logprobs = [float(at[token].logprob) for token, at in zip(ids, sampled.logprobs, strict=True)]
        if any(value != value for value in logprobs):  # NaN
            raise EngineError("the model's logits are not finite (NaN or infinite); check its weights and dtype")
        cached = output.num_cached_tokens or 0
        self.generated_tokens += len(ids)
        self.cached_tokens += cached
        self.prefilled_tokens += len(output.prompt_token_ids) - cached
        stop = "eos" if sampled.finish_reason == "stop" or ids[-1] in self.eos_token_ids else "length"
        return Completion(ids, logprobs, None, stop, cached)

    def _die(self, error: Exception) -> None:
        """Makes all rollouts in flight, and every later request, fail because of `error`."""
        reason = " ".join(str(error).split()) or "no message"
        self._death = f"vLLM failed in a step and cannot be used any more: {type(error).__name__}: {reason}"
        waiting, self._running = self._running, {}
        for future in waiting.values():
            if not future.done():
                failure = EngineError(self._death)
                failure.__cause__ = error
                with contextlib.suppress(RuntimeError):  # its event loop may be closed
                    future.set_exception(failure)


def _repack_embeddings(model: Any) -> None:
    """Makes vLLM's packed copy of the output head anew, which reloading leaves out if the head is the input embedding.

    On a CPU the head multiplies with that copy, and without this would go on with the old weights. Elsewhere there is
    none.
    """
    from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding

    for layer in model.modules():
        if isinstance(layer, VocabParallelEmbedding):
            layer.quant_method.process_weights_after_loading(layer)
