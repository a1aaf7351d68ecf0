"""An engine such as a user writes: only `generate`, made by a factory. Tests name it `helpers.own_engine:make`."""

from collections.abc import Sequence
from typing import Any

from ibtpo.engines import Completion, Engine, Sampling

A, B, EOS = 2, 3, 1  # of the tiny model's letters


class OwnEngine(Engine):
    """Answers with as many a as the seed says, then b. answers: the token ids of every answer it gave."""

    def __init__(self, model: Any, tokenizer: Any, max_in_flight: int) -> None:
        self.model, self.tokenizer, self.max_in_flight = model, tokenizer, max_in_flight
        self.answers: list[tuple[int, ...]] = []

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, seed: int, max_new_tokens: int
    ) -> Completion:
        ids = [*[A] * (seed % 5), B, B, EOS][:max_new_tokens]
        self.answers.append(tuple(ids))
        return Completion(ids, [-0.5] * len(ids), None, "eos" if ids[-1] == EOS else "length")


MADE: list[OwnEngine] = []  # by `make`, in order


def make(model: Any, tokenizer: Any, *, max_in_flight: int) -> Engine:
    """The factory."""
    MADE.append(OwnEngine(model, tokenizer, max_in_flight))
    return MADE[-1]


def fail(model: Any, tokenizer: Any, *, max_in_flight: int) -> Engine:
    """A factory that fails."""
    raise OSError("no such device")


def no_engine(model: Any, tokenizer: Any, *, max_in_flight: int) -> Any:
    """A factory of something that only samples."""

    class Sampler:
        generate = OwnEngine.generate

    return Sampler()
