"""Log-probs of all trajectories of a micro-batch from forwards over its distinct tokens.

TRL runs the model over every trajectory, so a prefix shared by n of them is computed and differentiated n times. Here
the rows of a micro-batch become a trie (prompts included, whichever tree or question a row comes from), the trie one
sequence, and the model's answers are copied back to the (B, T) layout TRL expects. TRL's loss stays as it is; what
autograd sums over the copies is the gradient the n computations would have had.

One position stands for a distinct (prefix, next token) pair rather than for a distinct prefix: a token followed by k
different tokens is there k times, so each position has one label and the model's own head, with its temperature,
chunking and adapters, can be used as it is. A row's last token predicts nothing and is left out.

Shapes: B rows, L tokens of a padded row, T of a padded completion, N positions.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedConfig

from ..verify.rewards import describe

NO_LABEL = -100
# Costs of a forward and backward, in positions: of starting one, and of attention, which takes as long as the rest of
# the model at N = hidden size x ATTENTION (11.5 h^2 multiplications a token and layer against 2 h a key, at 0.7 of the
# speed). Both only steer how rows are split; they change no value.
START = 32
ATTENTION = 4

Plain = Callable[..., tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]]


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

    def mask(self, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        """(1, 1, N, N) to add to attention scores; in the queries' type, or SDPA would keep a copy for every layer."""
        position = torch.arange(len(self.end), device=device)
        end = torch.from_numpy(self.end).to(device)
        hidden = (position[:, None] < position) | (position[:, None] >= end)
        result = torch.zeros(hidden.shape, dtype=dtype, device=device)
        return result.masked_fill_(hidden, torch.finfo(dtype).min)[None, None]


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
            if (cost := best[a] + _cost(n, scale)) < best[b + 1]:
                best[b + 1], cut[b + 1] = cost, a
    parts, b = [], len(rows)
    while b:
        parts.append(range(cut[b], b))
        b = cut[b]
    return parts[::-1], best[-1]


def _cost(n: int, scale: float) -> float:
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


def read_rows(
    input_ids: torch.Tensor, attention_mask: torch.Tensor, completion_length: int
) -> tuple[list[np.ndarray], list[int]]:
    """The (B, L) rows without padding, and where each one's completion starts."""
    ids, mask = input_ids.cpu().numpy(), attention_mask.cpu().numpy().astype(bool)
    return [row[m] for row, m in zip(ids, mask, strict=True)], mask[:, :-completion_length].sum(1).tolist()


