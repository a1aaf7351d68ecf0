"""vLLM with tensor parallelism in the trainer's own processes: those of a group grow the same trees together.

vLLM's processes compute each step together, so all of a group must ask for the same steps. Each runs the same search
over the questions of all of them, and keeps the trees of its own. A search with `deterministic` depends on nothing but
its engine and its verdicts: the first process of the group scores, and the others get what it found.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch.distributed as dist

from ..search import Prompt
from ..tasks.prompts import prompt_id
from ..tree import ReasoningTree
from ..verify import Verdict


class Group:
    """The processes that share a vLLM.

    processes: their `torch.distributed` group.
    verifier: what scores in the first of them; the attribute `verifier` is what searches are to be given.
    """

    def __init__(self, processes: Any, verifier: Any) -> None:
        self.verifier = GroupVerifier(verifier, processes)
        self._processes = processes
        self._first = 0  # of this process's questions among those of the group
        self._count = 0

    def prompts(self, own: Sequence[Prompt]) -> list[Prompt]:
        """The questions of all processes of the group, in order of their ranks.

        own: those of this process. A question that an earlier process has, too, gets another id, so that it gets
            another tree.
        """
        found: list[Any] = [None] * dist.get_world_size(self._processes)
        dist.all_gather_object(found, list(own), group=self._processes)
        rank = dist.get_rank(self._processes)
        self._first, self._count = sum(map(len, found[:rank])), len(own)
        taken: set[str] = set()
        whole = []
        for prompt in (prompt for of_one in found for prompt in of_one):
            id = prompt_id({"id": prompt.id}, taken)
            taken.add(id)
            whole.append(prompt if id == prompt.id else replace(prompt, id=id))
        return whole

    def own(self, trees: Sequence[ReasoningTree]) -> list[ReasoningTree]:
        """Of the trees of `prompts`, those of this process."""
        return list(trees[self._first : self._first + self._count])


class GroupVerifier:
    """A `Verifier` that scores in the first process of a group; the others get its verdicts.

    All processes of the group must make the same calls in the same order.

    verifier: what scores.
    processes: the `torch.distributed` group.
    """

    def __init__(self, verifier: Any, processes: Any) -> None:
        self._verifier = verifier
        self._processes = processes
        self.names = verifier.names
        self.waits = getattr(verifier, "waits", False)
        self.may_compare = verifier.may_compare
        self.takes_all = getattr(verifier, "takes_all", False)

    def score(self, rows: Sequence[dict[str, Any]]) -> list[Verdict]:
        """The (R,) verdicts on (R,) rows. Raises in every process what the first one's verifier raises."""
        box: list[Any] = [None]
        if dist.get_rank(self._processes) == 0:
            try:
                box = [self._verifier.score(rows)]
            except Exception as error:
                box = [error]
        dist.broadcast_object_list(box, src=dist.get_global_rank(self._processes, 0), group=self._processes)
        if isinstance(box[0], Exception):
            raise box[0]
        verdicts: list[Verdict] = box[0]
        return verdicts

    async def ascore(self, rows: Sequence[dict[str, Any]]) -> list[Verdict]:
        """The same; nothing goes on meanwhile."""
        return self.score(rows)

    def close(self) -> None:
        """Nothing: the trainer closes its verifier."""


def group_of(trainer: Any) -> Group | None:
    """The group that this process shares its vLLM with, or None where it has one of its own or none at all.

    trainer: an `IBTPOTrainer`.
    """
    if not trainer.use_vllm or trainer.vllm_mode != "colocate" or trainer.args.vllm_tensor_parallel_size == 1:
        return None
    return Group(trainer.vllm_generation.tp_group, trainer.verifier)
