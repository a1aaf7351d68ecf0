"""The forward of a Llama-style decoder in fewer, larger operations, for float32 models on a CPU.

A decode step of a small batch spends most of its time between operations: in module calls, in three projections where
one would do, in a rotation of four operations. Here

- the query, key and value weights are one matrix and the gate and up weights another, each with the weights of the norm
  before it multiplied in;
- new keys and values go into their slots in one write;
- the query heads that share a key/value head are the rows of one attention;
- what is the same for all layers is computed once.

The logits are those of transformers up to rounding. `runners.SlotRunner` checks that before it relies on them.
"""

from typing import Any

import torch
from torch.nn.functional import embedding, scaled_dot_product_attention, silu

from .kv import SlotCache
from .packed_linear import MOST_BYTES, Product, product

# The families whose decoder is exactly this one. Others have the same parts, but may scale or bias them elsewhere.
MODEL_TYPES = frozenset(("llama", "mistral", "qwen2", "qwen3"))


class FusedForward:
    """Computes a model's logits after each row's last token, from a copy of the model's weights.

    The copy is made, in part packed, by the first call after construction or `clear`.

    model: one that `fits`.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self._layers: list[_Layer] = []
        self._head: Product | None = None
        self._eps = torch.tensor(model.model.norm.variance_epsilon, dtype=torch.float32)

    @staticmethod
    def fits(model: Any) -> bool:
        """Whether `model` can be run this way.

        It can if it is one of `MODEL_TYPES` in float32 on the CPU, its weights are small enough to be held twice (at
        most `MOST_BYTES`), and nothing changes its forward: no adapter, no hook but the one that comes with gradient
        checkpointing, and no patch but the one that TRL's trainer makes, which computes the same logits unless it is
        asked for a loss.
        """
        if not type(model).__module__.startswith("transformers.models.") or model.config.model_type not in MODEL_TYPES:
            return False
        if not hasattr(model, "lm_head") or any(type(linear) is not torch.nn.Linear for linear in _linears(model)):
            return False
        if sum(p.nbytes for p in model.parameters()) > MOST_BYTES:
            return False
        touched = any(
            not all(map(_for_checkpointing, m._forward_hooks.values()))
            or m._forward_pre_hooks
            or ("forward" in m.__dict__ and not _patched_by_trl(m))
            for m in model.modules()
        )
        return not touched and all(
            type(p) is torch.nn.Parameter and p.dtype is torch.float32 and p.device.type == "cpu"
            for p in model.parameters()
        )

    def clear(self) -> None:
        """Gives the copy of the weights back. Call it whenever the model's weights have changed."""
        self._layers.clear()
        self._head = None

    def __call__(
        self, tokens: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor, cache: SlotCache
    ) -> torch.Tensor:
        """The (R, V) logits after the last of each row's Q tokens.

        tokens: (R, Q) ids.
        positions: (R, Q) place of each token in its row.
        mask: (R, 1, Q, length) numbers that are added to the attention scores.
        cache: holds the keys and values; its `window` was called for these positions.
        """
        decoder = self.model.model
        if self._head is None:
            self._layers = [_Layer(layer) for layer in decoder.layers]
            self._head = product(self.model.lm_head, scale=decoder.norm.weight)
        rows, width = tokens.shape
        x = embedding(tokens, decoder.embed_tokens.weight)
        cos, sin = decoder.rotary_emb(x, positions)
        half = cos.shape[-1] // 2
        # A layer computes x·cos + rotate_half(x)·sin. With rotate_half's minus in the sine, a plain roll is enough.
        sin = torch.cat((-sin[..., :half], sin[..., half:]), -1)
        rotation = cos.view(rows * width, 1, -1), sin.view(rows * width, 1, -1)
        x = x.view(rows * width, -1)
        slots = cache.slots()
        first = self._layers[0]
        # The form of the mask that `_decode` takes, or `_prefill`; the same for all layers.
        if width == 1:
            mask = mask.expand(-1, first.keys, -1, -1).flatten(0, 1)
        else:
            mask = mask.repeat_interleave(first.queries // first.keys, 2)
        for layer, target, keys, values in zip(self._layers, *slots[1:], strict=True):
            x = layer(x, rows, rotation, mask, slots.where, target, keys, values)
        return self._head(_normalize(x.view(rows, width, -1)[:, -1], self._eps))


def _normalize(x: torch.Tensor, eps: torch.Tensor) -> torch.Tensor:
    """(…, size) rows divided by their root mean square, in half the operations that `rms_norm` takes on a CPU."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x * torch.addcmul(eps, norm, norm, value=1 / x.shape[-1]).rsqrt_()


def _patched_by_trl(module: Any) -> bool:
    """Whether a module's own `forward` is that of TRL's `add_fused_lm_head`, which trainers put on their model."""
    function = getattr(module.forward, "__func__", None)
    return str(getattr(function, "__globals__", {}).get("__name__")).startswith("trl.")


def _for_checkpointing(hook: Any) -> bool:
    """Whether a hook is that of transformers' `enable_input_require_grads`, which changes no value."""
    return getattr(hook, "__qualname__", "").endswith("enable_input_require_grads.<locals>.make_inputs_require_grads")


def _linears(model: Any) -> list[torch.nn.Module]:
    """The linear layers whose weights are copied."""
    found = [model.lm_head]
    for layer in model.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        found += [attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj]
        found += [mlp.gate_proj, mlp.up_proj, mlp.down_proj]
    return found


class _Layer:
    """One decoder layer, with its copy of the weights."""

    def __init__(self, layer: Any) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.head_dim: int = attention.head_dim
        self.scaling: float = attention.scaling
        self.eps = torch.tensor(layer.input_layernorm.variance_epsilon, dtype=torch.float32)
        self.queries = attention.q_proj.out_features // self.head_dim
        self.keys = attention.k_proj.out_features // self.head_dim
        self.qkv = product(attention.q_proj, attention.k_proj, attention.v_proj, scale=layer.input_layernorm.weight)
        self.out = product(attention.o_proj)
        self.gate_up = product(mlp.gate_proj, mlp.up_proj, scale=layer.post_attention_layernorm.weight)
        self.down = product(mlp.down_proj)
        self.hidden: int = mlp.gate_proj.out_features
        self.activation = silu if type(mlp.act_fn).__name__ in ("SiLU", "SiLUActivation") else mlp.act_fn
        self.head_norm: torch.Tensor | None = None
        if hasattr(attention, "q_norm"):  # Qwen3
            q, k = attention.q_norm.weight.detach(), attention.k_norm.weight.detach()
            self.head_norm = torch.cat((q.expand(self.queries, -1), k.expand(self.keys, -1)))
            self.head_eps = torch.tensor(attention.q_norm.variance_epsilon, dtype=torch.float32)

    def __call__(
        self,
        x: torch.Tensor,
        rows: int,
        rotation: tuple[torch.Tensor, torch.Tensor],
        mask: torch.Tensor,
        where: torch.Tensor,
        target: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
    ) -> torch.Tensor:
        """The layer's output for (R·Q, hidden size) `x`, of the same shape.

        rows: R.
        rotation: cosine and sine, each (R·Q, 1, head_dim).
        mask: (R·heads, 1, length) for one token a row; for more, (R, 1, Q·group, length), with each token's line
            repeated for the `group` query heads that share a key/value head.
        where, target, keys, values: the slots of this layer, see `kv.Slots`.
        """
        tokens = len(x)
        qkv = self.qkv(_normalize(x, self.eps)).view(tokens, -1, self.head_dim)
        turned = qkv[:, : self.queries + self.keys]
        if self.head_norm is not None:
            turned.copy_(_normalize(turned, self.head_eps) * self.head_norm)
        rolled = turned.roll(self.head_dim // 2, -1)
        turned.mul_(rotation[0]).addcmul_(rolled, rotation[1])
        target.index_copy_(0, where, qkv[:, self.queries :].reshape(-1, self.head_dim))
        # The query heads that share a key/value head, and the row's tokens, are one attention's queries.
        q = qkv[:, : self.queries].view(rows, -1, self.keys, self.queries // self.keys, self.head_dim)
        mixed = self._decode(q, keys, values, mask) if q.shape[1] == 1 else self._prefill(q, keys, values, mask)
        x = x + self.out(mixed.reshape(tokens, -1))
        gate, up = self.gate_up(_normalize(x, self.eps)).split(self.hidden, -1)
        return x.add_(self.down(self.activation(gate).mul_(up)))

    def _decode(self, q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The attention of one token a row.

        It is written out, because for a few queries a head that is up to three times as fast as SDPA's kernel.
        """
        q = q.reshape(-1, *q.shape[3:])
        return torch.baddbmm(mask, q, keys.transpose(1, 2), alpha=self.scaling).softmax(-1) @ values

    def _prefill(self, q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The attention of several tokens a row, of (R, Q, heads, group, head_dim) queries."""
        rows, width, heads, group, size = q.shape
        q = q.transpose(1, 2).reshape(rows, heads, width * group, size)
        keys, values = keys.unflatten(0, (rows, heads)), values.unflatten(0, (rows, heads))
        mixed = scaled_dot_product_attention(q, keys, values, attn_mask=mask, scale=self.scaling)
        return mixed.view(rows, heads, width, group * size).transpose(1, 2)
