"""Rollouts from a transformers model in this process: continuous batching with forkable key/value slots.

Each decode step runs every active rollout's newest token; a place that falls free is filled before the next step.
A prompt that continues an earlier one copies the keys and values it shares with it and computes only the rest: the
prompt's last token always, since its logits are what the first sampled token is drawn from.

The engine shares the model object with the trainer: weights may change between rollouts, and `reset_cache` must be
called when they do. As a safety net, one element and the version counter of each parameter are compared whenever the
engine leaves idle; a change confined to other elements and made behind autograd's back, or another adapter switched on,
would pass unnoticed.

A row's result does not depend on its neighbours beyond float rounding (a matmul's last bit may depend on the batch).
"""

import asyncio
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch

from ..errors import ConfigError, EngineError
from . import Completion, Engine, Sampling, check_request
from .fused import FusedForward
from .packed_linear import PackedLinears
from .runners import PlainRunner, Rollout, SlotRunner, Unsupported
from .sampling import draw_tokens, uniform_stream
from .turns import let_callers_run


class TransformersEngine(Engine):
    """Any transformers causal LM (a PEFT-wrapped one too) as an `Engine`.

    model: left where it is, in its dtype; put in eval mode (which also switches gradient checkpointing off) and
        no_grad during a step only. Flash or flex attention is replaced by SDPA during a step: rows of different
        lengths need an explicit mask.
    eos_token_ids: sampling one of them ends a rollout; may be empty.
    max_batch_size: rollouts that run at once.
    kv_memory_gb: 10**9 bytes for the keys and values of finished prompts and rollouts, least recently used out first;
        those of the running batch come on top, and on a CPU a second, packed copy of float32 weights (at most 4 GB).
    clock: seconds, for `busy_seconds`.

    Models whose past is more than one key and value a token (sliding windows, recurrent layers, …) are run one
    rollout at a time with their own cache: right, slow, and announced by one warning.

    Statistics, counted since construction: `generated_tokens`, `prefilled_tokens` (prompt tokens computed),
    `cached_tokens` (prompt tokens copied), `steps` (decode steps), `busy_seconds` (in requests, the model
    and the choice of tokens).
    """

    def __init__(
        self,
        model: Any,
        *,
        eos_token_ids: Sequence[int],
        max_batch_size: int = 64,
        kv_memory_gb: float = 2.0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.model = model
        self.max_batch_size = max_batch_size
        self.kv_memory_gb = kv_memory_gb
        self.generated_tokens = self.prefilled_tokens = self.cached_tokens = self.steps = 0
        self.busy_seconds = 0.0
        config = model.config.get_text_config(decoder=True)
        self.vocab_size: int = model.get_input_embeddings().weight.shape[0]
        self.max_length = getattr(config, "max_position_embeddings", None)
        self.eos_token_ids = frozenset(eos_token_ids)
        self._clock = clock
        self._queue: deque[Rollout] = deque()
        self._runner: SlotRunner | PlainRunner | None = None
        self._driver: asyncio.Task[None] | None = None
        self._weights: list[float] = []
        self._modules: list[torch.nn.Module] = []
        self._linears = PackedLinears([])
        self._fused: FusedForward | None = None
        if max_batch_size < 1:
            raise ConfigError(f"max_batch_size must be at least 1, got {max_batch_size}")
        if not kv_memory_gb >= 0:
            raise ConfigError(f"kv_memory_gb must be at least 0, got {kv_memory_gb}; 0 keeps nothing between rollouts")
        if model.config.is_encoder_decoder:
            raise EngineError(f"{type(model).__name__} is an encoder-decoder; the engine needs a causal LM")
        for token in self.eos_token_ids:
            if not 0 <= token < self.vocab_size:
                raise ConfigError(f"eos token id {token} is not in the model's vocabulary of {self.vocab_size}")

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, seed: int, max_new_tokens: int
    ) -> Completion:
        """See `Engine.generate`. Cut short where the model's context ends (stop reason "length").

        Raises `EngineError` for a prompt that is empty, does not fit or holds an unknown id, and for anything that
        goes wrong in the model; in that case all rollouts in flight fail, and the engine can be used again.
        """
        started = self._clock()
        rollout = self._request(prompt_ids, sampling, seed, max_new_tokens)
        self.busy_seconds += self._clock() - started
        self._start_driver()
        self._queue.append(rollout)
        return await rollout.future

    def reset_cache(self) -> None:
        """Forgets all kept keys and values and frees their memory. Call it whenever the weights have changed.

        Raises `EngineError` while rollouts are in flight: half of their tokens would be the old weights'.
        """
        waiting = sum(not rollout.future.done() for rollout in self._in_flight())
        if waiting:
            raise EngineError(f"cannot reset the cache with {waiting} rollouts in flight; await or cancel them first")
        self._forget()

    def _request(self, prompt_ids: Sequence[int], sampling: Sampling, seed: int, max_new_tokens: int) -> Rollout:
        prompt, max_new_tokens = check_request(
            prompt_ids, seed, max_new_tokens, vocab_size=self.vocab_size, max_length=self.max_length
        )
        return Rollout(
            token_ids=prompt,
            prompt_length=len(prompt),
            length_cap=len(prompt) + max_new_tokens,
            sampling=sampling,
            uniforms=uniform_stream(seed, max_new_tokens),
            future=asyncio.get_running_loop().create_future(),
        )

    def _in_flight(self) -> list[Rollout]:
        return [*(self._runner.rows if self._runner else ()), *self._queue]

    def _start_driver(self) -> None:
        loop = asyncio.get_running_loop()
        if self._driver is not None and not self._driver.done():
            owner = self._driver.get_loop()
            if owner is loop:
                return
            if owner.is_running():
                raise EngineError("the engine serves one event loop at a time, and another one is using it now")
            self._abandon()  # that loop was stopped for good with rollouts in flight
        modules = list(self.model.modules())
        fits = FusedForward.fits(self.model)
        if modules != self._modules or fits != (
            self._fused is not None
        ):  # the first time, or adapters or hooks are new
            self._modules, self._runner = modules, None
            self._fused = FusedForward(self.model) if fits else None
            self._linears = PackedLinears([] if self._fused else modules)
        weights = _fingerprint(self.model)
        if weights != self._weights:
            self._weights = weights
            self._forget()
        self._driver = loop.create_task(self._drive())

    async def _drive(self) -> None:
        me = asyncio.current_task()
        try:
            while self._driver is me and self._in_flight():
                try:
                    finished = self._step()
                except Exception as error:
                    self._fail(error)
                    finished = True
                await let_callers_run(finished)
        finally:
            if self._driver is me:  # not when another event loop has taken over
                self._driver = None
                if self._in_flight():
                    self._abandon()

    def _step(self) -> bool:
        """Admits, decodes one token a row, resolves what is finished; True if anything was."""
        started = self._clock()
        with _inference(self.model, self._modules), self._linears.installed():
            runner = self._runner = self._runner or self._choose_runner()
            runner.release([row for row, rollout in enumerate(runner.rows) if rollout.future.done()])
            admitted: list[Rollout] = []
            while self._queue and len(runner.rows) + len(admitted) < runner.max_rows:
                rollout = self._queue.popleft()
                if not rollout.future.done():
                    admitted.append(rollout)
            runner.admit(admitted)
            if not runner.rows:
                return False
            drawn = draw_tokens(
                runner.logits(),
                [rollout.sampling for rollout in runner.rows],
                [rollout.uniforms[len(rollout.logprobs)] for rollout in runner.rows],
            ).tolist()
        finished = []
        for row, (rollout, token, logprob, entropy) in enumerate(zip(runner.rows, *drawn, strict=True)):
            if logprob != logprob:
                raise EngineError("the model's logits are not finite (NaN or infinite); check its weights and dtype")
            rollout.token_ids.append(int(token))
            rollout.logprobs.append(logprob)
            rollout.entropies.append(entropy)
            if token in self.eos_token_ids or len(rollout.token_ids) == rollout.length_cap:
                finished.append(row)
        for rollout in admitted:
            self.cached_tokens += rollout.cached
            self.prefilled_tokens += rollout.prompt_length - rollout.cached
        self.generated_tokens += len(runner.rows)
        self.steps += 1
        for rollout in [runner.rows[row] for row in finished]:
            rollout.future.set_result(self._completion(rollout))
        runner.keep(finished)
        runner.release(finished)
        self.busy_seconds += self._clock() - started
        return bool(finished)

    def _completion(self, rollout: Rollout) -> Completion:
        sampled = rollout.token_ids[rollout.prompt_length :]
        stop = "eos" if sampled[-1] in self.eos_token_ids else "length"
        return Completion(sampled, rollout.logprobs, rollout.entropies, stop, rollout.cached)

    def _choose_runner(self) -> SlotRunner | PlainRunner:
        try:
            return SlotRunner(self.model, self.max_batch_size, self.kv_memory_gb * 1e9, self.vocab_size, self._fused)
        except Unsupported as reason:
            warnings.warn(
                f"{type(self.model).__name__} cannot share a batch of key/value slots ({reason}); rollouts run one "
                "at a time with the model's own cache: correct, but slow",
                stacklevel=2,
            )
            return PlainRunner(self.model)

    def _fail(self, error: Exception) -> None:
        for rollout in self._in_flight():
            if not rollout.future.done():
                hint = ""
                if isinstance(error, torch.OutOfMemoryError):
                    hint = f"; lower max_batch_size ({self.max_batch_size}) or kv_memory_gb ({self.kv_memory_gb})"
                failure = EngineError(f"a generation step failed: {type(error).__name__}: {error}{hint}")
                failure.__cause__ = error
                rollout.future.set_exception(failure)
        self._forget()

    def _abandon(self) -> None:
        for rollout in self._in_flight():
            with suppress(RuntimeError):  # its event loop may be closed
                rollout.future.cancel()
        self._forget()

    def _forget(self) -> None:
        self._queue.clear()
        self._linears.clear()
        if self._fused is not None:
            self._fused.clear()
        if self._runner is not None:
            self._runner.clear()


