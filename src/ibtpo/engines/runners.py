"""The two ways to run a batch of rollouts through a model: in slots with forked prefixes, or one by one.

`SlotRunner` is the fast one. `PlainRunner` takes the models that slots are not enough for, such as those with sliding
windows or recurrent layers. The engine calls the same methods of both: `admit` takes new rollouts; `logits` gives the
scores from which the engine draws the next token of each; `keep` and `release` deal with the finished ones.
"""

import asyncio
import inspect
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from transformers.cache_utils import DynamicLayer

from . import Completion, Sampling
from .fused import FusedForward
from .kv import PrefixStore, Segment, SlotCache, chain_hashes, fork, round_up

# Most prompt tokens in one forward, padding included: bounds the memory of activations and masks.
PREFILL_TOKENS = 4096
PREFILL_TOKENS_CPU = 512  # fewer: activations stay in a CPU's caches, and rows of like length waste less padding
_PROBE_TOKENS = 12  # length of the made-up sequence that a model is tested with


class Unsupported(Exception):  # noqa: N818 (not an error: the engine falls back)
    """The reason why a model cannot be run. From `SlotRunner` it makes the engine fall back to `PlainRunner`."""


@dataclass(eq=False, slots=True)
class Rollout:
    """One request under way.

    token_ids: the prompt, followed by what was sampled so far.
    prompt_length: tokens of the prompt.
    length_cap: length of `token_ids` at which the rollout ends.
    sampling: how its tokens are drawn.
    uniforms: numbers in [0, 1), one for each token that may be sampled.
    future: what the caller awaits.
    cached: tokens of the prompt whose keys and values were copied, not computed.
    hashes: those of the prefixes of `token_ids`, see `kv.chain_hashes`.
    logprobs: one for each sampled token.
    entropies: one for each sampled token, in nats.
    """

    token_ids: list[int]
    prompt_length: int
    length_cap: int
    sampling: Sampling
    uniforms: list[float]
    future: asyncio.Future[Completion]
    cached: int = 0
    hashes: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    entropies: list[float] = field(default_factory=list)


