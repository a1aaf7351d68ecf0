"""Keys and values of rollouts: the slots of the running batch, and the store of kept prefixes.

A rollout under way has a row of a `SlotCache`. What was computed for it is kept in a `PrefixStore`, and a prompt that
starts with the same tokens is forked from there: the shared keys and values are copied, only the rest is computed.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from transformers import Cache

_BLOCK = 32  # lengths are rounded up to a multiple of it, so that masks stay aligned and buffers grow rarely


def round_up(length: int) -> int:
    """`length` rounded up to a multiple of the block length, 32."""
    return -(-length // _BLOCK) * _BLOCK


class Slots(NamedTuple):
    """The window of a `SlotCache`, layer by layer, for R rows of Q new tokens.

    where: (R·Q·2·heads,) where each new key or value goes: its index in a layer's target. In order of row, token, key
        before value, head.
    targets: one a layer, a view (…, head_dim) of all its keys and values.
    keys, values: one a layer, views (R·heads, length, head_dim) of what it attends to.
    """

    where: torch.Tensor
    targets: tuple[torch.Tensor, ...]
    keys: tuple[torch.Tensor, ...]
    values: tuple[torch.Tensor, ...]


class SlotCache(Cache):
    """A cache for `model.forward` that is one tensor (layers, 2, rows, heads, length, head_dim).

    Call `window` before each forward. New keys and values are written at positions of each row's own, and the model
    attends to views of the window's rows, so that nothing is copied in a step. Past its tokens a row holds old but
    finite numbers, which the caller's mask hides.

    layers: number of the model's layers.
    heads: key/value heads of a layer.
    head_dim: numbers in one key or value.
    dtype, device: those of the tensor.
    max_rows: most rows that are reserved ahead of need.
    """

    def __init__(
        self, *, layers: int, heads: int, head_dim: int, dtype: torch.dtype, device: torch.device, max_rows: int
    ) -> None:
        super().__init__(layers=[])
        # Zeros, never `empty`: a masked position that holds NaN would still turn the attention's output into NaN.
        self.kv = torch.zeros(layers, 2, 0, heads, 0, head_dim, dtype=dtype, device=device)
        self.max_rows = max_rows
        self.values_dtype = dtype  # what the model computes: under autocast half precision, even in a float32 model
        self._window: tuple[int, int, int] = (0, 0, 0)
        self._write: tuple[torch.Tensor, torch.Tensor] | None = None

    def free(self) -> None:
        """Gives the memory back; the contents are lost."""
        layers, two, _, heads, _, head_dim = self.kv.shape
        self.kv = self.kv.new_zeros(layers, two, 0, heads, 0, head_dim)

    def reserve(self, rows: int, length: int) -> None:
        """Makes room for `rows` rows of `length` tokens; the contents stay. Grows ahead of need, to grow rarely."""
        layers, two, had_rows, heads, had_length, head_dim = self.kv.shape
        if rows <= had_rows and length <= had_length:
            return
        if rows > had_rows:
            rows = min(max(rows, 2 * had_rows), self.max_rows)
        if length > had_length:
            length = round_up(max(length, had_length + had_length // 2))
        grown = self.kv.new_zeros(layers, two, max(rows, had_rows), heads, max(length, had_length), head_dim)
        grown[:, :, :had_rows, :, :had_length] = self.kv
        self.kv = grown

    def window(self, first: int, positions: torch.Tensor, length: int) -> None:
        """Sets which rows the next forward runs, where it writes and what it sees.

        first: number of the first row; the R rows from there on are run.
        positions: (R, Q) where each new token is written in its row.
        length: tokens of each row, from its start, that attention sees.
        """
        rows = torch.arange(positions.shape[0], device=positions.device)[:, None]
        self._window = (first, first + positions.shape[0], length)
        self._write = (rows, positions)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Writes the new keys and values of one layer; transformers calls it in each layer's attention.

        key_states, value_states: (R, heads, Q, head_dim).
        layer_idx: the layer's number.

        Returns keys and values of the whole window, as views (R, heads, length, head_dim).
        """
        assert self._write is not None, "set window() before the forward"
        first, last, length = self._window
        rows, positions = self._write
        keys, values = self.kv[layer_idx, :, first:last].unbind(0)
        self.values_dtype = value_states.dtype
        keys[rows, :, positions] = key_states.transpose(1, 2).to(keys.dtype)
        values[rows, :, positions] = value_states.transpose(1, 2).to(values.dtype)
        return keys[:, :, :length], values[:, :, :length]

    def slots(self) -> Slots:
        """The window of all layers at once, for a forward that writes keys and values by itself."""
        assert self._write is not None, "set window() before the forward"
        first, last, length = self._window
        rows, positions = self._write
        layers, two, all_rows, heads, all_length, head_dim = self.kv.shape
        row = torch.arange(two, device=rows.device)[:, None] * all_rows + (rows + first)[..., None, None]
        head = row * heads + torch.arange(heads, device=rows.device)
        where = head * all_length + positions[..., None, None]
        views = self.kv[:, :, first:last, :, :length].flatten(2, 3)
        return Slots(
            where.flatten(), self.kv.view(layers, -1, head_dim).unbind(0), views[:, 0].unbind(0), views[:, 1].unbind(0)
        )

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens of a row that the next forward sees. (Models that are given `position_ids` do not rely on it.)"""
        return self._window[2]

    def move(self, source: int, target: int, length: int) -> None:
        """Copies the first `length` tokens of row `source` to row `target`."""
        self.kv[:, :, target, :, :length] = self.kv[:, :, source, :, :length]

    def put(self, row: int, start: int, kv: torch.Tensor) -> None:
        """Writes keys and values of n tokens into a row.

        row: the row's number.
        start: place of the first token in the row.
        kv: (layers, 2, heads, n, head_dim).
        """
        self.kv[:, :, row, :, start : start + kv.shape[3]] = kv

    def cut(self, row: int, start: int, end: int) -> torch.Tensor:
        """A copy of the keys and values of tokens start … end-1 of a row, (layers, 2, heads, end-start, head_dim)."""
        return self.kv[:, :, row, :, start:end].clone(memory_format=torch.contiguous_format)


@dataclass(eq=False, slots=True)
class Segment:
    """Kept keys and values of tokens start … end-1 of one sequence; the parent and its parents have those before.

    token_ids: (end,) the whole prefix, to tell a match from a hash collision.
    start: number of tokens that are found in the parents.
    kv: (layers, 2, heads, end-start, head_dim).
    parent: the segment that token start-1 is in; None where `start` is 0.
    hashes: (end-start,) those of the prefixes that end in this segment.
    """

    token_ids: list[int]
    start: int
    kv: torch.Tensor
    parent: "Segment | None"
    hashes: list[int]

    @property
    def nbytes(self) -> int:
        """Memory of the keys and values, in bytes."""
        return self.kv.numel() * self.kv.element_size()


def chain_hashes(token_ids: Sequence[int], hashes: list[int]) -> list[int]:
    """The hashes of all prefixes of a sequence: element i is that of `token_ids[:i]`.

    token_ids: (T,) the sequence.
    hashes: the first of these hashes from an earlier call, or empty; extended in place.

    Returns `hashes`, now (T+1,).
    """
    if not hashes:
        hashes.append(0)
    value = hashes[-1]
    for token in token_ids[len(hashes) - 1 :]:
        value = hash((value, token))
        hashes.append(value)
    return hashes


class PrefixStore:
    """Kept prefixes, as a tree of segments so that shared tokens are held once.

    limit: bytes of keys and values to hold. When there are more, the least recently used segments are given up. That
        changes no result, because what is not found is computed again.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.used = 0
        self._segments: OrderedDict[int, Segment] = OrderedDict()  # by id(), least recently used first
        self._index: dict[int, Segment] = {}

    def clear(self) -> None:
        """Forgets everything."""
        self._segments.clear()
        self._index.clear()
        self.used = 0

    def find(self, token_ids: list[int], hashes: list[int], longest: int) -> tuple[Segment | None, int]:
        """The longest prefix of a sequence that is kept.

        token_ids: (T,) the sequence.
        hashes: those of its prefixes, see `chain_hashes`.
        longest: most tokens that the prefix may have.

        Returns the segment that the prefix ends in, and its number of tokens; (None, 0) where none is kept.
        """
        for length in range(longest, 0, -1):
            segment = self._index.get(hashes[length])
            if segment is not None and segment.token_ids[:length] == token_ids[:length]:
                self._touch(segment)
                return segment, length
        return None, 0

    def keep(
        self, token_ids: list[int], hashes: list[int], length: int, cut: Callable[[int, int], torch.Tensor]
    ) -> None:
        """Keeps the first tokens of a sequence, as far as they are not kept yet.

        token_ids: (T,) the sequence.
        hashes: those of its prefixes, see `chain_hashes`.
        length: how many tokens to keep.
        cut: (start, end) -> a copy of the keys and values of tokens start … end-1, see `SlotCache.cut`.
        """
        parent, start = self.find(token_ids, hashes, length)
        if start == length:
            return
        kv = cut(start, length)
        segment = Segment(token_ids[:length], start, kv, parent, hashes[start + 1 : length + 1])
        self._segments[id(segment)] = segment
        self._index.update(dict.fromkeys(segment.hashes, segment))
        self.used += segment.nbytes
        self._touch(segment)
        while self.used > self.limit:
            self._evict()

    def _touch(self, segment: Segment | None) -> None:
        # Ancestors are touched after their descendants, so that the least recently used segment never has children.
        while segment is not None and id(segment) in self._segments:
            self._segments.move_to_end(id(segment))
            segment = segment.parent

    def _evict(self) -> None:
        _, segment = self._segments.popitem(last=False)
        self.used -= segment.nbytes
        for value in segment.hashes:
            if self._index.get(value) is segment:
                del self._index[value]


def fork(cache: SlotCache, row: int, segment: Segment | None, length: int) -> None:
    """Copies a kept prefix into a row.

    cache: the cache that the row is in.
    row: the row's number.
    segment: the segment that the prefix ends in, as `PrefixStore.find` gives it; None copies nothing.
    length: number of tokens of the prefix.
    """
    while segment is not None:
        cache.put(row, segment.start, segment.kv[:, :, :, : length - segment.start])
        length, segment = segment.start, segment.parent
