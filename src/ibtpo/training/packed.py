"""Log-probs of all trajectories of a micro-batch, with each shared prefix computed only once.

TRL runs the model over every trajectory, so a prefix that n of them share is computed and differentiated n times. Here
the rows of a micro-batch become a trie (prompts included, whichever tree or question a row comes from), the trie
becomes one sequence, or several if it is large, and the model's log-probs for it are copied back to the (B, T) layout
that TRL expects. TRL's loss stays as it is. Autograd adds up the gradients of the copies, and the sum is the gradient
that n separate computations would have had.

Each position of that sequence has exactly one next token (see `trie.py`), so the model's own head is used unchanged,
with the temperature, the chunking and the adapters that TRL gave it. docs/method.md, "Shared prefixes in the update",
tells where the results may differ from TRL's, and when TRL's own forward is used instead.

Shapes: B rows, L tokens of a padded row, T tokens of a padded completion, N positions.
"""

import warnings
from collections.abc import Callable
from typing import Any
from weakref import WeakSet

import numpy as np
import torch
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from transformers import PreTrainedConfig

from .._text import describe
from .trie import ATTENTION, NO_LABEL, START, Layout, cost_of, lay_out, split, where_predicted

# TRL's own method, bound to its trainer: log-probs, entropies or None, auxiliary loss or None.
Plain = Callable[..., tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]]


def read_rows(
    input_ids: torch.Tensor, attention_mask: torch.Tensor, completion_length: int
) -> tuple[list[np.ndarray], list[int]]:
    """The rows of a micro-batch without their padding.

    input_ids: (B, L) token ids, prompts padded on the left and completions on the right.
    attention_mask: (B, L) 1 for tokens, 0 for padding.
    completion_length: T, how many of the L columns belong to the completions.

    Returns B arrays of token ids, and for each of them the index at which its completion starts.
    """
    ids, mask = input_ids.cpu().numpy(), attention_mask.cpu().numpy().astype(bool)
    return [row[m] for row, m in zip(ids, mask, strict=True)], mask[:, :-completion_length].sum(1).tolist()


