"""Regularisers of the exploration–exploitation balance that IB-TPO is compared with (spec section 7)."""

import torch

from ..errors import unknown

CLIP_HIGHER_EPSILON = 0.28  # DAPO's upper clip range, with a lower one of 0.2
DEFAULT_COEFFICIENT = {"entropy_bonus": 0.001, "ibro": 0.005}  # neither is stated by its paper
REGULARIZERS = ("none", "clip_higher", "entropy_bonus", "ibro")


def check_regularizer(name: str) -> None:
    """Raises `ConfigError` for a name that is not one of `REGULARIZERS`."""
    if name not in REGULARIZERS:
        raise unknown("regularizer", name, REGULARIZERS)


def ibro_term(advantages: torch.Tensor, entropies: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """IBRO (arXiv 2507.18391): the mean over tokens of advantage times policy entropy, to be maximised.

    advantages: (B, T) or (B,), detached. entropies: (B, T) with gradient. mask: (B, T), 1 for completion tokens.
    Raises entropy where a step did well and lowers it where it did badly; 0 for a group without signal.
    """
    if advantages.dim() == 1:
        advantages = advantages.unsqueeze(1)
    return (advantages.detach() * entropies * mask).sum() / mask.sum().clamp(min=1.0)
