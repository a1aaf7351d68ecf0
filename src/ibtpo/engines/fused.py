"""A Llama-style decoder's forward with fewer, larger operations, for decode steps of a float32 model on a CPU.

A decode step of a small batch spends most of its time between operations: module calls, three projections where one
does, a rotation of four. Here the query, key and value weights are one matrix, gate and up another; keys and values go
into their slots in one write; the query heads of a key/value head are the rows of one attention. The numbers are
transformers' own up to rounding, which the runner checks before it relies on them.
"""

from typing import Any

import torch
from torch.nn.functional import embedding, rms_norm, scaled_dot_product_attention, silu

from .kv import SlotCache
from .packed_linear import MOST_BYTES, Product, product

# The families whose decoder is exactly this one; others with the same parts may scale or bias them elsewhere.
MODEL_TYPES = frozenset(("llama", "mistral", "qwen2", "qwen3"))


class FusedForward:
    """The model's logits of each row's last token, computed from weights of its own.

    Holds a copy of the weights (some packed) from the first call after construction or `clear` on.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self._layers: list[_Layer] = []
        self._head: Product | None = None

    @staticmethod
    def fits(model: Any) -> bool:
        """Whether it is one of `MODEL_TYPES` in float32 on the CPU, small enough for a second copy of its weights, and
        nothing changes its forward: no adapter, no hook, no patch."""
        if not type(model).__module__.startswith("transformers.models.") or model.config.model_type not in MODEL_TYPES:
            return False
        if not hasattr(model, "lm_head") or any(type(linear) is not torch.nn.Linear for linear in _linears(model)):
            return False
        if sum(p.nbytes for p in model.parameters()) > MOST_BYTES:
            return False
        touched = any(m._forward_hooks or m._forward_pre_hooks or "forward" in m.__dict__ for m in model.modules())
        return not touched and all(
            type(p) is torch.nn.Parameter and p.dtype is torch.float32 and p.device.type == "cpu"
            for p in model.parameters()
        )

    def clear(self) -> None:
        """Gives the weights back. Call it whenever the model's have changed."""
        self._layers.clear()
        self._head = None

    def __call__(
        self, tokens: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor, cache: SlotCache
    ) -> torch.Tensor:
        """(R, V) logits after the last of (R, Q) tokens at (R, Q) positions; `cache.window` was called before.

        mask: (R, 1, Q, length), additive.
        """
        decoder = self.model.model
        if self._head is None:
            self._layers = [_Layer(layer) for layer in decoder.layers]
            self._head = product(self.model.lm_head)
        rows, width = tokens.shape
        x = embedding(tokens, decoder.embed_tokens.weight)
        cos, sin = decoder.rotary_emb(x, positions)
        half = cos.shape[-1] // 2
        # x·cos + rotate_half(x)·sin, with the minus of rotate_half in the sine's first half.
        sin = torch.cat((-sin[..., :half], sin[..., half:]), -1)
        rotation = cos.view(rows * width, 1, -1), sin.view(rows * width, 1, -1)
        x = x.view(rows * width, -1)
        for i, layer in enumerate(self._layers):
            x = layer(x, rotation, mask, cache, i, rows)
        last = x.view(rows, width, -1)[:, -1]
        return self._head(rms_norm(last, last.shape[-1:], decoder.norm.weight, decoder.norm.variance_epsilon))


def _linears(model: Any) -> list[torch.nn.Module]:
    found = [model.lm_head]
    for layer in model.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        found += [attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj]
        found += [mlp.gate_proj, mlp.up_proj, mlp.down_proj]
    return found


class _Layer:
    """One decoder layer."""

    def __init__(self, layer: Any) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.layer = layer
        self.head_dim: int = attention.head_dim
        self.scaling: float = attention.scaling
        self.eps: float = layer.input_layernorm.variance_epsilon
        self.queries = attention.q_proj.out_features // self.head_dim
        self.keys = attention.k_proj.out_features // self.head_dim
        self.qkv = product(attention.q_proj, attention.k_proj, attention.v_proj)
        self.out = product(attention.o_proj)
        self.gate_up = product(mlp.gate_proj, mlp.up_proj)
        self.down = product(mlp.down_proj)
        self.hidden: int = mlp.gate_proj.out_features
        self.activation = silu if type(mlp.act_fn).__name__ in ("SiLU", "SiLUActivation") else mlp.act_fn
        self.head_norm: torch.Tensor | None = None
        if hasattr(attention, "q_norm"):  # Qwen3
            q, k = attention.q_norm.weight.detach(), attention.k_norm.weight.detach()
            self.head_norm = torch.cat((q.expand(self.queries, -1), k.expand(self.keys, -1)))

    def __call__(
        self,
        x: torch.Tensor,
        rotation: tuple[torch.Tensor, torch.Tensor],
        mask: torch.Tensor,
        cache: SlotCache,
        index: int,
        rows: int,
    ) -> torch.Tensor:
        """(R·Q, hidden size) in and out."""
        tokens, size = x.shape
        h = rms_norm(x, (size,), self.layer.input_layernorm.weight, self.eps)
        qkv = self.qkv(h).view(tokens, -1, self.head_dim)
        turned = qkv[:, : self.queries + self.keys]
        if self.head_norm is not None:
            turned.copy_(rms_norm(turned, (self.head_dim,), None, self.eps) * self.head_norm)
        rolled = turned.roll(self.head_dim // 2, -1)
        turned.mul_(rotation[0]).addcmul_(rolled, rotation[1])
        fresh = qkv[:, self.queries :].view(rows, -1, 2, self.keys, self.head_dim)
        keys, values = cache.write(index, fresh)
        # The query heads that share a key/value head, and the row's tokens, are one attention's queries.
        q = qkv[:, : self.queries].view(rows, -1, self.keys, self.queries // self.keys, self.head_dim)
        mixed = self._decode(q, keys, values, mask) if q.shape[1] == 1 else self._prefill(q, keys, values, mask)
        mixed = mixed.reshape(tokens, -1)
        x = x + self.out(mixed)
        h = rms_norm(x, (size,), self.layer.post_attention_layernorm.weight, self.eps)
        gate, up = self.gate_up(h).split(self.hidden, -1)
        return x.add_(self.down(self.activation(gate).mul_(up)))

    def _decode(self, q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Written out: for a few queries a head it is up to three times as fast as SDPA's kernel."""
        q, keys, values = q.reshape(-1, *q.shape[3:]), keys.flatten(0, 1), values.flatten(0, 1)
        mask = mask.expand(-1, self.keys, -1, -1).flatten(0, 1)
        return torch.baddbmm(mask, q, keys.transpose(1, 2), alpha=self.scaling).softmax(-1) @ values

    def _prefill(self, q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        rows, width, heads, group, size = q.shape
        q = q.transpose(1, 2).reshape(rows, heads, width * group, size)
        mask = mask.repeat_interleave(group, 2)
        mixed = scaled_dot_product_attention(q, keys, values, attn_mask=mask, scale=self.scaling)
        return mixed.view(rows, heads, width, group * size).transpose(1, 2)
