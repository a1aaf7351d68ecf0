"""A micro-batch's rows as a trie that is laid out in one sequence, or cut into several.

A position of the sequence stands for a distinct (prefix, next token) pair, not for a distinct prefix. So a token that
is followed by k different tokens has k positions, and each position has one label. A row's last token predicts nothing
and has no position. Rows are arrays of token ids without padding. Functions that take sorted rows need them in
lexicographic order, in which rows with a long common prefix are neighbours.

Shapes: B rows, T tokens of a padded completion, N positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

NO_LABEL = -100  # the label that losses ignore
# A rough cost model of a forward with its backward, in positions. It only decides where to split, never a value.
START = 64  # what it costs to start one
# Attention costs as much as the rest of the model at N = ATTENTION x hidden size h: a token and layer takes 11.5 h^2
# multiplications, and each key 2 h more, at 0.7 of the speed.
ATTENTION = 4


@dataclass(frozen=True)
class Layout:
    """A trie of rows as one sequence, depth first.

    input_ids: (N,) the token of each position.
    labels: (N,) the token that each position predicts, or `NO_LABEL` where its log-prob is not wanted.
    position_ids: (N,) the depth of each position, that is, the index of its token in a row.
    end: (N,) one past the last position of the subtree under each position. A position sees itself and those before it
        whose `end` lies after it: its ancestors.
    paths: for each row, the positions of all its tokens but the last.
    """

    input_ids: np.ndarray
    labels: np.ndarray
    position_ids: np.ndarray
    end: np.ndarray
    paths: list[np.ndarray]


def shared_positions(rows: Sequence[np.ndarray]) -> list[int]:
    """How many positions each row has in common with the row before it, 0 for the first.

    Rows with n tokens in common have n - 1 positions in common, for the label of the last one may differ.

    rows: B arrays, sorted.
    """
    shared = [0] if len(rows) else []
    for before, row in pairwise(rows):
        n = min(len(before), len(row))
        differ = np.flatnonzero(before[:n] != row[:n])
        shared.append(max(int(differ[0]) if len(differ) else n, 1) - 1)
    return shared


def lay_out(rows: Sequence[np.ndarray], starts: Sequence[int]) -> Layout:
    """Lays out the trie of sorted rows.

    rows: B arrays of token ids, sorted.
    starts: for each row, the index of the first token whose log-prob is wanted, 1 or more.
    """
    paths: list[np.ndarray] = []
    ids, positions, n = [], [], 0
    for row, shared in zip(rows, shared_positions(rows), strict=True):
        new = len(row) - 1 - shared
        before = paths[-1][:shared] if shared else np.empty(0, dtype=np.int64)
        paths.append(np.concatenate([before, np.arange(n, n + new)]))
        ids.append(row[shared:-1])
        positions.append(np.arange(shared, shared + new))
        n += new
    labels = np.full(n, NO_LABEL, dtype=np.int64)
    end = np.empty(n, dtype=np.int64)
    filled = 0
    for row, start, path in zip(rows, starts, paths, strict=True):
        labels[path[start - 1 :]] = row[start:]
        filled = max(filled, int(path[-1]) + 1)
        end[path] = filled  # later rows through the same position overwrite this with a larger number
    return Layout(np.concatenate(ids), labels, np.concatenate(positions), end, paths)


def split(rows: Sequence[np.ndarray], max_tokens: int, scale: float) -> tuple[list[range], float]:
    """Finds the cheapest way to cut sorted rows into forwards, by dynamic programming over the places to cut.

    Each forward computes the prefixes of its rows anew.

    rows: B arrays of token ids, sorted.
    max_tokens: most positions of one forward. A row with more gets a forward of its own.
    scale: the number of positions at which attention costs as much as everything else.

    Returns the ranges of rows, one a forward, and their cost in positions.
    """
    shared = shared_positions(rows)
    # best[b] is the cost of the first b rows, cut in the cheapest way; cut[b] is where the last part then begins.
    best, cut = [0.0] + [float("inf")] * len(rows), [0] * (len(rows) + 1)
    for a in range(len(rows)):
        n = 0
        for b in range(a, len(rows)):
            n += len(rows[b]) - 1 - (shared[b] if b > a else 0)
            if b > a and n > max_tokens:
                break
            if (cost := best[a] + cost_of(n, scale)) < best[b + 1]:
                best[b + 1], cut[b + 1] = cost, a
    parts, b = [], len(rows)
    while b:
        parts.append(range(cut[b], b))
        b = cut[b]
    return parts[::-1], best[-1]


def cost_of(n: int, scale: float) -> float:
    """The cost of one forward and backward over n positions, in positions; see `split` for `scale`."""
    return START + n + n * n / scale


def keep_together(rows: Sequence[Sequence[int]], starts: Sequence[int]) -> list[int]:
    """Finds an order of shuffled rows that brings the rows of one prompt together, so that they can share prefixes.

    Prompts stay in the order of their first rows. The rows of a prompt are sorted, so that similar ones are neighbours,
    and begin with that first row: those sorted before it follow after the last. If the given order was uniformly
    random, each row is still equally likely in every place.

    rows: B lists of token ids.
    starts: for each row, the number of tokens of its prompt.

    Returns the indices of the rows in their new order.
    """
    first: dict[tuple[int, ...], int] = {}
    groups: dict[tuple[int, ...], list[int]] = {}
    for i in range(len(rows)):
        prompt = tuple(rows[i][: starts[i]])
        first.setdefault(prompt, i)
        groups.setdefault(prompt, []).append(i)
    order = []
    for prompt, members in groups.items():
        members.sort(key=lambda i: tuple(rows[i]))
        at = members.index(first[prompt])
        order += members[at:] + members[:at]
    return order


def where_predicted(layouts: list[Layout], order: list[int], starts: list[int], mask: np.ndarray) -> np.ndarray:
    """The position that predicts each completion token.

    layouts: the layouts of all forwards of a micro-batch.
    order: the index of the row that each path of the layouts belongs to, in the order of the paths.
    starts: for each row, the index at which its completion starts.
    mask: (B, T) not 0 for completion tokens, 0 for padding.

    Returns (B, T) positions, counted over all layouts, and their total number for padding.
    """
    result = np.full(mask.shape, sum(len(x.end) for x in layouts), dtype=np.int64)
    offset, rows = 0, iter(order)
    for layout in layouts:
        for path in layout.paths:
            row = next(rows)
            columns = np.flatnonzero(mask[row])
            result[row, columns] = offset + path[starts[row] - 1 :][: len(columns)]
        offset += len(layout.end)
    return result
