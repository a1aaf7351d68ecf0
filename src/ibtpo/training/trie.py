"""A micro-batch's rows as a trie in one sequence: layout, splitting, and the order of rows that shares most.

One position stands for a distinct (prefix, next token) pair rather than for a distinct prefix: a token followed by k
different tokens is there k times, so that each position has one label. A row's last token predicts nothing and is left
out. Rows are arrays of token ids without padding; functions that take them sorted need them in lexicographic order.

Shapes: B rows, T tokens of a padded completion, N positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

NO_LABEL = -100
# Costs of a forward and backward, in positions: of starting one, and of attention, which takes as long as the rest of
# the model at N = hidden size x ATTENTION (11.5 h^2 multiplications a token and layer against 2 h a key, at 0.7 of the
# speed). Both only steer how rows are split; they change no value.
START = 64
ATTENTION = 4


@dataclass(frozen=True)
class Layout:
    """A trie of rows as one sequence, depth first.

    input_ids, labels, position_ids, end: (N,). A position sees itself and those before it whose `end` is after it: its
    ancestors. paths: a row's positions, one for each of its tokens but the last.
    """

    input_ids: np.ndarray
    labels: np.ndarray
    position_ids: np.ndarray
    end: np.ndarray
    paths: list[np.ndarray]


def shared_positions(rows: Sequence[np.ndarray]) -> list[int]:
    """For each row, how many of its positions the row before has as well. Sorted rows share most with a neighbour."""
    shared = [0] if len(rows) else []
    for before, row in pairwise(rows):
        n = min(len(before), len(row))
        differ = np.flatnonzero(before[:n] != row[:n])
        shared.append(max(int(differ[0]) if len(differ) else n, 1) - 1)
    return shared


def lay_out(rows: Sequence[np.ndarray], starts: Sequence[int]) -> Layout:
    """The layout of sorted rows. starts: each row's first token whose log-prob is wanted, 1 or more."""
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
        end[path] = filled  # the last row through a position has the last say
    return Layout(np.concatenate(ids), labels, np.concatenate(positions), end, paths)


def split(rows: Sequence[np.ndarray], max_tokens: int, scale: float) -> tuple[list[range], float]:
    """The cheapest way to cut sorted rows into forwards of at most `max_tokens` positions, and its cost in positions.

    Each forward computes the prefixes of its rows anew. A row longer than the limit gets a forward of its own. scale:
    N at which attention costs as much as everything else.
    """
    shared = shared_positions(rows)
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
    return START + n + n * n / scale


def keep_together(rows: Sequence[Sequence[int]], starts: Sequence[int]) -> list[int]:
    """Shuffled rows in an order that brings those of one prompt together: a permutation of row indices.

    Prompts stay in the order their first row had; inside a prompt rows are sorted, starting from that first row, so
    that similar ones are neighbours. Where the order was uniformly random each row is still equally likely everywhere.
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
    """(B, T) the position, over all layouts, that predicts each completion token; N, one past the last, for padding."""
    result = np.full(mask.shape, sum(len(x.end) for x in layouts), dtype=np.int64)
    offset, rows = 0, iter(order)
    for layout in layouts:
        for path in layout.paths:
            row = next(rows)
            columns = np.flatnonzero(mask[row])
            result[row, columns] = offset + path[starts[row] - 1 :][: len(columns)]
        offset += len(layout.end)
    return result
