"""The request and answer formats of two kinds of server: vLLM's completions endpoint, SGLang's generate endpoint.

Both take a prompt as token ids and return the sampled ids with their log-probs. (SGLang has a completions endpoint too,
but that one returns no token ids.) A `Format` is the endpoint's path, a function that writes a request, and one that
reads an answer. Every answer is checked, because a wrong number in it would become training data.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import EngineError
from . import Sampling


def bias(kind: str, sampling: Sampling) -> str | None:
    """How a server's log-probs differ from those of the full softmax at the sampling temperature.

    kind: what the server reports: "full" (the full softmax at the sampling temperature), "processed" (renormalised
        after top-p and top-k), "raw" (the full softmax at temperature 1), or "unknown" where that was not found out.
    sampling: how the tokens are drawn.

    Returns words for a warning, or None where they do not differ, as far as is known: without top-p and top-k,
    "processed" is the same as "full", and at temperature 1 "raw" is.
    """
    if kind == "processed" and (sampling.top_p < 1 or sampling.top_k):
        return "renormalised after top-p and top-k"
    if kind == "raw" and sampling.temperature != 1:
        return "those at temperature 1"
    return None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server sampled for one request.

    token_ids: (T,) sampled ids, the end token included where one was drawn.
    logprobs: (T,) natural-log probability of each, of the kind that the server reports (see `bias`).
    finish: the server's reason to stop, "stop" or "length".
    cached_tokens: prompt tokens that the server took from its prefix cache; 0 if it does not say.
    """

    token_ids: list[int]
    logprobs: list[float]
    finish: str
    cached_tokens: int


@dataclass(frozen=True, slots=True)
class Format:
    """How one kind of server is asked, and how its answer is read.

    path: the endpoint, which follows the server's URL.
    request: (model, prompt ids, sampling, seed, most new tokens, ids that end the answer) -> the JSON to send.
    answer: (the JSON received) -> a checked `Answer`; raises `EngineError` for what cannot be one.
    """

    path: str
    request: Callable[[str, list[int], Sampling, int, int, Sequence[int]], dict[str, Any]]
    answer: Callable[[Any], Answer]


@contextlib.contextmanager
def _reading(what: str) -> Iterator[None]:
    """A context that turns the error of a field that is missing, or of another type, into an `EngineError`."""
    try:
        yield
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as e:
        raise EngineError(f"the server's reply is not {what} ({type(e).__name__}: {e}); is it vLLM or SGLang?") from e


def _vllm_request(
    model: str, prompt: list[int], sampling: Sampling, seed: int, room: int, stop: Sequence[int]
) -> dict[str, Any]:
    return {
        "model": model,
        "prompt": prompt,
        "max_tokens": room,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k or -1,
        "seed": seed % 2**63,
        # These two are off, and said to be: a server takes what is left out from the model's generation config.
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "ignore_eos": True,
        "stop_token_ids": list(stop),
        "logprobs": 1,
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,
        "skip_special_tokens": False,
    }


def _vllm_answer(body: Any) -> Answer:
    with _reading("a completions answer"):
        choice = body["choices"][0]
        if choice.get("logprobs") is None:
            raise EngineError("the server returned no log-probs; it must allow `logprobs` in completions requests")
        ids, tokens = choice.get("token_ids"), choice["logprobs"].get("tokens")
        # A server that does not know `return_token_ids` may still write its tokens as "token_id:123".
        if ids is None and tokens and all(str(token).startswith("token_id:") for token in tokens):
            ids = [int(token.removeprefix("token_id:")) for token in tokens]
        if ids is None:
            raise EngineError(
                "the server returned no token ids, and text cannot be turned back into them; use vLLM or SGLang"
            )
        details = (body.get("usage") or {}).get("prompt_tokens_details") or {}
        return _checked(
            ids, choice["logprobs"]["token_logprobs"], choice["finish_reason"], details.get("cached_tokens")
        )


def _sglang_request(
    model: str, prompt: list[int], sampling: Sampling, seed: int, room: int, stop: Sequence[int]
) -> dict[str, Any]:
    parameters = {
        "max_new_tokens": room,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k or -1,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "ignore_eos": True,
        "stop_token_ids": list(stop),
        "no_stop_trim": True,
        "skip_special_tokens": False,
        "sampling_seed": seed % 2**31,
    }
    return {"input_ids": prompt, "sampling_params": parameters, "return_logprob": True}


def _sglang_answer(body: Any) -> Answer:
    with _reading("a generate answer"):
        about = body["meta_info"]
        pairs = about.get("output_token_logprobs")
        if pairs is None:
            raise EngineError("the server returned no log-probs (meta_info.output_token_logprobs)")
        finish = about["finish_reason"]["type"]
        return _checked([p[1] for p in pairs], [p[0] for p in pairs], finish, about.get("cached_tokens"))


VLLM = Format("/v1/completions", _vllm_request, _vllm_answer)
SGLANG = Format("/generate", _sglang_request, _sglang_answer)


def _checked(ids: Any, logprobs: Any, finish: Any, cached: Any) -> Answer:
    """The answer of these parts. Raises `EngineError` for numbers that cannot be right."""
    if not ids or not all(isinstance(token, int) for token in ids):
        raise EngineError(f"the server returned {'no tokens' if not ids else 'token ids that are not integers'}")
    if len(logprobs) != len(ids):
        raise EngineError(f"the server returned {len(ids)} tokens but {len(logprobs)} log-probs")
    for value in logprobs:
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise EngineError(f"the server returned {value!r} as a log-prob; check its weights and dtype")
        if value > 1e-3:  # less than that is rounding; more shows that it is a logit
            raise EngineError(
                f"the server returned {value:g} as a log-prob, and those are never above 0; without a logits processor "
                "of ours, start it with --logprobs-mode processed_logprobs"
            )
    if finish not in ("stop", "length"):
        raise EngineError(f"the server ended a rollout with finish reason {finish!r}")
    return Answer(list(ids), [min(float(value), 0.0) for value in logprobs], finish, int(cached or 0))
