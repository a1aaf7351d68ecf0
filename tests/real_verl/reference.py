"""The embedded model's trees as ibtpo grows them without verl: what verl's rows are compared with."""

import asyncio
from collections.abc import Sequence

from ibtpo._seeds import stable_hash
from ibtpo.engines import Completion, Engine, Sampling
from ibtpo.engines.models import eos_token_ids, load_model
from ibtpo.engines.transformers import TransformersEngine
from ibtpo.integrations.verl.trees import Settings
from ibtpo.search import Prompt, TreeSearch
from ibtpo.tasks.problems import Problem
from ibtpo.tree import ReasoningTree
from ibtpo.verify.pool import VerifierPool
from real_verl.launch import LENGTH


class ShortSeeds(Engine):
    """The transformers engine with the seeds that verl's servers get: their first 31 bits."""

    def __init__(self, engine: TransformersEngine) -> None:
        self.engine = engine

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, seed: int, max_new_tokens: int
    ) -> Completion:
        """See `Engine.generate`."""
        return await self.engine.generate(prompt_ids, sampling, seed % 2**31, max_new_tokens)


class Reference:
    """The embedded model and its tokenizer."""

    def __init__(self) -> None:
        self.model, self.tokenizer = load_model("nano")
        self.engine = ShortSeeds(
            TransformersEngine(self.model, eos_token_ids=eos_token_ids(self.model, self.tokenizer))
        )

    def decode(self, ids: list[int]) -> str:
        """The text of some tokens, special ones left out."""
        return self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def tree(self, problem: Problem, index: int, step: int, settings: Settings) -> ReasoningTree:
        """The tree of one question.

        index: its `extra_info.index`.
        step: verl's global step.
        """
        ids = self.tokenizer(problem.prompt)["input_ids"]
        seed = stable_hash(settings.seed, step, str(index), ids)
        with VerifierPool(["walk"], workers=1) as verifier:
            search = TreeSearch(self.engine, verifier, self.decode, settings.search(Sampling(), LENGTH, seed))
            prompt = Prompt(str(index), tuple(ids), problem.prompt, dict(problem.columns), True)
            return asyncio.run(search.grow(prompt))
