"""Drawing the next tokens of a whole batch, each row with its own settings and its own stream of uniforms."""

from collections.abc import Sequence

import numpy as np
import torch

from . import Sampling

_CHUNK = 2**18  # logits that are worked on at once on a CPU


def uniform_stream(seed: int, length: int) -> list[float]:
    """The random numbers of one rollout: uniforms in [0, 1), one for each token.

    seed: the rollout's. A longer stream of the same seed starts with the same numbers, so that what a rollout draws
        depends on its seed and the position alone.
    length: how many numbers.
    """
    return np.random.Generator(np.random.Philox(seed)).random(length).tolist()


def draw_tokens(logits: torch.Tensor, sampling: Sequence[Sampling], uniforms: Sequence[float]) -> torch.Tensor:
    """Draws one token for each row.

    logits: (R, V) scores of the next token before the temperature, of any float dtype.
    sampling: R settings, one a row.
    uniforms: R numbers in [0, 1), one a row: the only source of randomness.

    Returns (3, R) float32: token ids (exact below 2**24), log-probs, and entropies in nats. The last two are those of
    the full softmax at the row's temperature, before top-k and top-p.
    """
    uniform = torch.tensor(uniforms, dtype=torch.float32, device=logits.device)
    if all(options is sampling[0] for options in sampling):
        # On a CPU a few rows at a time stay in its caches, which takes half the time of all rows at once.
        chunk = max(1, _CHUNK // logits.shape[-1]) if logits.device.type == "cpu" else len(uniforms)
        parts = zip(logits.split(chunk), uniform.split(chunk), strict=True)
        return torch.cat([_draw(*part, sampling[0]) for part in parts], 1)
    groups: dict[Sampling, list[int]] = {}
    for row, options in enumerate(sampling):
        groups.setdefault(options, []).append(row)
    drawn = torch.empty(3, len(uniforms), device=logits.device)
    for options, members in groups.items():
        rows = torch.tensor(members, device=logits.device)
        drawn[:, rows] = _draw(logits[rows], uniform[rows], options)
    return drawn


def _draw(logits: torch.Tensor, uniform: torch.Tensor, options: Sampling) -> torch.Tensor:
    """`draw_tokens` for rows with the same settings."""
    scaled = logits.float() / options.temperature
    logprobs, probs = scaled.log_softmax(-1), scaled.softmax(-1)
    # Where p is 0, log p is -inf and their product NaN; with log p clamped it is 0, as it should be. On a CPU this is
    # several times faster than torch.special.entr.
    entropies = -torch.linalg.vecdot(probs, logprobs.clamp(min=torch.finfo(logprobs.dtype).min))
    candidates: torch.Tensor | None = None
    if options.top_k or options.top_p < 1:
        kept, candidates = _filter(logprobs, options)
        probs = kept.softmax(-1)
    cumulative = probs.cumsum(-1)
    total = cumulative[:, -1]
    # The target stays below the total, or rounding could select a token of probability zero behind the last one.
    target = torch.minimum(uniform * total, torch.nextafter(total, torch.zeros_like(total)))
    # Only NaN gives an index out of bounds; with the clamp it gets into the log-prob, where the caller sees it.
    chosen = torch.searchsorted(cumulative, target[:, None], right=True).clamp_(max=cumulative.shape[-1] - 1)
    ids = chosen if candidates is None else candidates.gather(-1, chosen)
    return torch.stack([ids[:, 0].float(), logprobs.gather(-1, ids)[:, 0], entropies])


def _filter(logprobs: torch.Tensor, options: Sampling) -> tuple[torch.Tensor, torch.Tensor]:
    """Applies top-k, then top-p, as transformers' TopKLogitsWarper and TopPLogitsWarper do.

    Returns the (R, C) log-probs of the most likely tokens, in descending order and -inf where filtered out, and the
    tokens' (R, C) ids.
    """
    vocab = logprobs.shape[-1]
    k = min(options.top_k, vocab) or vocab
    kept, ids = logprobs.topk(min(k + 1, vocab))
    if k < vocab:
        threshold = kept[:, k - 1 : k]
        # Tokens that are as likely as the k-th are kept too, as there; in bfloat16 ties are common.
        if bool((kept[:, k:] == threshold).any()):
            kept, ids = logprobs.topk(int((logprobs >= threshold).sum(-1).max()))
            kept = kept.masked_fill(kept < threshold, -torch.inf)
        else:
            kept, ids = kept[:, :k], ids[:, :k]
    if options.top_p < 1:
        # Summed from the least likely up, as transformers does, so that rounding falls the same way.
        mass = kept.softmax(-1).flip(-1).cumsum(-1).flip(-1)
        removed = mass <= 1 - options.top_p
        removed[:, 0] = False
        kept = kept.masked_fill(removed, -torch.inf)
    return kept, ids
