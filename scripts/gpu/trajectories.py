"""The update over every trajectory that shared prefixes are compared with: TRL's where it is installed, else our own.

Both give the log-probs of the sampled tokens under the full softmax at the temperature, and entropies. Our own is
written for this comparison alone and as plainly as can be, so that the checks need no TRL.
"""

import importlib.util
from contextlib import nullcontext
from types import MethodType, SimpleNamespace
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from ibtpo.training.packed import PackedForward

HAVE_TRL = all(importlib.util.find_spec(name) is not None for name in ("trl", "datasets"))
PEER = "TRL's forward of every trajectory" if HAVE_TRL else "a forward of every trajectory, without TRL"
CHUNK = 1024  # positions whose logits are held at once

# What is used of accelerate; a real one shares its state with every other of the process.
ACCELERATOR: Any = SimpleNamespace(
    num_processes=1, mixed_precision="no", autocast=nullcontext, unwrap_model=lambda model: model
)


def packer(model: Any, max_tokens: int = 8192) -> PackedForward:
    """The shared-prefix forward, without its own comparison at the first use, which the checks make themselves."""
    forward = PackedForward(max_tokens, ACCELERATOR)
    forward.checked.add(model)
    return forward


def add_head(model: Any, temperature: float) -> None:
    """Makes `model(…, shift_labels=…, fused_lm_head=True)` return log-probs and entropies, as TRL's trainer does."""
    if HAVE_TRL:
        from trl.trainer.utils import add_fused_lm_head

        add_fused_lm_head(model, temperature=temperature, outputs=("log_probs", "entropy"))
        return
    original = model.forward

    def forward(
        self: Any, *args: Any, fused_lm_head: bool = False, shift_labels: torch.Tensor | None = None, **kwargs: Any
    ) -> Any:
        if not fused_lm_head:
            return original(*args, **kwargs)
        assert shift_labels is not None
        hidden = self.model(*args, **kwargs, use_cache=False).last_hidden_state
        wanted = shift_labels != -100
        parts = [
            checkpoint(_score, x, self.lm_head.weight, labels, temperature, use_reentrant=False)
            for x, labels in zip(hidden[wanted].split(CHUNK), shift_labels[wanted].split(CHUNK), strict=True)
        ]
        scores = [torch.cat(part) for part in zip(*parts, strict=True)]
        logps, entropies = (x.new_zeros(wanted.shape).masked_scatter(wanted, x) for x in scores)
        return SimpleNamespace(log_probs=logps, entropy=entropies)

    model.forward = MethodType(forward, model)


def _score(
    hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probs and entropies, each (n,), of n labels after (n, hidden size) states."""
    logps = ((hidden @ weight.t()).float() / temperature).log_softmax(-1)
    return logps.gather(-1, labels[:, None])[:, 0], -(logps.exp() * logps).sum(-1)


def plain(
    model: Any,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    logits_to_keep: int,
    batch_size: int | None = None,
    compute_entropy: bool = False,
    **options: Any,
) -> tuple[torch.Tensor, torch.Tensor | None, None]:
    """Log-probs and entropies of every row, a few rows at a time; arguments and results are those of TRL's method."""
    if HAVE_TRL:
        from trl import GRPOTrainer

        method = GRPOTrainer._get_per_token_logps_and_entropies.__wrapped__
        trainer = SimpleNamespace(accelerator=ACCELERATOR)
        return method(
            trainer, model, input_ids, attention_mask, logits_to_keep, batch_size,
            compute_entropy=compute_entropy, **options,
        )  # fmt: skip
    logps, entropies = [], []
    for ids, mask in zip(
        input_ids.split(batch_size or len(input_ids)), attention_mask.split(batch_size or len(input_ids)), strict=True
    ):
        labels = torch.full_like(ids, -100)
        labels[:, :-1] = ids[:, 1:].masked_fill(mask[:, 1:] == 0, -100)
        labels[:, : -logits_to_keep - 1] = -100
        out = model(input_ids=ids, attention_mask=mask, shift_labels=labels, fused_lm_head=True)
        logps.append(out.log_probs[:, -logits_to_keep - 1 : -1])
        entropies.append(out.entropy[:, -logits_to_keep - 1 : -1])
    return torch.cat(logps), torch.cat(entropies) if compute_entropy else None, None
