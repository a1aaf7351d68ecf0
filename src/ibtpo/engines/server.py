"""vLLM or SGLang servers as an `Engine`, over HTTP: one server, or several replicas of it.

    engine = connect(["http://10.0.0.1:8000", "http://10.0.0.2:8000"], vocab_size=…, eos_token_ids=[…])

All requests of a tree go to one replica, because that one has the tree's prefixes in its cache. When a replica dies,
its requests go to the others; it takes part again when its health check succeeds. Which replica serves a request does
not matter for the result, because the seed travels with the request.
"""

import asyncio
import contextlib
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import httpx2

from ..errors import EngineError
from . import Completion, Engine, Sampling, check_request
from .completions import VLLM, Format, bias
from .http import headers, hint, message, read_json, retry_after, told

FULL_LOGPROBS_HINT = (
    "start vLLM with `--logits-processors ibtpo.engines.full_softmax:FullSoftmax --logprobs-mode processed_logits` "
    "(ibtpo installed next to it)"
)

_HEALTH_SECONDS = 5.0  # that a health check may take, and the pause between two of them
_LONGEST_PAUSE = 60.0  # seconds between two tries, whatever a server asks for
TREES_REMEMBERED = 100_000  # of so many trees it is known which replica serves them


@dataclass(eq=False, slots=True)
class Replica:
    """One server and the state it is in.

    url: its address, without a path.
    in_flight: requests that it has not answered yet.
    trees: how many trees it was chosen for, so far.
    up: whether requests are sent to it.
    retry_at: while it is down, when to ask for its health again, in seconds of the engine's clock.
    problem: what it failed with last; empty if it never did.
    """

    url: str
    in_flight: int = 0
    trees: int = 0
    up: bool = True
    retry_at: float = 0.0
    problem: str = ""


class _Failed(Exception):  # noqa: N818 (caught here, never seen outside)
    """A request failed; another replica, or another try, may do better."""


class _Busy(_Failed):
    """The server asks to come back after `pause` seconds; 0 if it did not say when."""

    def __init__(self, message: str, pause: float) -> None:
        super().__init__(message)
        self.pause = pause


