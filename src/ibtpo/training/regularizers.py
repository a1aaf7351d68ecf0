"""The regularisers that IB-TPO is compared with; each is meant to keep a policy exploring.

Clip-higher (DAPO, arXiv 2503.14476) and the entropy bonus are options of TRL, which `IBTPOConfig` sets. IBRO (arXiv
2507.18391) is computed here; `IBTPOTrainer` subtracts it, times its coefficient, from TRL's loss.
"""

import torch

from ..errors import unknown

CLIP_HIGHER_EPSILON = 0.28  # DAPO's upper clip range, which goes with a lower one of 0.2
DEFAULT_COEFFICIENT = {"entropy_bonus": 0.001, "ibro": 0.005}  # chosen here: no paper states either
REGULARIZERS = ("none", "clip_higher", "entropy_bonus", "ibro")


def check_regularizer(name: str) -> None:
    """Raises `ConfigError` for a name that is not one of `REGULARIZERS`."""
    if name not in REGULARIZERS:
        raise unknown("regularizer", name, REGULARIZERS)


def ibro_term(advantages: torch.Tensor, entropies: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The term that IBRO (arXiv 2507.18391) maximises: the mean over tokens of advantage times policy entropy.

    It raises the entropy of tokens with a positive advantage and lowers that of tokens with a negative one. A group
    whose advantages are all 0 adds nothing.

    advantages: (B, T) of each token, or (B,) of each answer; no gradient flows through them.
    entropies: (B, T) policy entropy in nats, with gradient.
    mask: (B, T) 1 for completion tokens, 0 for padding.

    Returns a scalar, to be made large.
    """
    if advantages.dim() == 1:
        advantages = advantages.unsqueeze(1)
    return (advantages.detach() * entropies * mask).sum() / mask.sum().clamp(min=1.0)
