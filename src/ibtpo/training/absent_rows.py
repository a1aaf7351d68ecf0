"""Trees with fewer than G answers in the trainer: the rows that TRL has for answers that were never sampled.

TRL wants G rows a question, but an adaptive branching rule may end a tree earlier (`branching.ADAPTIVE`). Such a tree's
n answers are its first n rows. The other G − n are *absent*: one padding token, masked out of every sum of the loss,
without a reward, and left out of what TRL counts and shows. `row_weights` says how the answers that are there are
weighed.

Shapes: B rows of this process (trees one after the other, G rows each), F reward functions.
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from ..tree import ReasoningTree

T = TypeVar("T")

# TRL's losses that are a mean over rows, absent ones included. The others (bnpo, dapo, cispo) are a mean over tokens.
ROW_MEANS = ("grpo", "sapo", "dr_grpo", "luspo")


def fill_up(per_tree: Iterable[Sequence[T]], group: int, absent: T) -> list[T]:
    """The B rows of a batch, from one value for each answer of each tree.

    per_tree: for each tree, a value for each of its n answers, in their order.
    group: G, rows a tree.
    absent: the value of a row without an answer.
    """
    return [row for rows in per_tree for row in (*rows, *[absent] * (group - len(rows)))]


def row_weights(trees: Sequence[ReasoningTree], group: int, loss_type: str) -> list[float]:
    """By what the advantages of each tree's answers are multiplied: G/n for a tree of n answers.

    TRL's mean over rows divides by all rows, so each tree then counts with the mean over its own answers, however many
    it has, as a group does in GRPO. A loss that is a mean over tokens leaves absent rows out by itself; there the
    weight is 1, and a tree counts by its tokens, as an answer does.

    group: G, rows a tree.
    loss_type: TRL's option.
    """
    return [group / len(tree.leaves) if loss_type in ROW_MEANS else 1.0 for tree in trees]


def count_completions(metrics: Mapping[str, list[float]], lengths: Sequence[int], ended: Sequence[bool]) -> None:
    """Puts the statistics of the answers that are there in place of those that TRL has just logged of all rows.

    metrics: TRL's lists of logged values, whose last ones are replaced.
    lengths: of each answer of all processes, how many tokens it has.
    ended: whether each of them ended by itself, and not at the length limit.
    """
    whole = [n for n, done in zip(lengths, ended, strict=True) if done] or [0]  # as TRL has it where none ended
    for name, of in (("", lengths), ("terminated_", whole)):
        metrics[f"completions/mean_{name}length"][-1] = sum(of) / len(of)
        metrics[f"completions/min_{name}length"][-1] = float(min(of))
        metrics[f"completions/max_{name}length"][-1] = float(max(of))
    metrics["completions/clipped_ratio"][-1] = 1 - sum(ended) / len(ended)


def drop_absent(columns: Iterable["deque[Any]"], present: Sequence[bool]) -> None:
    """Takes the absent rows of the last batch out of the columns of TRL's table of completions.

    columns: each ends with a value for each row of the batch, over all processes.
    present: whether each of these rows is an answer.
    """
    for column in columns:
        values = [column.pop() for _ in present][::-1]
        column.extend(value for value, there in zip(values, present, strict=True) if there)