class SlotRunner:
    """Runs rollouts as the rows of one batch, whose keys and values lie in a `SlotCache`.

    Rollout i of `rows` lives in row i of the cache. Rows stay compact: when one is released, the last one moves into
    the gap. Between calls this law holds: row i has the keys and values of all of `rows[i].token_ids` but the last.

    model: a transformers causal LM.
    max_rows: rollouts that run at once.
    kv_bytes: bytes for the keys and values of kept prefixes; those of the rows come on top.
    vocab_size: every token id is below it.
    fused: computes the model's forward in its place, unless its logits turn out to be others.

    Raises `Unsupported` at construction if the model cannot be run this way.
    """

    def __init__(
        self, model: Any, max_rows: int, kv_bytes: float, vocab_size: int, fused: FusedForward | None = None
    ) -> None:
        self.model = model
        self.max_rows = max_rows
        self.rows: list[Rollout] = []
        self.store = PrefixStore(kv_bytes)
        forward = getattr(model, "get_base_model", lambda: model)().forward
        # Logits of prompt tokens are never used; some models can leave them out.
        self._last_only = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(forward).parameters else {}
        self._device = model.get_input_embeddings().weight.device
        self._fused = fused
        self._prefill_tokens = PREFILL_TOKENS_CPU if self._device.type == "cpu" else PREFILL_TOKENS
        self.cache = self._probe(vocab_size)

    def clear(self) -> None:
        """Forgets all rows and kept prefixes, and gives their memory back."""
        self.rows.clear()
        self.store.clear()
        self.cache.free()

    def admit(self, rollouts: list[Rollout]) -> None:
        """Appends rows for new rollouts, with the keys and values of their prompts but for each one's last token.

        Prefixes in the store are copied, and of several equal prompts only one is computed. The new rows need not be in
        the order of `rollouts`. Sets each rollout's `cached`.
        """
        first = len(self.rows)
        self.rows += rollouts  # before anything else, so that the engine fails them too if something goes wrong here
        forked: list[tuple[Rollout, Segment | None]] = []  # all of the prompt is in the store
        leaders: dict[tuple[int, ...], tuple[Rollout, Segment | None]] = {}  # a part has to be computed
        followers: list[tuple[Rollout, Rollout]] = []  # the prompt is that of a leader, the second of the pair
        for rollout in rollouts:
            prompt = tuple(rollout.token_ids[:-1])
            if prompt in leaders:
                followers.append((rollout, leaders[prompt][0]))
                rollout.cached = len(prompt)
                continue
            hashes = chain_hashes(rollout.token_ids, rollout.hashes)
            segment, rollout.cached = self.store.find(rollout.token_ids, hashes, len(prompt))
            if rollout.cached < len(prompt):
                leaders[prompt] = rollout, segment
            else:
                forked.append((rollout, segment))
        # Neighbours are computed together; where they miss about as many tokens, little is wasted on padding.
        computed = sorted(leaders.values(), key=lambda pair: len(pair[0].token_ids) - pair[0].cached)
        self.rows[first:] = [rollout for rollout, _ in [*computed, *forked, *followers]]
        self._reserve()
        for row, (rollout, segment) in enumerate(computed + forked, first):
            fork(self.cache, row, segment, rollout.cached)
        self._prefill(first, first + len(computed))
        row_of = {id(rollout): row for row, (rollout, _) in enumerate(computed, first)}
        for row, (rollout, leader) in enumerate(followers, first + len(computed) + len(forked)):
            rollout.hashes = leader.hashes.copy()
            self.cache.move(row_of[id(leader)], row, rollout.cached)

    def logits(self) -> torch.Tensor:
        """The (R, V) logits that follow the last token of every row."""
        self._reserve()
        last = [len(rollout.token_ids) - 1 for rollout in self.rows]
        tokens = [rollout.token_ids[-1:] for rollout in self.rows]
        return self._forward(0, tokens, torch.tensor(last, device=self._device)[:, None], max(last) + 1)

    def keep(self, rows: list[int]) -> None:
        """Puts the keys and values of the rows with these numbers into the store."""
        for row in rows:
            self._keep(row)

    def release(self, rows: list[int]) -> None:
        """Frees the rows with these numbers, which must be in ascending order."""
        for row in reversed(rows):
            last = self.rows.pop()
            if row < len(self.rows):
                self.rows[row] = last
                self.cache.move(len(self.rows), row, len(last.token_ids) - 1)

    def _keep(self, row: int) -> None:
        rollout = self.rows[row]
        hashes = chain_hashes(rollout.token_ids, rollout.hashes)
        self.store.keep(
            rollout.token_ids, hashes, len(rollout.token_ids) - 1, lambda start, end: self.cache.cut(row, start, end)
        )

    def _reserve(self) -> None:
        if self.rows:
            self.cache.reserve(len(self.rows), max(len(rollout.token_ids) for rollout in self.rows))

    def _prefill(self, first: int, end: int) -> None:
        """Computes what is missing of the prompts in rows first … end-1, in groups whose padded size is bounded.

        The rows are sorted by how many tokens they miss, so the last row of a group is the longest, and the others are
        padded to it.
        """
        missing = [len(rollout.token_ids) - 1 - rollout.cached for rollout in self.rows[first:end]]
        cuts = [0]
        for i, size in enumerate(missing):
            if (i + 1 - cuts[-1]) * size > self._prefill_tokens and i > cuts[-1]:
                cuts.append(i)
        for low, high in pairwise([*cuts, len(missing)] if missing else ()):
            stride = max(1, self._prefill_tokens // (high - low))
            for offset in range(0, max(missing[low:high]), stride):
                self._prefill_part(first + low, first + high, offset, stride)
            for row in range(first + low, first + high):
                self._keep(row)

    def _prefill_part(self, first: int, end: int, offset: int, stride: int) -> None:
        """Computes tokens offset … offset+stride-1 of what each of the rows misses, padded on the right."""
        starts = [rollout.cached + offset for rollout in self.rows[first:end]]
        tokens = [
            rollout.token_ids[start : min(start + stride, len(rollout.token_ids) - 1)]
            for rollout, start in zip(self.rows[first:end], starts, strict=True)
        ]
        width = max(map(len, tokens))
        tokens = [part + [0] * (width - len(part)) for part in tokens]
        # All padding is written to the place of the row's last token, which is not computed yet and overwrites it.
        ends = torch.tensor([len(rollout.token_ids) for rollout in self.rows[first:end]], device=self._device)
        positions = torch.tensor(starts, device=self._device)[:, None] + torch.arange(width, device=self._device)
        positions = torch.minimum(positions, ends[:, None] - 1)
        self._forward(first, tokens, positions, max(starts) + width)

    def _forward(self, first: int, tokens: list[list[int]], positions: torch.Tensor, length: int) -> torch.Tensor:
        """The (R, V) logits after the last of each row's Q tokens, whose keys and values are written on the way.

        first: number of the first of the R rows.
        tokens: R lists of Q ids.
        positions: (R, Q) place of each token in its row.
        length: tokens of a row that must be seen; the mask hides those after a token's own place.
        """
        kv = self.cache.kv
        length = min(round_up(length), kv.shape[4])
        visible = torch.arange(length, device=self._device) <= positions[:, None, :, None]
        # A mask of finite numbers to add is the one form that every attention with a mask understands.
        mask = torch.zeros((), dtype=kv.dtype, device=self._device).where(visible, torch.finfo(kv.dtype).min)
        self.cache.window(first, positions, length)
        ids = torch.tensor(tokens, device=self._device)
        if self._fused is not None and not torch.is_autocast_enabled("cpu"):
            return self._fused(ids, positions, mask, self.cache)
        return self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            **self._last_only,
        ).logits[:, -1]

    def _probe(self, vocab_size: int) -> SlotCache:
        """The cache for this model, after a test that slots give the logits of a plain forward.

        If they do not, the fused forward is given up first. Raises `Unsupported` if they still do not, or if the model
        does not keep one key and one value for each token in every layer.
        """
        config = self.model.config.get_text_config(decoder=True)
        if set(getattr(config, "layer_types", None) or ()) != {"full_attention"}:
            for name in ("sliding_window", "attention_chunk_size", "window_size", "local_attention"):
                if getattr(config, name, None) is not None:
                    raise Unsupported(f"its config has {name}={getattr(config, name)}")
        ids = [(7 * i + 1) % vocab_size for i in range(_PROBE_TOKENS)]
        plain = self.model(input_ids=torch.tensor([ids], device=self._device), use_cache=True)
        layers = getattr(getattr(plain, "past_key_values", None), "layers", None)
        if not layers or any(type(layer) is not DynamicLayer for layer in layers):
            kinds = sorted({type(layer).__name__ for layer in layers or ()})
            raise Unsupported(f"its cache is not keys and values of full attention but {', '.join(kinds) or 'absent'}")
        forms = {(t.shape, t.device) for layer in layers for t in (layer.keys, layer.values)}
        if len(forms) > 1:
            raise Unsupported("its layers keep keys and values of different shapes or on different devices")
        (shape, device), dtype = forms.pop(), layers[0].values.dtype
        self.cache = SlotCache(
            layers=len(layers), heads=shape[1], head_dim=shape[3], dtype=dtype, device=device, max_rows=self.max_rows
        )
        expected = plain.logits[0].float()
        error, scale = self._probe_error(ids, expected), expected.abs().max().item()
        tolerance = 0.1 if self.cache.values_dtype in (torch.bfloat16, torch.float16) else 2e-3
        # Logits that are not finite say nothing about slots, so they pass here; the engine's first step reports them.
        finite, allowed = bool(expected.isfinite().all()), tolerance * scale + 1e-6
        if finite and self._fused is not None and not error <= allowed:
            self._fused = None
            error = self._probe_error(ids, expected)
        if finite and not error <= allowed:
            raise Unsupported(f"slots change its logits by {error:.2g} where the largest is {scale:.2g}")
        return self.cache

    def _probe_error(self, ids: list[int], expected: torch.Tensor) -> float:
        """The largest difference between logits in slots and `expected`, over a padded prefill and three decode steps.

        ids: (T,) the made-up sequence; the prompts of two rows are its first 5 and its first 8 tokens.
        expected: (T, V) logits of a plain forward.
        """
        error = 0.0
        nobody: Any = None  # no caller awaits these rollouts
        probes = [Rollout(ids[:n], n, len(ids), Sampling(), [], nobody) for n in (5, 8)][-self.max_rows :]
        try:
            self.admit(probes)
            for _ in range(3):
                logits = self.logits().float()
                for row, rollout in enumerate(self.rows):
                    position = len(rollout.token_ids)
                    error = max(error, (logits[row] - expected[position - 1]).abs().max().item())
                    rollout.token_ids.append(ids[position])
        except torch.OutOfMemoryError:
            raise
        except Exception as reason:
            raise Unsupported(f"its forward does not take the slots: {type(reason).__name__}: {reason}") from reason
        self.clear()
        return error