class ServerEngine(Engine):
    """Replicas of one server as an `Engine`. `connect.connect` makes it, and finds out most of its arguments.

    urls: the servers' addresses, without a path.
    model: the name under which they serve the model.
    vocab_size: every token id is below it.
    eos_token_ids: ids that end an answer.
    max_length: tokens of prompt and answer together that the context holds; None if that is not known.
    server: the kind of server, `completions.VLLM` or `completions.SGLANG`.
    logprobs: the kind of log-probs the servers report, see `completions.bias`. `generate` warns, once, where they are
        not those of the full softmax at the sampling temperature.
    api_key: sent with each request as a bearer token.
    timeout: seconds that one rollout may take.
    retries: how often a request is tried again after no replica was left, or a healthy one failed it.
    backoff: seconds before the first such retry, doubled each time.
    clock: seconds, for `busy_seconds` and the times of health checks.

    Statistics, counted since construction: `generated_tokens`, `cached_tokens` (prompt tokens found in a server's
    cache, where servers say so), `busy_seconds` (with at least one request in flight).
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        model: str,
        vocab_size: int,
        eos_token_ids: Sequence[int],
        max_length: int | None = None,
        server: Format = VLLM,
        logprobs: str = "full",
        api_key: str | None = None,
        timeout: float = 600.0,
        retries: int = 4,
        backoff: float = 0.5,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.replicas = [Replica(url) for url in urls]
        self.model = model
        self.vocab_size = vocab_size
        self.max_length = max_length
        self.eos_token_ids = frozenset(eos_token_ids)
        self.logprobs = logprobs
        self.timeout = timeout
        self.retries = retries
        self.backoff = backoff
        self.generated_tokens = self.cached_tokens = 0
        self.busy_seconds = 0.0
        self._server = server
        self._headers = headers(api_key)
        self._clock = clock
        self._busy_since = 0.0
        self._warned = False
        # Hash of a tree's prompt -> the replica that serves the tree; the least recently used tree first.
        self._home: OrderedDict[int, Replica] = OrderedDict()
        self._client: httpx2.AsyncClient | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._checks: set[asyncio.Task[bool]] = set()

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, seed: int, max_new_tokens: int
    ) -> Completion:
        """See `Engine.generate`. A rollout is cut short where the server's context ends (stop reason "length").

        Raises `EngineError` when a server refuses the request or answers nonsense, and when, after all retries, no
        replica has answered it.
        """
        prompt, room = check_request(
            prompt_ids, seed, max_new_tokens, vocab_size=self.vocab_size, max_length=self.max_length
        )
        if not self._warned and (what := bias(self.logprobs, sampling)):
            self._warned = True
            warnings.warn(
                f"the server's log-probs are {what}, not those of the full softmax at the sampling temperature: "
                f"confidence in steps and advantages computed from these trees are biased; {FULL_LOGPROBS_HINT}",
                stacklevel=2,
            )
        root = self._root(prompt)
        ends = sorted(self.eos_token_ids.union(sampling.stop_token_ids))
        body = self._server.request(self.model, prompt, sampling, seed, room, ends)
        problem, pause = "", 0.0
        for attempt in range(self.retries + 1):
            await asyncio.sleep(pause)
            pause = self.backoff * 2**attempt
            while (replica := self._replica(root)) is not None:
                try:
                    reply = await self._post(replica, body)
                except _Busy as e:
                    problem, pause = f"{replica.url}: {e}", min(max(pause, e.pause), _LONGEST_PAUSE)
                    break
                except _Failed as e:
                    replica.problem, problem = str(e), f"{replica.url}: {e}"
                    if await self._check(replica):
                        break
                    continue  # it is down: another one takes over at once
                return self._completion(reply, room, ends, replica)
            else:
                await asyncio.gather(*[self._check(replica) for replica in self.replicas])
        if any(replica.up for replica in self.replicas):
            raise EngineError(f"{problem}; tried {self.retries + 1} times")
        gone = "; ".join(f"{replica.url}: {replica.problem}" for replica in self.replicas)
        raise EngineError(
            f"no server answers any more ({gone}); see why in the servers' own logs, start them again and go on from "
            "what is kept"
        )

    # --- which replica -----------------------------------------------------------------------------------------

    def _root(self, prompt: list[int]) -> int:
        """The hash of the prompt of the tree that this request belongs to.

        All requests of a tree start with the ids of its prompt, and the first of them is just the prompt. So a request
        that starts with no known prompt begins a new tree, for which a replica is chosen here.
        """
        root = 0
        for token in prompt:
            root = hash((root, token))  # of the prompt up to here
            if root in self._home:
                self._home.move_to_end(root)
                return root
        self._home[root] = self._least_busy() or self.replicas[0]
        if len(self._home) > TREES_REMEMBERED:
            self._home.popitem(last=False)
        return root

    def _least_busy(self) -> Replica | None:
        """Chooses a replica for a tree: the one with the fewest requests, then trees. None if all are down."""
        up = [replica for replica in self.replicas if replica.up]
        chosen = min(up, key=lambda r: (r.in_flight, r.trees), default=None)
        if chosen is not None:
            chosen.trees += 1
        return chosen

    def _replica(self, root: int) -> Replica | None:
        """The replica that serves a tree: its own, another one once that is down, None when all are."""
        now = self._clock()
        # While others do the work, those that are down are asked for their health in the background.
        for replica in self.replicas:
            if not replica.up and now >= replica.retry_at and any(r.up for r in self.replicas):
                replica.retry_at = now + _HEALTH_SECONDS * 2
                task = asyncio.ensure_future(self._check(replica))
                self._checks.add(task)
                task.add_done_callback(self._checks.discard)
        home = self._home.get(root)
        if home is None or not home.up:
            home = self._least_busy()
            if home is not None:
                self._home[root] = home
        return home

    async def _check(self, replica: Replica) -> bool:
        """Asks a replica for its health, and sets `up` by it. Returns `up`."""
        try:
            response = await self._http().get(replica.url + "/health", timeout=_HEALTH_SECONDS)
            replica.up = response.status_code < 500  # even "not found" comes from a server that runs
            if not replica.up:
                replica.problem = replica.problem or f"health check: HTTP {response.status_code}"
        except httpx2.RequestError as e:
            replica.up = False
            replica.problem = replica.problem or told(e)
        replica.retry_at = self._clock() + _HEALTH_SECONDS
        return replica.up

    # --- requests ----------------------------------------------------------------------------------------------

    def _http(self) -> httpx2.AsyncClient:
        """The HTTP client for the running event loop."""
        loop = asyncio.get_running_loop()
        if self._client is None or self._loop is not loop:  # connections belong to the loop that opened them
            timeout = httpx2.Timeout(self.timeout, connect=min(self.timeout, 10.0), pool=None)
            limits = httpx2.Limits(max_connections=None, max_keepalive_connections=256)
            self._client = httpx2.AsyncClient(timeout=timeout, limits=limits, headers=self._headers)
            self._loop = loop
        return self._client

    async def _post(self, replica: Replica, body: dict[str, Any]) -> Any:
        """The JSON that a replica answers. Raises `_Failed` where another try makes sense, else `EngineError`."""
        with self._counted(replica):
            try:
                response = await self._http().post(replica.url + self._server.path, json=body)
            except httpx2.TimeoutException as e:
                raise _Failed(f"no answer within {self.timeout:g} s; raise the timeout or ask for less") from e
            except httpx2.RequestError as e:
                raise _Failed(told(e)) from e
        status = response.status_code
        if status in (429, 503):
            raise _Busy(f"HTTP {status}: {message(response)}", retry_after(response))
        if status >= 500:
            raise _Failed(f"HTTP {status}: {message(response)}")
        if status != 200:
            raise EngineError(f"{replica.url} refuses the request: HTTP {status}: {message(response)}{hint(status)}")
        return read_json(response)

    @contextlib.contextmanager
    def _counted(self, replica: Replica) -> Iterator[None]:
        """A context that counts a request as in flight, and the time in which there is one."""
        if not any(r.in_flight for r in self.replicas):
            self._busy_since = self._clock()
        replica.in_flight += 1
        try:
            yield
        finally:
            replica.in_flight -= 1
            if not any(r.in_flight for r in self.replicas):
                self.busy_seconds += self._clock() - self._busy_since

    def _completion(self, reply: Any, room: int, ends: Sequence[int], replica: Replica) -> Completion:
        """The rollout in a replica's reply. Raises `EngineError` for one that was not asked for.

        room: most tokens that were asked for.
        ends: ids that end it.
        """
        try:
            answer = self._server.answer(reply)
            stop = "eos" if answer.token_ids[-1] in ends else "length"
            if not 0 <= min(answer.token_ids) <= max(answer.token_ids) < self.vocab_size:
                raise EngineError(
                    f"the server sampled token ids up to {max(answer.token_ids)}, and the tokenizer's model knows "
                    f"{self.vocab_size}; does it serve the same model?"
                )
            if len(answer.token_ids) > room:
                raise EngineError(f"the server returned {len(answer.token_ids)} tokens where {room} were asked for")
            if stop == "length" and (answer.finish == "stop" or len(answer.token_ids) < room):
                raise EngineError(
                    f"the server ended a rollout after {len(answer.token_ids)} of {room} tokens (finish reason "
                    f"{answer.finish!r}) without one of the end tokens {ends}"
                )
        except EngineError as e:
            raise EngineError(f"{replica.url}: {e}") from e
        self.generated_tokens += len(answer.token_ids)
        self.cached_tokens += answer.cached_tokens
        return Completion(answer.token_ids, answer.logprobs, None, stop, answer.cached_tokens)
