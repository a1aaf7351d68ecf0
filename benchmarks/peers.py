"""The peers that our engine is measured against: batch calls in rounds with a barrier, as a plain script would do it.

`BarrierEngine` is an `Engine`, so that search, verifier and branching rule are the same as with ours. It waits until
every growing tree has asked for a rollout, then hands all requests to batch calls of the peer.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ibtpo.engines import Completion, Sampling

Batch = Callable[[list[list[int]], Sampling, list[int]], list[tuple[list[int], list[float]]]]
_TURNS = 20  # turns of the event loop without a new request, after which every tree is taken to wait


class BarrierEngine:
    """An engine that collects requests until no more come, and then answers them together.

    batch: the peer; it maps prompts, sampling and the most new tokens of each prompt to tokens and log-probs of each.
    eos_token_ids: tokens that end a completion.
    size: most prompts of one batch call.
    """

    def __init__(self, batch: Batch, eos_token_ids: Sequence[int], size: int) -> None:
        self.batch, self.eos, self.size = batch, frozenset(eos_token_ids), size
        self.generated_tokens = 0
        self._waiting: list[tuple[list[int], Sampling, int, asyncio.Future[Completion]]] = []
        self._task: asyncio.Task[None] | None = None

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, seed: int, max_new_tokens: int
    ) -> Completion:
        """See `Engine.generate`. The seed is not used: the peer draws from its own random state."""
        future: asyncio.Future[Completion] = asyncio.get_running_loop().create_future()
        self._waiting.append((list(prompt_ids), sampling, max_new_tokens, future))
        if self._task is None or self._task.done():
            self._task = asyncio.ensure_future(self._serve())
        return await future

    async def _serve(self) -> None:
        """Answers requests in rounds until none are left."""
        while self._waiting:
            count = -1
            while count != len(self._waiting):  # The barrier: wait until no more requests come.
                count = len(self._waiting)
                for _ in range(_TURNS):
                    await asyncio.sleep(0)
            # Prompts of similar length waste little on padding if they are in the same batch.
            requests = sorted(self._waiting, key=lambda r: len(r[0]))
            self._waiting = []
            for i in range(0, len(requests), self.size):
                part = requests[i : i + self.size]
                answers = self.batch([r[0] for r in part], part[0][1], [r[2] for r in part])
                for (_, _, most, future), (tokens, logprobs) in zip(part, answers, strict=True):
                    end = next((j + 1 for j, t in enumerate(tokens) if t in self.eos), len(tokens))
                    end = min(end, most)
                    self.generated_tokens += end
                    stop = "eos" if tokens[end - 1] in self.eos else "length"
                    future.set_result(Completion(tokens[:end], logprobs[:end], None, stop, 0))


def generate_batch(model: Any, eos: Sequence[int], pad: int, logprobs: bool = True) -> Batch:
    """Makes a batch call of `model.generate`, for `BarrierEngine` or to be used alone.

    model: a transformers model.
    eos: tokens that end a completion; without any, each completion gets all the tokens it may have.
    pad: the token for padding on the left.
    logprobs: whether to compute log-probs from the logits; without them, all are 0.
    """

    def batch(prompts: list[list[int]], sampling: Sampling, most: list[int]) -> list[tuple[list[int], list[float]]]:
        width = max(map(len, prompts))
        ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts], device=model.device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=model.device)
        with torch.inference_mode():
            out = model.generate(
                ids, attention_mask=mask, do_sample=True, temperature=sampling.temperature, top_p=sampling.top_p,
                top_k=sampling.top_k, max_new_tokens=max(most), eos_token_id=list(eos) or None, pad_token_id=pad,
                return_dict_in_generate=True, output_logits=logprobs,
            )  # fmt: skip
        tokens = out.sequences[:, width:]
        columns = []
        for i, logits in enumerate(out.logits or ()):
            scaled = logits.float() / sampling.temperature
            columns.append(scaled.gather(-1, tokens[:, i : i + 1])[:, 0] - scaled.logsumexp(-1))
        logs = torch.stack(columns, 1).tolist() if columns else [[0.0] * tokens.shape[1]] * len(prompts)
        return list(zip(tokens.tolist(), logs, strict=True))

    return batch
