"""The tokens of trees as rows of TRL's batch, with a mask that says which of them the model sampled.

The loss is about sampled tokens alone. What the environment wrote, the given tokens of a tree, is read by the model all
the same, so it stays in the attention mask, and is left out of the loss by the mask that TRL has for answers of tools.
Absent rows (see `absent_rows`) are left out of both.

Shapes: B rows of this process (trees one after the other, G rows each), T tokens of a padded completion.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..tree import ReasoningTree
from .absent_rows import fill_up


def token_rows(
    trees: Sequence[ReasoningTree], group: int, pad_token_id: int
) -> tuple[list[list[int]], list[list[float]], list[list[int]]]:
    """The B rows of the trees.

    group: G, rows a tree.
    pad_token_id: the only token of an absent row, since TRL cannot take a row without any.

    Returns their token ids; their sampling log-probs, 0 for given tokens, as in TRL; and 1 for each sampled token, 0
    for given and absent ones.
    """
    leaves = [range(len(tree.leaves)) for tree in trees]
    ids = [[tree.completion_ids(i) for i in of] for tree, of in zip(trees, leaves, strict=True)]
    logprobs = [[tree.completion_logprobs(i) for i in of] for tree, of in zip(trees, leaves, strict=True)]
    sampled = [[tree.completion_mask(i) for i in of] for tree, of in zip(trees, leaves, strict=True)]
    return fill_up(ids, group, [pad_token_id]), fill_up(logprobs, group, [0.0]), fill_up(sampled, group, [0])


def lengths(trees: Sequence[ReasoningTree]) -> list[int]:
    """How many tokens the model sampled for each answer of the trees."""
    return [tree.sampled_length(leaf.node) for tree in trees for leaf in tree.leaves]


def hide_absent(output: dict[str, Any]) -> None:
    """Takes absent rows out of what the model reads.

    output: TRL's batch, changed in place: `completion_mask` (B, T), 1 for tokens and 0 for padding, becomes 0 in rows
        without a sampled token. `tool_mask` (B, T), 0 for tokens that were not sampled, stays for TRL's loss.
    """
    sampled = output["completion_mask"] * output["tool_mask"]
    output["completion_mask"] = output["completion_mask"] * sampled.any(dim=1, keepdim=True)


def loss_mask(inputs: Mapping[str, Any]) -> torch.Tensor:
    """(B, T) 1 for the tokens that the loss is about, 0 for the rest, as TRL computes it from its batch."""
    mask: torch.Tensor = inputs["completion_mask"]
    return mask * inputs["tool_mask"] if "tool_mask" in inputs else mask