class PlainRunner:
    """Runs one rollout at a time, with whatever cache the model makes itself."""

    max_rows = 1

    def __init__(self, model: Any) -> None:
        self.model = model
        self.rows: list[Rollout] = []
        self._past: dict[str, Any] = {}
        self._device = model.get_input_embeddings().weight.device

    def clear(self) -> None:
        """Forgets the rollout and the model's cache of it."""
        self.rows.clear()
        self._past = {}

    def admit(self, rollouts: list[Rollout]) -> None:
        """Takes a rollout, of which there is one at most; its prompt is computed with the first step."""
        if rollouts:
            self.rows += rollouts
            self._past = {}

    def logits(self) -> torch.Tensor:
        """The (1, V) logits that follow the rollout's last token.

        Raises `Unsupported` when the model returns no cache to continue from.
        """
        (rollout,) = self.rows
        fresh = rollout.token_ids[-1:] if self._past else rollout.token_ids
        output = self.model(input_ids=torch.tensor([fresh], device=self._device), use_cache=True, **self._past)
        # Recurrent models have a state in place of keys and values, and call it `cache_params`.
        names = ("past_key_values", "cache_params")
        self._past = {name: output[name] for name in names if output.get(name) is not None}
        if not self._past:
            raise Unsupported(f"{type(self.model).__name__} returns no cache to continue from")
        return output.logits[:, -1]

    def keep(self, rows: list[int]) -> None:
        """Does nothing: no prefixes are kept."""

    def release(self, rows: list[int]) -> None:
        """Frees the row, if `rows` names it."""
        if rows:
            self.rows.clear()
            self._past = {}
