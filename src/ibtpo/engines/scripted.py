"""A scripted engine for tests and examples: a language model given as a function."""

import asyncio
import math
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ..errors import EngineError
from . import Completion, Engine, Sampling

NextToken = Callable[[tuple[int, ...]], Mapping[int, float]]


class ScriptedEngine(Engine):
    """Samples from `next_token(ids) -> {token id: probability}`; deterministic given the request's seed.

    Temperature, top-p and top-k are left to the script.

    eos_token_ids: ids that end a completion.
    delay: `delay(seed) -> seconds` a request waits before it is answered, to shuffle the order of arrival.
    fail: `fail(seed) -> bool` makes a request raise `EngineError`.
    clock: seconds, for `busy_seconds`.

    requests: how many there were. max_seen: the most ever in flight. busy_seconds: spent in the script and in drawing
    tokens; what `delay` waits is not counted.
    """

    def __init__(
        self,
        next_token: NextToken,
        eos_token_ids: Sequence[int],
        *,
        delay: Callable[[int], float] | None = None,
        fail: Callable[[int], bool] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._next_token = next_token
        self._eos = frozenset(eos_token_ids)
        self._delay = delay
        self._fail = fail
        self._clock = clock
        self._in_flight = 0
        self.busy_seconds = 0.0
        self.max_seen = 0
        self.requests = 0

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, seed: int, max_new_tokens: int
    ) -> Completion:
        """See `Engine.generate`."""
        self.requests += 1
        self._in_flight += 1
        self.max_seen = max(self.max_seen, self._in_flight)
        try:
            await asyncio.sleep(self._delay(seed) if self._delay else 0)
            if self._fail and self._fail(seed):
                raise EngineError(f"scripted failure for seed {seed}")
            started = self._clock()
            completion = self._sample(prompt_ids, seed, max_new_tokens)
            self.busy_seconds += self._clock() - started
            return completion
        finally:
            self._in_flight -= 1

    def _sample(self, prompt_ids: Sequence[int], seed: int, max_new_tokens: int) -> Completion:
        rng = np.random.default_rng(seed)
        ids = list(prompt_ids)
        out: list[int] = []
        logprobs: list[float] = []
        entropies: list[float] = []
        while len(out) < max_new_tokens:
            table = self._next_token(tuple(ids))
            p = np.array(list(table.values()), dtype=float)
            token = list(table)[int(np.searchsorted(np.cumsum(p), rng.random() * p.sum(), side="right"))]
            ids.append(token)
            out.append(token)
            logprobs.append(math.log(table[token] / p.sum()))
            entropies.append(float(-(p / p.sum() * np.log(p / p.sum())).sum()))
            if token in self._eos:
                return Completion(out, logprobs, entropies, "eos")
        return Completion(out, logprobs, entropies, "length")