class PackedForward:
    """A replacement for TRL's `_get_per_token_logps_and_entropies` that computes shared prefixes once.

    The first results of each model are compared with TRL's. If they differ, or if the model cannot be used this way,
    there is one warning, and TRL's own forward is used from then on. A single micro-batch goes through TRL's forward if
    it shares too little to gain, or if a row is longer than the model's attention window.

    The attribute `disabled` is None, or says why TRL's forward is used for all that follows. The attribute `computed`
    is the number of positions of the last call, as a share of the B x L that TRL would compute. The attribute `checked`
    holds the models whose first results were compared; one that is put there is not compared.

    max_tokens: most positions of one forward; only a row that is longer than this gets a forward with more.
    accelerator: the trainer's `Accelerator`.
    """

    def __init__(self, max_tokens: int, accelerator: Any) -> None:
        self.max_tokens = max_tokens
        self.accelerator = accelerator
        self.disabled: str | None = None
        self.computed = 1.0
        self.checked: WeakSet[Any] = WeakSet()
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
        """Returns what TRL's method returns for the same arguments.

        plain: TRL's method, for comparison and as a fall-back.
        model: the model as TRL passes it, wrapped or not.
        input_ids: (B, L) token ids, prompts padded on the left and completions on the right.
        attention_mask: (B, L) 1 for tokens, 0 for padding.
        logits_to_keep: T, the length of the padded completions.
        batch_size: rows of one forward of TRL's; None for all B at once.
        compute_entropy: whether entropies are wanted.
        compute_aux_loss: whether the auxiliary loss of a mixture of experts is wanted, which only TRL's forward gives:
            that is then used from now on.
        extra: other arguments of TRL's method; if one of them is not None, TRL's forward is used from now on.

        Returns (B, T) log-probs, (B, T) entropies in nats or None, and the auxiliary loss or None.
        """

        def fall_back() -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
            self.computed = 1.0
            options = {"compute_entropy": compute_entropy, "compute_aux_loss": compute_aux_loss, **extra}
            return plain(model, input_ids, attention_mask, logits_to_keep, batch_size, **options)

        if self.disabled is None:
            given = [name for name, value in extra.items() if value is not None]
            if compute_aux_loss:
                # This loss counts which experts the tokens go to, and a token counts once for each trajectory that
                # holds it. Here it would count only once.
                given.append("the auxiliary loss of a mixture of experts")
            reason = f"it does not handle {', '.join(given)}" if given else self._unsupported(model)
            if reason is not None:
                self._disable(reason)
        if self.disabled is not None:
            return fall_back()
        rows, starts = read_rows(input_ids, attention_mask, logits_to_keep)
        # In a row without a prompt, no position would predict the first token.
        if not self._within_window(model, rows) or not all(starts):
            parts = None
        else:
            # `lay_out` gives no position to the last token of a row. A row without a completion gets one more token,
            # which no loss reads, so that each token of its prompt has a position as in any other row.
            none = np.array([NO_LABEL])
            rows = [row if len(row) > start else np.append(row, none) for row, start in zip(rows, starts, strict=True)]
            # In lexicographic order the rows that share most are neighbours.
            order = sorted(range(len(rows)), key=lambda i: rows[i].tolist())
            parts = self.plan(model, [rows[i] for i in order], batch_size or len(rows), input_ids.shape[1])
        if (parts := agree(parts, self.accelerator)) is None:
            return fall_back()

        def packed() -> tuple[torch.Tensor, torch.Tensor | None, None]:
            layouts = [lay_out([rows[order[i]] for i in p], [starts[order[i]] for i in p]) for p in parts]
            self.computed = sum(len(x.end) for x in layouts) / input_ids.numel()
            where = where_predicted(layouts, order, starts, attention_mask[:, -logits_to_keep:].cpu().numpy())
            index = torch.from_numpy(where).to(input_ids.device)
            return (*self._forward(model, layouts, index, compute_entropy), None)

        if model not in self.checked:
            self.checked.add(model)
            wanted = attention_mask[:, -logits_to_keep:].bool()
            if (reason := self._differs(model, packed, fall_back, wanted)) is not None:
                self._disable(reason)
                return fall_back()
        return packed()

    def _forward(
        self, model: Any, layouts: list[Layout], index: torch.Tensor, compute_entropy: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Runs the model over each layout and copies its values to where TRL expects them.

        index: (B, T) the position of each completion token's values, counted over all layouts. The number one past the
            last position stands for padding, whose value is 0.

        Returns (B, T) log-probs, and (B, T) entropies in nats or None.
        """
        logps, entropies = [], []
        device = index.device
        with self.accelerator.autocast():
            autocast = torch.is_autocast_enabled(device.type)
            dtype = torch.get_autocast_dtype(device.type) if autocast else self._unwrap(model).dtype
            flex = self._config(model)._attn_implementation == "flex_attention"
            for layout in layouts:
                mask = block_mask(layout.end, device) if flex else ancestor_mask(layout.end, dtype, device)
                output = model(
                    input_ids=torch.from_numpy(layout.input_ids).to(device)[None],
                    attention_mask=mask,
                    position_ids=torch.from_numpy(layout.position_ids).to(device)[None],
                    shift_labels=torch.from_numpy(layout.labels).to(device)[None],
                    fused_lm_head=True,
                )
                logps.append(output.log_probs[0])
                if compute_entropy:
                    entropies.append(output.entropy[0])
        zero = logps[0].new_zeros(1)
        return torch.cat([*logps, zero])[index], torch.cat([*entropies, zero])[index] if compute_entropy else None

    def plan(self, model: Any, rows: list[np.ndarray], batch_size: int, length: int) -> list[range] | None:
        """How to split sorted rows into forwards, or None if TRL's forwards are estimated to cost no more.

        batch_size: rows of one of TRL's forwards.
        length: L, tokens of a padded row.
        """
        scale = ATTENTION * getattr(self._config(model), "hidden_size", 1024)
        # One forward never holds more positions than one of TRL's forwards.
        parts, cost = split(rows, min(self.max_tokens, batch_size * length), scale)
        forwards = -(-len(rows) // batch_size)
        return parts if cost < forwards * START + len(rows) * (cost_of(length, scale) - START) else None

    # --- when it cannot be used --------------------------------------------------------------------------------

    def _unwrap(self, model: Any) -> Any:
        return self.accelerator.unwrap_model(model)

    def _config(self, model: Any) -> PreTrainedConfig:
        return self._unwrap(model).config.get_text_config()

    def _unsupported(self, model: Any) -> str | None:
        """Why this model cannot run over a packed sequence, or None if it can."""
        config = self._config(model)
        if config._attn_implementation not in ("sdpa", "eager", "flex_attention"):
            return (
                f"attention {config._attn_implementation!r} takes no mask of its kind (sdpa and flex_attention do: "
                "attn_implementation)"
            )
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
        """Whether no row is longer than any layer looks back.

        A layer with sliding or chunked attention looks back over a window only. The mask of a packed sequence does not
        say so: it shows each position all of its ancestors.
        """
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

    def _differs(
        self, model: Any, packed: Callable[[], Any], plain: Callable[[], Any], wanted: torch.Tensor
    ) -> str | None:
        """Why the packed results cannot be trusted, or None if they agree with TRL's in every process.

        Both are computed without dropout, which would draw differently for each and so hide a difference.

        packed: computes our results.
        plain: computes TRL's.
        wanted: (B, T) true for completion tokens, false for padding.
        """
        training = model.training
        model.eval()
        try:
            with torch.no_grad():
                ours, theirs = packed(), plain()
            reason = _difference(ours, theirs, wanted, self._low_precision(model))
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
        """Whether the model computes with less precision than float32 has."""
        rounded = self.accelerator.mixed_precision != "no" or torch.get_float32_matmul_precision() != "highest"
        return rounded or self._unwrap(model).dtype.itemsize < 4

    def _disable(self, reason: str) -> None:
        """Warns, and uses TRL's forward from now on."""
        self.disabled = reason
        _warn(f"{reason}: all batches")


def agree(parts: list[range] | None, accelerator: Any) -> list[range] | None:
    """Makes the number of forwards the same in every process, or returns None in all of them if one has None.

    Some wrappers of a model make the processes communicate in every forward, so a process with fewer forwards would
    leave the others waiting. It splits its largest parts until it has as many.
    """
    if accelerator.num_processes == 1:
        return parts
    mine = torch.tensor([len(parts or ())], device=accelerator.device)
    counts = accelerator.gather(mine).tolist()
    if parts is None or not min(counts):
        return None
    while len(parts) < max(counts) and max(map(len, parts)) > 1:
        at = max(range(len(parts)), key=lambda i: len(parts[i]))
        middle = (parts[at].start + parts[at].stop) // 2
        parts[at : at + 1] = [range(parts[at].start, middle), range(middle, parts[at].stop)]
    return parts


def ancestor_mask(end: np.ndarray, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """(1, 1, N, N) what to add to attention scores, so that each position sees only itself and its ancestors.

    end: (N,) see `Layout`.
    dtype: the queries' type, because SDPA would otherwise keep a converted copy for every layer.
    """
    position, after = torch.arange(len(end), device=device), torch.from_numpy(end).to(device)
    hidden = (position[:, None] < position) | (position[:, None] >= after)
    result = torch.zeros(hidden.shape, dtype=dtype, device=device)
    return result.masked_fill_(hidden, torch.finfo(dtype).min)[None, None]


def block_mask(end: np.ndarray, device: torch.device) -> BlockMask:
    """The same mask for FlexAttention, which skips blocks of positions that do not see each other."""
    after = torch.from_numpy(end).to(device)

    def sees(batch: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return (key <= query) & (query < after[key])

    return create_block_mask(sees, None, None, len(end), len(end), device=device)


def _warn(what: str) -> None:
    """Warns that TRL's forward is used. what: the reason, and after a colon which batches it is used for."""
    warnings.warn(
        f"the shared-prefix update is off, {what} are trained trajectory by trajectory, which takes longer and gives "
        f"the same; packed_tokens=0 asks for that without this warning",
        stacklevel=3,
    )


def _difference(ours: Any, theirs: Any, wanted: torch.Tensor, low_precision: bool) -> str | None:
    """How log-probs or entropies differ by more than rounding explains, or None if they do not."""
    for name, a, b in zip(("log-probs", "entropies"), ours, theirs, strict=False):
        if a is None or not wanted.any():
            continue
        a, b = a[wanted], b[wanted]
        gap = (a - b).abs()
        # Measured with a model of 135 million parameters, rounding makes a difference of at most 4e-5 in float32, and
        # in bfloat16 one of 0.01 on average and of at most 0.5. A wrong mask makes differences of some tenths.
        bad, of = (gap.mean() > 0.05, "mean") if low_precision else ((gap > 1e-3 * (1 + b.abs())).any(), "largest")
        if bad or not gap.isfinite().all():
            value = gap.mean() if low_precision else gap.max()
            return f"its {name} differ from the trajectories' own (by {value:.2g}, the {of} difference)"
    return None
