"""Engines: they continue a list of token ids. The search knows nothing else about a model.

This file holds what engines and their users share. Each engine is imported from a module of its own, such as
`ibtpo.engines.transformers`, so that importing this package loads neither numpy nor torch.
"""

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from .._options import option
from .._text import short
from ..errors import ConfigError, EngineError
from ..tree import LOGPROB_TOLERANCE


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a token is drawn from the model's logits. The defaults are those of the paper.

    temperature: what the logits are divided by, above 0.
    top_p: in (0, 1]; the token is drawn from the smallest set of most likely tokens whose probabilities add up to this
        or more. 1 switches it off.
    top_k: the token is drawn from so many of the most likely ones. 0 switches it off.
    stop_token_ids: ids that end a completion as the end-of-sequence token does. What an engine that does not know them
        samples after one of them is cut off.

    Raises `ConfigError` for a value out of range.
    """

    temperature: float = option("temperature")
    top_p: float = option("top_p")
    top_k: int = option("top_k")
    stop_token_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise ConfigError(f"temperature must be > 0 and finite, got {self.temperature}; 1e-3 is near-greedy")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p must be in (0, 1], got {self.top_p}; 1 switches it off")
        if self.top_k < 0:
            raise ConfigError(f"top_k must be >= 0, got {self.top_k}; 0 switches it off")

    def to_json(self) -> dict[str, Any]:
        """What is written into files; stop tokens only where there are some."""
        found = asdict(self)
        return found if self.stop_token_ids else {k: v for k, v in found.items() if k != "stop_token_ids"}


@dataclass(slots=True)
class Completion:
    """One continuation, as it was sampled.

    token_ids: (T,) sampled ids, the end-of-sequence or stop id included when the model produced it.
    logprobs: (T,) natural-log probability of each sampled token under the full softmax at the sampling temperature,
        before top-p and top-k.
    entropies: (T,) entropy of the same softmax, in nats, or None if the engine cannot give it.
    stop_reason: "eos" when the model ended it, with its end-of-sequence token or a stop token, "length" when
        it was cut off.
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


def check_completion(completion: Any, max_new_tokens: int) -> None:
    """Checks what `Engine.generate` returned, since the engine may be the user's own.

    A tree with a wrong completion could be stored but not read again. Every answer of every engine comes through here,
    so tokens are only looked at by functions that run at the speed of C.

    completion: anything; right is a `Completion`, also one without tokens.
    max_new_tokens: the most tokens that were asked for.

    Raises `ConfigError` that names the first thing that is wrong.
    """
    if not isinstance(completion, Completion):
        raise ConfigError(f"the engine returned {short(completion, 60)}; its generate must return an ibtpo.Completion")
    ids = completion.token_ids
    rows = {"token_ids": ids, "logprobs": completion.logprobs, "entropies": completion.entropies}
    if completion.entropies is None:
        del rows["entropies"]
    for name, row in rows.items():
        of = f"the engine returned a completion whose {name}"
        if not isinstance(row, list | tuple):
            raise ConfigError(f"{of} are of type {type(row).__name__}; they must be a list")
        if len(row) != len(ids):
            raise ConfigError(f"{of} are {len(row)} for {len(ids)} token_ids; give one for each token")
        wanted: tuple[type, ...] = (int,) if name == "token_ids" else (int, float)
        # The set holds each type once, so that the tokens themselves are not gone through in Python.
        wrong = [kind.__name__ for kind in set(map(type, row)) if kind is bool or not issubclass(kind, wanted)]
        if wrong:
            raise ConfigError(f"{of} hold a value of type {wrong[0]}; convert each to {wanted[-1].__name__}")
        if name != "token_ids" and not math.isfinite(sum(row)):
            raise ConfigError(f"{of} hold NaN or an infinity; each must be a finite number")
    if len(ids) > max_new_tokens:
        raise ConfigError(f"the engine returned {len(ids)} tokens; max_new_tokens was {max_new_tokens}")
    if ids and min(ids) < 0:
        raise ConfigError(f"the engine returned the token id {min(ids)}; token ids are 0 or more")
    if ids and max(completion.logprobs) > LOGPROB_TOLERANCE:
        raise ConfigError(
            f"the engine returned a log-probability of {max(completion.logprobs):g}; they are at most 0: give natural "
            "logarithms, not probabilities"
        )
    if completion.stop_reason not in ("eos", "length"):
        raise ConfigError(
            f"the engine returned the stop reason {short(completion.stop_reason, 60)}; it must be 'eos' or 'length'"
        )
