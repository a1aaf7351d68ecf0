"""Rollouts from a transformers model in this process, with continuous batching and shared prefixes.

Each decode step puts the newest token of every running rollout through the model, and a row of the batch that falls
free is filled before the next step. A prompt that starts like an earlier prompt or rollout copies the keys and values
of the tokens they share, and computes only the rest. The prompt's last token is always computed, because the first
sampled token is drawn from its logits.

The engine shares the model object with the trainer. Weights may change between rollouts, and `reset_cache` must be
called when they do. As a safety net, one element and the version counter of each parameter are compared with the last
ones whenever the engine starts to work after a pause. A change of other elements that autograd did not see, or another
adapter switched on, would pass unnoticed.

A rollout does not depend on the others of its batch, except for rounding: the last bit of a matrix product may depend
on the size of the batch.
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
    """Any causal LM of transformers, with PEFT adapters or without, as an `Engine`.

    model: stays on its device and in its dtype. During a decode step it is in eval mode, which also switches gradient
        checkpointing off, and under no_grad. Flash or flex attention is replaced by SDPA during a step, because rows
        of different lengths need an explicit mask.
    eos_token_ids: ids that end a rollout when they are sampled; may be empty.
    max_batch_size: how many rollouts run at once.
    kv_memory_gb: memory for the keys and values of finished prompts and rollouts, in units of 10**9 bytes; the least
        recently used go first. The running batch needs memory besides, and so does, on a CPU, a second, packed copy of
        float32 weights (at most 4 GB).
    clock: the time in seconds, for `busy_seconds`.

    Models whose past is more than one key and value a token (sliding windows, recurrent layers, …) are run one rollout
    at a time with their own cache: the results are right, it is slow, and one warning says so.

    Counted since construction: `generated_tokens`, `prefilled_tokens` (prompt tokens that were computed),
    `cached_tokens` (prompt tokens whose keys and values were copied), `steps` (decode steps), and `busy_seconds` (time
    spent in requests, in the model and in the choice of tokens).

    Raises `ConfigError` for an argument out of range, and `EngineError` for an encoder-decoder model.
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
        """See `Engine.generate`. Where the model's context ends, the rollout is cut off with the stop reason "length".

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
        """Forgets all kept keys and values and frees their memory. It must be called when the weights have changed.

        Raises `EngineError` while rollouts are in flight, because part of their tokens would come from old weights.
        """
        waiting = sum(not rollout.future.done() for rollout in self._in_flight())
        if waiting:
            raise EngineError(f"cannot reset the cache with {waiting} rollouts in flight; await or cancel them first")
        self._forget()

    def _request(self, prompt_ids: Sequence[int], sampling: Sampling, seed: int, max_new_tokens: int) -> Rollout:
        """Checks the arguments of `generate`, and makes of them a rollout that can wait in the queue."""
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
        """Makes sure that a task of the running event loop steps the engine, and that it has today's model."""
        loop = asyncio.get_running_loop()
        if self._driver is not None and not self._driver.done():
            owner = self._driver.get_loop()
            if owner is loop:
                return
            if owner.is_running():
                raise EngineError("the engine serves one event loop at a time, and another one is using it now")
            self._abandon()  # the other loop was stopped with rollouts in flight, which nobody will await
        modules = list(self.model.modules())
        fits = FusedForward.fits(self.model)
        if modules != self._modules or fits != (
            self._fused is not None
        ):  # the first time, or adapters or hooks were added
            self._modules, self._runner = modules, None
            self._fused = FusedForward(self.model) if fits else None
            self._linears = PackedLinears([] if self._fused else modules)
        weights = _fingerprint(self.model)
        if weights != self._weights:
            self._weights = weights
            self._forget()
        self._driver = loop.create_task(self._drive())

    async def _drive(self) -> None:
        """Makes decode steps until no rollout is left."""
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
        """Makes one decode step, and returns whether a rollout ended in it.

        Waiting rollouts are let into free rows, each row gets one more token, and rollouts that end give their result.
        """
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
            if logprob != logprob:  # NaN
                raise EngineError("the model's logits are not finite (NaN or infinite); check its weights and dtype")
            rollout.token_ids.append(int(token))
            rollout.logprobs.append(logprob)
            rollout.entropies.append(entropy)
            if self._ended(rollout) or len(rollout.token_ids) == rollout.length_cap:
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

    def _ended(self, rollout: Rollout) -> bool:
        """Whether the last sampled token is one that ends a rollout."""
        token = rollout.token_ids[-1]
        return token in self.eos_token_ids or token in rollout.sampling.stop_token_ids

    def _completion(self, rollout: Rollout) -> Completion:
        sampled = rollout.token_ids[rollout.prompt_length :]
        stop = "eos" if self._ended(rollout) else "length"
        return Completion(sampled, rollout.logprobs, rollout.entropies, stop, rollout.cached)

    def _choose_runner(self) -> SlotRunner | PlainRunner:
        """The runner that can keep the model's past: in slots of one batch, or else one rollout at a time."""
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
        """Makes all rollouts in flight fail because of `error`, and starts afresh."""
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
        """Cancels all rollouts in flight, and starts afresh."""
        for rollout in self._in_flight():
            with suppress(RuntimeError):  # its event loop may be closed
                rollout.future.cancel()
        self._forget()

    def _forget(self) -> None:
        """Empties the queue and the batch, and drops all that was computed from the model's weights."""
        self._queue.clear()
        self._linears.clear()
        if self._fused is not None:
            self._fused.clear()
        if self._runner is not None:
            self._runner.clear()


def _fingerprint(model: Any) -> list[float]:
    """Numbers that nearly always change when the weights do: one element of each parameter, and the version counters.

    Both are needed: fused optimizers do not raise the version counter, and in bfloat16 a small step leaves most
    elements as they were.
    """
    parameters = [parameter.detach() for parameter in model.parameters() if parameter.numel()]
    versions = sum(0 if parameter.is_inference() else parameter._version for parameter in parameters)
    device = parameters[0].device
    samples = [parameter[(-1,) * parameter.dim()].to(device, torch.float32) for parameter in parameters]
    return [*torch.stack(samples).tolist(), float(versions)]


@contextmanager
def _inference(model: Any, modules: list[torch.nn.Module]) -> Iterator[None]:
    """Eval mode, no_grad, and an attention that takes a mask; afterwards everything is as it was.

    It is no_grad, not inference_mode, because a tensor made under inference_mode cannot be used in training.
    """
    training = [module for module in modules if module.training]
    attention = model.config._attn_implementation
    for module in training:  # Module.__setattr__ looks for parameters first, too slow for every module at every step
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
