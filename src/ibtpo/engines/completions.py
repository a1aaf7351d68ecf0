"""How servers take token ids and give them back: vLLM's completions endpoint and SGLang's generate endpoint.

SGLang has the completions endpoint too, but returns no token ids there. Each format is a path, a function that writes
the request, and one that reads the answer; what is read is checked, for a wrong number would become training data.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import EngineError
from . import Sampling


def bias(kind: str, sampling: Sampling) -> str | None:
    """What is wrong with log-probs of a kind for these options; None if they are those of the full softmax.

    kind: "full" (the full softmax at the sampling temperature), "processed" (renormalised after top-p and top-k) or
    "raw" (at temperature 1).
    """
    if kind == "processed" and (sampling.top_p < 1 or sampling.top_k):
        return "renormalised after top-p and top-k"
    if kind == "raw" and sampling.temperature != 1:
        return "those at temperature 1"
    return None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server sampled. token_ids, logprobs: (T,). finish: "stop" or "length". cached_tokens: 0 if not told."""

    token_ids: list[int]
    logprobs: list[float]
    finish: str
    cached_tokens: int


@dataclass(frozen=True, slots=True)
class Format:
    """request(model, prompt ids, sampling, seed, max new tokens, stop ids) -> JSON; answer(JSON) -> `Answer`."""

    path: str
    request: Callable[[str, list[int], Sampling, int, int, Sequence[int]], dict[str, Any]]
    answer: Callable[[Any], Answer]


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
        # Spelt out: a server takes what is left out from the model's generation config.
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


class _reading:  # noqa: N801 (a context manager that reads as a verb)
    """A field that is missing or of another type becomes an `EngineError`."""

    def __init__(self, what: str) -> None:
        self.what = what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, KeyError | IndexError | TypeError | AttributeError | ValueError):
            raise EngineError(
                f"the server's reply is not {self.what} ({type(error).__name__}: {error}); is it vLLM or SGLang?"
            ) from error


def _checked(ids: Any, logprobs: Any, finish: Any, cached: Any) -> Answer:
    if not ids or not all(isinstance(token, int) for token in ids):
        raise EngineError(f"the server returned {'no tokens' if not ids else 'token ids that are not integers'}")
    if len(logprobs) != len(ids):
        raise EngineError(f"the server returned {len(ids)} tokens but {len(logprobs)} log-probs")
    for value in logprobs:
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise EngineError(f"the server returned {value!r} as a log-prob; check its weights and dtype")
        if value > 1e-3:
            raise EngineError(
                f"the server returned {value:g} as a log-prob, and those are never above 0; without a logits processor "
                "of ours, start it with --logprobs-mode processed_logprobs"
            )
    if finish not in ("stop", "length"):
        raise EngineError(f"the server ended a rollout with finish reason {finish!r}")
    return Answer(list(ids), [min(float(value), 0.0) for value in logprobs], finish, int(cached or 0))
