"""Engines: they continue a list of token ids. The search knows nothing else about a model.

This file holds what engines and their users share. Each engine is imported from a module of its own, such as
`ibtpo.engines.transformers`, so that importing this package loads neither numpy nor torch.
"""

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from .._options import option
from ..errors import ConfigError, EngineError


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a token is drawn from the model's logits. The defaults are those of the paper.

    temperature: what the logits are divided by, above 0.
    top_p: in (0, 1]; the token is drawn from the smallest set of most likely tokens whose probabilities add up to this
        or more. 1 switches it off.
    top_k: the token is drawn from so many of the most likely ones. 0 switches it off.

    Raises `ConfigError` for a value out of range.
    """

    temperature: float = option("temperature")
    top_p: float = option("top_p")
    top_k: int = option("top_k")

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise ConfigError(f"temperature must be > 0 and finite, got {self.temperature}; 1e-3 is near-greedy")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p must be in (0, 1], got {self.top_p}; 1 switches it off")
        if self.top_k < 0:
            raise ConfigError(f"top_k must be >= 0, got {self.top_k}; 0 switches it off")


@dataclass(slots=True)
class Completion:
    """One continuation, as it was sampled.

    token_ids: (T,) sampled ids, the end-of-sequence id included when the model produced it.
    logprobs: (T,) natural-log probability of each sampled token under the full softmax at the sampling temperature,
        before top-p and top-k.
    entropies: (T,) entropy of the same softmax, in nats, or None if the engine cannot give it.
    stop_reason: "eos" when the model ended it, "length" when it was cut off.
    cached_tokens: for how many tokens of the prompt keys and values were at hand and not computed again.
    """

    token_ids: list[int]
    logprobs: list[float]
    entropies: list[float] | None
    stop_reason: str
    cached_tokens: int = 0


class Engine(Protocol):
    """What the search, the verbs and the trainer need from whatever samples.

    A class that inherits from `Engine` has to define `generate`; the rest has defaults, which are right for an engine
    that keeps nothing between requests and has no limit of its own.

    max_length: the most tokens of prompt and answer together, or None where there is no limit.
    busy_seconds: seconds spent sampling since the engine was made, for the trainer's `time/sampling`; an engine that
        does not count them leaves it at 0, and its time shows as `time/other`.
    logprobs: which log-probabilities it reports: "full" (of the full softmax at the sampling temperature, what
        everything here is made for), "processed" or "raw"; see `completions.bias`.
    """

    max_length: int | None = None
    busy_seconds: float = 0.0
    logprobs: str = "full"

    @abstractmethod
    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, seed: int, max_new_tokens: int
    ) -> Completion:
        """Samples one continuation.

        prompt_ids: (T,) token ids of the prompt and of what was sampled so far.
        sampling: how each token is drawn.
        seed: the only source of randomness. The result depends on the arguments alone, not on the rest of the batch.
        max_new_tokens: the most tokens it may have; at this length its stop reason is "length".

        Raises `EngineError` when it cannot be generated.
        """
        ...

    def reset_cache(self) -> None:
        """Forgets what was kept of earlier requests, because the model's weights have changed or will change.

        The trainer calls it before and after each generation batch. The default does nothing: for an engine that
        keeps nothing.
        """
        return None


def check_request(
    prompt_ids: Sequence[int], seed: int, max_new_tokens: int, *, vocab_size: int, max_length: int | None
) -> tuple[list[int], int]:
    """Checks a request for `Engine.generate`, for an engine that works with a real model.

    prompt_ids: (T,) token ids.
    seed: must be at least 0.
    max_new_tokens: the most tokens that are asked for.
    vocab_size: how many tokens the model knows; each id must be below it.
    max_length: the most tokens of prompt and answer together, or None where there is no limit.

    Returns the prompt as a list of plain integers, and how many tokens may follow it within `max_length`.

    Raises `EngineError` for a request that cannot be served.
    """
    prompt = [int(token) for token in prompt_ids]
    if not prompt:
        raise EngineError("the prompt is empty (0 tokens); start it with at least a beginning-of-sequence token")
    if max_new_tokens < 1:
        raise EngineError(f"max_new_tokens must be at least 1, got {max_new_tokens}")
    if seed < 0:
        raise EngineError(f"seed must be >= 0, got {seed}")
    low, high = min(prompt), max(prompt)
    if low < 0 or high >= vocab_size:
        raise EngineError(
            f"token id {low if low < 0 else high} is outside the model's vocabulary of {vocab_size}; "
            "tokenize the prompt with this model's tokenizer"
        )
    if max_length is None:
        return prompt, max_new_tokens
    if len(prompt) >= max_length:
        raise EngineError(
            f"the prompt has {len(prompt)} tokens and the model's context holds {max_length}, the answer "
            "included; shorten the prompt or use a model with a longer context"
        )
    return prompt, min(max_new_tokens, max_length - len(prompt))
