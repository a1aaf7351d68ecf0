"""An engine for tests and examples, whose language model is a plain function."""

import asyncio
import math
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ..errors import EngineError
from . import Completion, Engine, Sampling

# (T,) token ids so far -> for each token id that may follow, its probability, above 0. Their sum need not be 1.
NextToken = Callable[[tuple[int, ...]], Mapping[int, float]]


class ScriptedEngine(Engine):
    """Samples from a function that gives the probabilities of the next token; a request's seed decides the result.

    Temperature, top-p and top-k have no effect.

    next_token: `next_token(ids) -> {token id: probability}`, the language model.
    eos_token_ids: ids that end a completion.
    delay: `delay(seed) -> seconds`, how long a request waits before it is answered; to shuffle the order of arrival.
    fail: `fail(seed) -> bool`, whether a request raises `EngineError`.
    clock: the time in seconds, for `busy_seconds`.

    `requests` counts the requests so far, and `max_seen` is the most that were ever in flight at once. `busy_seconds`
    is the time spent in the function and in drawing tokens, without what `delay` waits.
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
