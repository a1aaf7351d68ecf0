"""Between two steps of an engine: whoever waits for a finished rollout submits what follows before the next step."""

import asyncio
from collections.abc import Sequence

from helpers.searches import decode, options, parity
from helpers.trees import FunctionVerifier
from ibtpo.engines import Completion, Engine, Sampling
from ibtpo.engines.turns import let_callers_run
from ibtpo.search import Prompt, TreeSearch


class Stepped(Engine):
    """Every step gives each waiting request a token. steps: the prompts' first tokens that were served, by step."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, list[int], asyncio.Future[Completion]]] = []
        self.steps: list[set[int]] = []
        self.driver: asyncio.Task[None] | None = None

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, seed: int, max_new_tokens: int
    ) -> Completion:
        future: asyncio.Future[Completion] = asyncio.get_running_loop().create_future()
        self.rows.append((prompt_ids[0], [1] * (seed % 3) + [2 + seed % 4], future))
        if self.driver is None or self.driver.done():
            self.driver = asyncio.ensure_future(self._drive())
        return await future

    async def _drive(self) -> None:
        taken = 0
        while self.rows:
            taken += 1
            self.steps.append({tree for tree, _, _ in self.rows})
            done = [row for row in self.rows if taken % len(row[1]) == 0]
            self.rows = [row for row in self.rows if row not in done]
            for _, ids, future in done:
                future.set_result(Completion(ids, [-0.5] * len(ids), None, "length"))
            await let_callers_run(bool(done))


def test_a_tree_whose_rollout_has_ended_is_in_the_next_step_again() -> None:
    engine = Stepped()
    search = TreeSearch(engine, FunctionVerifier(parity), decode, options("1,8,1,1", deterministic=True))
    trees = asyncio.run(search.grow_all([Prompt(f"p{i}", (i,), "q") for i in range(1, 5)]))
    assert [len(tree.leaves) for tree in trees] == [8] * 4
    for tree in range(1, 5):
        served = [step for step, who in enumerate(engine.steps) if tree in who]
        assert served == list(range(len(served)))  # from the first step to its last, without a gap