def _fingerprint(model: Any) -> list[float]:
    """Changes when the weights do, nearly always. Both halves are needed: fused optimizers leave the version counter
    alone, and in bfloat16 a small step leaves most elements alone."""
    parameters = [parameter.detach() for parameter in model.parameters() if parameter.numel()]
    versions = sum(0 if parameter.is_inference() else parameter._version for parameter in parameters)
    device = parameters[0].device
    samples = [parameter[(-1,) * parameter.dim()].to(device, torch.float32) for parameter in parameters]
    return [*torch.stack(samples).tolist(), float(versions)]


@contextmanager
def _inference(model: Any, modules: list[torch.nn.Module]) -> Iterator[None]:
    """Eval mode, no_grad and a mask-taking attention; everything back as it was afterwards.

    no_grad and not inference_mode: what is computed here must not taint tensors that training uses.
    """
    training = [module for module in modules if module.training]
    attention = model.config._attn_implementation
    for module in training:  # Module.__setattr__ looks for parameters first: too slow for every module and step
        object.__setattr__(module, "training", False)
    if attention not in ("sdpa", "eager"):
        model.config._attn_implementation = "sdpa"
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            object.__setattr__(module, "training", True)
        if attention not in ("sdpa", "eager"):
            model.config._attn_implementation = attention
