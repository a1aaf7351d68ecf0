"""The order of questions and rows: which questions a step gets, and which rows share a micro-batch."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from trl.trainer.utils import split_tensor_dict

from .._seeds import stable_hash
from .packed import read_rows
from .trie import keep_together


def regroup(batches: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """TRL's shuffled micro-batches with the rows of a question brought together, so that they can share prefixes.

    docs/method.md, "Shared prefixes in the update", says what that changes.
    """
    whole = {
        key: torch.cat([batch[key] for batch in batches]) if value is not None and value.ndim else value
        for key, value in batches[0].items()
    }
    ids, mask = (torch.cat([whole[f"prompt_{x}"], whole[f"completion_{x}"]], dim=1) for x in ("ids", "mask"))
    rows, starts = read_rows(ids, mask, whole["completion_ids"].shape[1])
    order = torch.tensor(keep_together([row.tolist() for row in rows], starts), device=ids.device)
    ordered = {key: value[order] if value is not None and value.ndim else value for key, value in whole.items()}
    return split_tensor_dict(ordered, len(batches))


class EpochOrder(torch.utils.data.Sampler):
    """A sampler of TRL's whose shuffling starts anew from (seed, epoch) each time it is iterated.

    Left alone, TRL's generator goes on from one epoch to the next, but starts from the seed in a resumed run.

    sampler: TRL's `RepeatSampler`.
    seed: the run's seed.
    epoch: gives the number of the present epoch.
    """

    def __init__(self, sampler: Any, seed: int, epoch: Callable[[], int]) -> None:
        self.sampler = sampler
        self.seed = seed
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        if self.sampler.shuffle:
            self.sampler.generator.manual_seed(stable_hash(self.seed, self.epoch()))
        return iter(self.sampler)

    def __len__(self) -> int:
        return len(self.sampler)