class PackedForward:
    """TRL's `_get_per_token_logps_and_entropies` with shared prefixes computed once.

    max_tokens: most positions of one forward. The first results are compared with TRL's; where they differ, or where
    the model cannot be used this way, there is one warning and TRL's own forward is used from then on. A micro-batch
    that shares too little to gain goes through TRL's forward as well.

    disabled: why TRL's forward is used for good, or None. unique_ratio: positions computed over B x L, last call.
    """

    def __init__(self, max_tokens: int, accelerator: Any) -> None:
        self.max_tokens = max_tokens
        self.accelerator = accelerator
        self.disabled: str | None = None
        self.unique_ratio = 1.0
        self._checked: set[tuple[int, bool]] = set()
        self._warned_of_window = False

    def __call__(
        self,
        plain: Plain,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        compute_aux_loss: bool = False,
        **extra: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """What `plain`, TRL's method, returns for the same arguments: (B, T) log-probs, entropies or None, aux loss."""

        def fall_back() -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
            self.unique_ratio = 1.0
            options = {"compute_entropy": compute_entropy, "compute_aux_loss": compute_aux_loss, **extra}
            return plain(model, input_ids, attention_mask, logits_to_keep, batch_size, **options)

        if self.disabled is None:
            given = [name for name, value in extra.items() if value is not None]
            if compute_aux_loss:  # of mixtures of experts: it counts tokens, and each as often as it is trained on
                given.append("the auxiliary loss of a mixture of experts")
            reason = f"it does not handle {', '.join(given)}" if given else self._unsupported(model)
            if reason is not None:
                self._disable(reason)
        if self.disabled is not None:
            return fall_back()
        rows, starts = read_rows(input_ids, attention_mask, logits_to_keep)
        if not self._within_window(model, rows) or not all(starts):
            parts = None
        else:
            # A row without completion gets a label for nothing, so that its prompt is computed like any other.
            none = np.array([NO_LABEL])
            rows = [row if len(row) > start else np.append(row, none) for row, start in zip(rows, starts, strict=True)]
            order = sorted(range(len(rows)), key=lambda i: rows[i].tolist())
            parts = self._parts(model, [rows[i] for i in order], batch_size or len(rows), input_ids.shape[1])
        if (parts := self._agreed(parts)) is None:
            return fall_back()

        def packed() -> tuple[torch.Tensor, torch.Tensor | None, None]:
            layouts = [lay_out([rows[order[i]] for i in p], [starts[order[i]] for i in p]) for p in parts]
            self.unique_ratio = sum(len(x.end) for x in layouts) / input_ids.numel()
            where = _where(layouts, order, starts, attention_mask[:, -logits_to_keep:].cpu().numpy())
            index = torch.from_numpy(where).to(input_ids.device)
            return (*self._forward(model, layouts, index, compute_entropy), None)

        key = (id(model), torch.is_grad_enabled())
        if key not in self._checked:
            self._checked.add(key)
            if (reason := self._differs(model, packed, fall_back)) is not None:
                self._disable(reason)
                return fall_back()
        return packed()

    def _forward(
        self, model: Any, layouts: list[Layout], index: torch.Tensor, compute_entropy: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(B, T) log-probs and entropies. index: (B, T) into the positions of all layouts and a 0 after them."""
        logps, entropies = [], []
        device = index.device
        with self.accelerator.autocast():
            autocast = torch.is_autocast_enabled(device.type)
            dtype = torch.get_autocast_dtype(device.type) if autocast else self._unwrap(model).dtype
            for layout in layouts:
                output = model(
                    input_ids=torch.from_numpy(layout.input_ids).to(device)[None],
                    attention_mask=layout.mask(dtype, device),
                    position_ids=torch.from_numpy(layout.position_ids).to(device)[None],
                    shift_labels=torch.from_numpy(layout.labels).to(device)[None],
                    fused_lm_head=True,
                )
                logps.append(output.log_probs[0])
                if compute_entropy:
                    entropies.append(output.entropy[0])
        zero = logps[0].new_zeros(1)
        return torch.cat([*logps, zero])[index], torch.cat([*entropies, zero])[index] if compute_entropy else None

    def _parts(self, model: Any, rows: list[np.ndarray], batch_size: int, length: int) -> list[range] | None:
        """How to split the rows, or None where TRL's forward over `batch_size` padded rows at a time costs no more."""
        scale = ATTENTION * self._config(model).hidden_size
        # Never more positions at once than TRL's own micro-batch has.
        parts, cost = split(rows, min(self.max_tokens, batch_size * length), scale)
        forwards = -(-len(rows) // batch_size)
        return parts if cost < forwards * START + len(rows) * (_cost(length, scale) - START) else None

    def _agreed(self, parts: list[range] | None) -> list[range] | None:
        """As many forwards in every process: some wrappers of a model communicate in each."""
        if self.accelerator.num_processes == 1:
            return parts
        mine = torch.tensor([len(parts or ())], device=self.accelerator.device)
        counts = self.accelerator.gather(mine).tolist()
        if parts is None or not min(counts):
            return None
        while len(parts) < max(counts) and max(map(len, parts)) > 1:
            at = max(range(len(parts)), key=lambda i: len(parts[i]))
            middle = (parts[at].start + parts[at].stop) // 2
            parts[at : at + 1] = [range(parts[at].start, middle), range(middle, parts[at].stop)]
        return parts

    # --- when it cannot be used --------------------------------------------------------------------------------

    def _unwrap(self, model: Any) -> Any:
        return self.accelerator.unwrap_model(model)

    def _config(self, model: Any) -> PreTrainedConfig:
        return self._unwrap(model).config.get_text_config()

    def _unsupported(self, model: Any) -> str | None:
        config = self._config(model)
        if config._attn_implementation not in ("sdpa", "eager"):
            return f"attention {config._attn_implementation!r} takes no mask of its kind (sdpa and eager do)"
        adapters = getattr(self._unwrap(model), "peft_config", {})
        if isinstance(adapters, dict) and any(a.is_prompt_learning for a in adapters.values()):
            return "prompt-learning adapters put tokens of their own before each row"
        other = set(getattr(config, "layer_types", None) or ()) - {
            "full_attention",
            "sliding_attention",
            "chunked_attention",
        }
        return f"the model has layers of type {', '.join(sorted(other))}" if other else None

    def _within_window(self, model: Any, rows: list[np.ndarray]) -> bool:
        """False where a row is longer than some layer looks back, which the mask does not say."""
        config = self._config(model)
        layers = getattr(config, "layer_types", None)
        windows = {"sliding_attention": "sliding_window", "chunked_attention": "attention_chunk_size"}
        sizes = [getattr(config, name, None) for kind, name in windows.items() if layers is None or kind in layers]
        window = min((size for size in sizes if size), default=None)
        longest = max(map(len, rows))
        if window is None or longest <= window:
            return True
        if not self._warned_of_window:
            self._warned_of_window = True
            _warn(f"some answers ({longest} tokens) are longer than its attention window ({window}): those batches")
        return False

    def _differs(self, model: Any, packed: Callable[[], Any], plain: Callable[[], Any]) -> str | None:
        """Why the packed results cannot be trusted, or None. Without dropout, which would tell nothing."""
        training = model.training
        model.eval()
        try:
            with torch.no_grad():
                ours, theirs = packed(), plain()
            reason = _difference(ours, theirs, self._low_precision(model))
        except Exception as e:
            reason = f"it failed ({describe(e)})"
        finally:
            model.train(training)
        if self.accelerator.num_processes > 1:
            bad = torch.tensor([int(reason is not None)], device=self.accelerator.device)
            if self.accelerator.gather(bad).any() and reason is None:
                reason = "another process could not use it"
        return reason

    def _low_precision(self, model: Any) -> bool:
        return self.accelerator.mixed_precision in ("bf16", "fp16", "fp8") or self._unwrap(model).dtype.itemsize < 4

    def _disable(self, reason: str) -> None:
        self.disabled = reason
        _warn(f"{reason}: all batches")


def _warn(what: str) -> None:
    warnings.warn(
        f"the shared-prefix update is off, {what} are trained trajectory by trajectory, which is slower and as good; "
        f"packed_tokens=0 says so without this warning",
        stacklevel=3,
    )


def _where(layouts: list[Layout], order: list[int], starts: list[int], mask: np.ndarray) -> np.ndarray:
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


def _difference(ours: Any, theirs: Any, low_precision: bool) -> str | None:
    for name, a, b in zip(("log-probs", "entropies"), ours, theirs, strict=False):
        if a is None or not a.numel():
            continue
        gap = (a - b).abs()
        # In bfloat16 single tokens are off by tenths whatever the order of operations; a wrong mask moves all of them.
        bad, of = (gap.mean() > 0.05, "mean") if low_precision else ((gap > 1e-4 * (1 + b.abs())).any(), "largest")
        if bad or not gap.isfinite().all():
            value = gap.mean() if low_precision else gap.max()
            return f"its {name} differ from the trajectories' own (by {value:.2g}, the {of} difference)"
    return None
