"""A Llama-style decoder's forward with fewer, larger operations, for decode steps of a float32 model on a CPU.

A decode step of a small batch spends most of its time between operations: module calls, three projections where one
does, a rotation of four. Here the query, key and value weights are one matrix, gate and up another, with the weights
of the norm before them multiplied in; keys and values go into their slots in one write; the query heads of a key/value
head are the rows of one attention; what is the same for all layers is made once. The numbers are transformers' own up
to rounding, which the runner checks before it relies on them.
"""

from typing import Any

import torch
from torch.nn.functional import embedding, scaled_dot_product_attention, silu

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
        self._eps = torch.tensor(model.model.norm.variance_epsilon, dtype=torch.float32)

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
            self._head = product(self.model.lm_head, scale=decoder.norm.weight)
        rows, width = tokens.shape
        x = embedding(tokens, decoder.embed_tokens.weight)
        cos, sin = decoder.rotary_emb(x, positions)
        half = cos.shape[-1] // 2
        # x·cos + rotate_half(x)·sin, with the minus of rotate_half in the sine's first half.
        sin = torch.cat((-sin[..., :half], sin[..., half:]), -1)
        rotation = cos.view(rows * width, 1, -1), sin.view(rows * width, 1, -1)
        x = x.view(rows * width, -1)
        slots = cache.slots()
        first = self._layers[0]
        if width == 1:
            mask = mask.expand(-1, first.keys, -1, -1).flatten(0, 1)
        else:
            mask = mask.repeat_interleave(first.queries // first.keys, 2)
        for layer, target, keys, values in zip(self._layers, *slots[1:], strict=True):
            x = layer(x, rows, rotation, mask, slots.where, target, keys, values)
        return self._head(_normalize(x.view(rows, width, -1)[:, -1], self._eps))


def _normalize(x: torch.Tensor, eps: torch.Tensor) -> torch.Tensor:
    """(tokens, size) divided by its root mean square: in half the operations of `rms_norm` on a CPU."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x * torch.addcmul(eps, norm, norm, value=1 / x.shape[-1]).rsqrt_()


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
        """(R·Q, hidden size) in and out. The last four: see `Slots`.

        mask: (R·heads, 1, length) for one token a row; for more, each token's line as often as queries share a head.
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
        """Written out: for a few queries a head it is up to three times as fast as SDPA's kernel."""
        q = q.reshape(-1, *q.shape[3:])
        return torch.baddbmm(mask, q, keys.transpose(1, 2), alpha=self.scaling).softmax(-1) @ values

    def _prefill(self, q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        rows, width, heads, group, size = q.shape
        q = q.transpose(1, 2).reshape(rows, heads, width * group, size)
        keys, values = keys.unflatten(0, (rows, heads)), values.unflatten(0, (rows, heads))
        mixed = scaled_dot_product_attention(q, keys, values, attn_mask=mask, scale=self.scaling)
        return mixed.view(rows, heads, width, group * size).transpose(1, 2)
