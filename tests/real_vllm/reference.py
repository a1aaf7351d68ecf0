"""What the tests with real vLLM compare it with: the same model under transformers."""

import asyncio
from collections.abc import Sequence
from typing import Any

import torch

from ibtpo.engines import Completion, Engine, Sampling
from ibtpo.engines.models import eos_token_ids, load_model
from ibtpo.verify import Verdict

SAMPLING = Sampling(0.7, 0.95, 20)


class Reference:
    """A transformers model to compare with."""

    def __init__(self, name: str) -> None:
        self.model, self.tokenizer = load_model(name)
        self.ends = eos_token_ids(self.model, self.tokenizer)

    def logprobs(self, prompt: Sequence[int], sampled: Sequence[int], temperature: float) -> torch.Tensor:
        """(T,) of the full softmax, by one forward of the whole row."""
        with torch.no_grad():
            logits = self.model(torch.tensor([[*prompt, *sampled]])).logits[0, len(prompt) - 1 : -1]
        return (logits / temperature).log_softmax(-1).gather(1, torch.tensor(sampled)[:, None])[:, 0]

    def gap(self, prompt: Sequence[int], completion: Completion, temperature: float = SAMPLING.temperature) -> float:
        """The largest difference from a completion's log-probs."""
        expected = self.logprobs(prompt, completion.token_ids, temperature)
        return float((expected - torch.tensor(completion.logprobs)).abs().max())


class LengthReward:
    """A verdict that depends on the answer: trees of several rewards."""

    names = ("length",)

    def score(self, rows: list[dict[str, Any]]) -> list[Verdict]:
        return [Verdict(float(len(r["completion_ids"]) % 2), (float(len(r["completion_ids"]) % 2),)) for r in rows]

    async def ascore(self, rows: list[dict[str, Any]]) -> list[Verdict]:
        return self.score(rows)

    def close(self) -> None:
        pass


def ask(engine: Engine, prompt: Sequence[int], seeds: Sequence[int], room: int = 40) -> list[Completion]:
    """One completion a seed, all at once."""

    async def all_of_them() -> list[Completion]:
        return list(await asyncio.gather(*[engine.generate(prompt, SAMPLING, s, room) for s in seeds]))

    return asyncio.run(all_of_them())
