"""Connecting to servers that run already: which model they serve, its context, and the log-probs they report."""

import os
import warnings
from collections.abc import Sequence
from typing import Any

import httpx2

from ..errors import ConfigError, EngineError
from . import Sampling
from .completions import SGLANG, VLLM, Answer, Format
from .http import API_KEY_VARIABLE, headers, hint, message, read_json, told
from .server import FULL_LOGPROBS_HINT, ServerEngine


def connect(
    urls: Sequence[str],
    *,
    vocab_size: int,
    eos_token_ids: Sequence[int],
    max_length: int | None = None,
    api_key: str | None = None,
    timeout: float = 600.0,
    logprobs: str | None = None,
    **options: Any,
) -> ServerEngine:
    """The engine for the servers at `urls`, made after asking them what they serve.

    Each server is asked for its model, and the first that answers also for the kind of log-probs it reports, with at
    most four requests for one token. A replica that does not answer is left out, with a warning, until it does.

    urls: one or more of http://host:port; several are replicas of one model.
    vocab_size: rows of the model's embedding; every token id is below it.
    eos_token_ids: ids that end an answer.
    max_length: tokens of prompt and answer together that the model's context holds; if a server says less, that counts.
    api_key: sent to the servers as a bearer token; by default the value of $IBTPO_SERVER_API_KEY.
    timeout: seconds that one rollout may take.
    logprobs: the kind of log-probs that the servers report, see `completions.bias`; by default a server is asked.
    options: more arguments of `ServerEngine`.

    Proxies are taken from the usual environment variables.

    Raises `ConfigError` for URLs or a timeout that cannot be right, and `EngineError` when no server answers, when one
    refuses the questions, or when they serve different models or are of different kinds.
    """
    urls = [_url(url) for url in urls]
    if not urls or len(set(urls)) < len(urls):
        raise ConfigError(f"give one or more different server URLs, got {', '.join(urls) or 'none'}")
    if not timeout > 0:
        raise ConfigError(f"timeout must be > 0 seconds, got {timeout}")
    api_key = api_key or os.environ.get(API_KEY_VARIABLE)
    with httpx2.Client(timeout=min(timeout, 60.0), headers=headers(api_key)) as client:
        cards, problems = {}, {}
        for url in urls:
            try:
                cards[url] = _model_card(client, url)
            except httpx2.RequestError as e:
                problems[url] = told(e)
        if not cards:
            all_problems = "; ".join(f"{url}: {problem}" for url, problem in problems.items())
            raise EngineError(f"no server answers ({all_problems}); start one, e.g. `vllm serve MODEL --port 8000`")
        names = {card["id"] for card in cards.values()}
        if len(names) > 1:
            each = ", ".join(f"{url} {card['id']!r}" for url, card in cards.items())
            raise EngineError(f"replicas must serve one model, but they serve: {each}")
        kinds = {url: "SGLang" if card.get("owned_by") == "sglang" else "vLLM" for url, card in cards.items()}
        if len(set(kinds.values())) > 1:
            each = ", ".join(f"{url} {kind}" for url, kind in kinds.items())
            raise EngineError(f"replicas must be servers of one kind, but they are: {each}")
        first, card = next(iter(cards.items()))
        server = SGLANG if kinds[first] == "SGLang" else VLLM
        lengths = [n for n in (max_length, *(c.get("max_model_len") for c in cards.values())) if n]
        logprobs = logprobs or _find_logprobs(client, first, server, card["id"], vocab_size)
    engine = ServerEngine(
        urls, model=card["id"], vocab_size=vocab_size, eos_token_ids=eos_token_ids, server=server, logprobs=logprobs,
        max_length=min(lengths, default=None), api_key=api_key, timeout=timeout, **options,
    )  # fmt: skip
    for replica in engine.replicas:
        if replica.url in problems:
            replica.up, replica.problem = False, problems[replica.url]
            warnings.warn(f"{replica.url} does not answer ({replica.problem}); going on without it", stacklevel=2)
    if logprobs == "unknown":
        warnings.warn(
            f"{first} did not show which kind of log-probs it reports: if they are not those of the full softmax at "
            f"the sampling temperature, confidence in steps and advantages are biased; {FULL_LOGPROBS_HINT}",
            stacklevel=2,
        )
    return engine


def _model_card(client: httpx2.Client, url: str) -> dict[str, Any]:
    """What a server says of the first model it serves; has at least an `id`."""
    response = client.get(url + "/v1/models")
    if response.status_code != 200:
        raise EngineError(
            f"{url}/v1/models: HTTP {response.status_code}: {message(response)}{hint(response.status_code)}"
        )
    body = read_json(response)
    try:
        return {"id": str(body["data"][0]["id"]), **body["data"][0]}
    except (KeyError, IndexError, TypeError) as e:
        raise EngineError(f"{url}/v1/models names no model; is it a vLLM or SGLang server?") from e


def _find_logprobs(client: httpx2.Client, url: str, server: Format, model: str, vocab_size: int) -> str:
    """The kind of log-probs a server reports: "full", "processed", "raw" or "unknown" (see `completions.bias`).

    With top-p next to 0 the most likely token is always drawn. Its log-prob tells the kind: it is 0 if it is taken
    after the filter ("processed"), the same at temperatures 1 and 0.5 if the temperature is left out ("raw"), and
    higher at 0.5 in the full softmax at the sampling temperature ("full"). Where the next token is nearly certain, the
    last two look alike, so up to three different prompts are tried; if none of them tells, the kind is "unknown".
    """

    def logprob(token: int, temperature: float) -> float:
        request = server.request(model, [token], Sampling(temperature, 1e-6, 0), 0, 1, [])
        response = client.post(url + server.path, json=request)
        if response.status_code != 200:
            status = response.status_code
            raise EngineError(f"{url} refuses a request: HTTP {status}: {message(response)}{hint(status)}")
        try:
            answer: Answer = server.answer(read_json(response))
        except EngineError as e:
            raise EngineError(f"{url}: {e}") from e
        return answer.logprobs[0]

    zeros = []  # whether each log-prob was 0, up to rounding
    for token in (vocab_size // 2, vocab_size // 3, vocab_size // 5):
        try:
            hot = logprob(token, 1.0)
            if hot < -0.05:
                return "raw" if abs(logprob(token, 0.5) - hot) < 0.02 * abs(hot) else "full"
        except httpx2.RequestError as e:
            raise EngineError(f"{url} answered and then did not: {told(e)}") from e
        zeros.append(hot > -1e-6)
    return "processed" if all(zeros) else "unknown"


def _url(text: str) -> str:
    """The URL a user wrote, with `http://` where no scheme is given, and without a slash or `/v1` at its end."""
    url = text.strip()
    url = url if "://" in url else f"http://{url}"
    try:
        parsed = httpx2.URL(url)
    except (httpx2.InvalidURL, ValueError) as e:
        raise ConfigError(f"{text!r} is no URL: {e}; e.g. http://localhost:8000") from e
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ConfigError(f"{text!r} is no server's URL; e.g. http://localhost:8000")
    return url.rstrip("/").removesuffix("/v1")
