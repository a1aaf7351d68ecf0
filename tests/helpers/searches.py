"""A small scripted model, and searches with it, for the tests of growing trees.

The model is a table of probabilities over seven tokens, so a search is fast and gives the same trees on every machine.
"""

import asyncio
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from helpers.trees import FunctionVerifier
from ibtpo.engines import Completion, Sampling
from ibtpo.engines.scripted import ScriptedEngine
from ibtpo.search import Budget, Prompt, SearchOptions, TreeSearch
from ibtpo.tree import ReasoningTree

EOS = 0
VOCABULARY = {0: "", 1: " a", 2: "\n\n", 3: ".\n\n", 4: "\n", 5: " b", 6: " c"}


def decode(ids: Sequence[int]) -> str:
    """The text of token ids. A leading space is dropped, as tokenizers of the SentencePiece kind drop it."""
    return "".join(VOCABULARY[i] for i in ids).removeprefix(" ")


def next_token(ids: tuple[int, ...]) -> Mapping[int, float]:
    """The model: the probability of each token after `ids`. It depends on the last two; EOS always has 0.1."""
    return after(ids[-2] if len(ids) > 1 else 0, ids[-1])


@cache
def after(a: int, b: int) -> Mapping[int, float]:
    """The probability of each token after the tokens `a`, `b`."""
    weights = [1 + (3 * a + 5 * b + t * (a + 2)) % 7 for t in range(1, 7)]
    return {EOS: 0.1, **{t: 0.9 * w / sum(weights) for t, w in enumerate(weights, 1)}}


def parity(row: dict[str, Any]) -> float:
    """A reward function: 1 for an answer with an even number of tokens 1, else 0."""
    return float(row["completion_ids"].count(1) % 2 == 0)


def prompts(n: int) -> list[Prompt]:
    """n prompts p0, p1, … of two tokens each, which come again after 36 prompts."""
    return [Prompt(f"p{i}", (1 + i % 6, 1 + (i // 6) % 6), f"question {i}", {"answer": i}) for i in range(n)]


class Recorder(ScriptedEngine):
    """A scripted engine that keeps (prompt, seed, completion) of every request in `log`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.log: list[tuple[tuple[int, ...], int, Completion]] = []

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, seed: int, max_new_tokens: int
    ) -> Completion:
        """The scripted completion, which is noted in `log`."""
        completion = await super().generate(prompt_ids, sampling, seed, max_new_tokens)
        self.log.append((tuple(prompt_ids), seed, completion))
        return completion


def grow(
    options: SearchOptions, questions: Sequence[Prompt], engine: Any = None, verifier: Any = None, **kwargs: Any
) -> list[ReasoningTree]:
    """Grows a tree for each question and returns them in order.

    options: the search's options, as `options` makes them.
    questions: the prompts, as `prompts` makes them.
    engine: default the scripted model.
    verifier: default `parity`.
    kwargs: further arguments of `TreeSearch`.
    """
    engine = engine or ScriptedEngine(next_token, [EOS])
    search = TreeSearch(engine, verifier or FunctionVerifier(parity), decode, options, **kwargs)
    return asyncio.run(search.grow_all(questions))


def options(budget: str = "4,9,1,1", tokens: int | None = None, **kwargs: Any) -> SearchOptions:
    """Search options for answers of at most 12 tokens.

    budget: the tree's shape B0,L,K,B.
    tokens: the token budget of a tree, if it has one.
    kwargs: further options.
    """
    kwargs.setdefault("max_completion_length", 12)
    return SearchOptions(budget=Budget.parse(budget, tokens), **kwargs)


def dicts(trees: Sequence[ReasoningTree]) -> list[dict]:
    """The trees as they are stored, to compare them with all they hold."""
    return [t.to_dict() for t in trees]
