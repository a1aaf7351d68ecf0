"""Linear layers of a float32 model on a CPU through oneDNN with packed weights: about twice PyTorch's own speed there.

PyTorch hands float32 products to MKL, which packs the weights again in every call; with the few rows of a decode step
that costs as much as the product. Here they are packed once, as `torch.compile` does when it freezes a model, and
again after the weights have changed.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch.nn.functional import linear

_ROWS = 32  # oneDNN packs for about as many
_LEAST = 2**17  # elements of a weight; below, the operator's overhead is more than what it saves
MOST_BYTES = 4e9  # held for packed weights; what is left over is multiplied as it is, still faster than by MKL


Product = Callable[[torch.Tensor], torch.Tensor]


class PackedLinears:
    """What `installed` puts in place of the `forward` of every large plain `nn.Linear` in float32 on the CPU."""

    def __init__(self, modules: list[torch.nn.Module]) -> None:
        self._linears: list[Any] = [module for module in modules if _fits(module)] if _available() else []
        self._forwards: list[Any] = []

    def clear(self) -> None:
        """Gives the packed weights back. Call it whenever the weights have changed."""
        self._forwards.clear()

    @contextmanager
    def installed(self) -> Iterator[None]:
        """The model's linears run packed."""
        if len(self._forwards) != len(self._linears):
            self._forwards = self._pack()
        for module, forward in zip(self._linears, self._forwards, strict=True):
            object.__setattr__(module, "forward", forward)
        try:
            yield
        finally:
            for module in self._linears:
                object.__delattr__(module, "forward")

    def _pack(self) -> list[Any]:
        forwards, size = [], 0
        for module in self._linears:
            weight = module.weight.detach()
            size += weight.nbytes
            packed = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS) if size <= MOST_BYTES else weight
            forwards.append(_forward(module, packed))
        return forwards


def product(*linears: torch.nn.Linear, scale: torch.Tensor | None = None) -> Product:
    """The outputs of float32 CPU linears of one input side by side, as one product with a copy of their weights.

    Of (tokens, in) rows; packed where that is faster. scale: (in,) what the input is multiplied with before.
    """
    with torch.no_grad():
        weight = torch.cat([linear.weight for linear in linears])
        if scale is not None:
            weight = weight * scale
        bias = None
        if any(linear.bias is not None for linear in linears):
            bias = torch.cat([x.weight.new_zeros(x.out_features) if x.bias is None else x.bias for x in linears])
        if weight.numel() < _LEAST or not _available():
            turned = weight.t().contiguous()
            return turned.__rmatmul__ if bias is None else lambda x: torch.addmm(bias, x, turned)
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS)
    return lambda x: torch.ops.mkldnn._linear_pointwise.default(x, packed, bias, "none", [], "")


def _forward(module: Any, packed: torch.Tensor) -> Any:
    product, bias = torch.ops.mkldnn._linear_pointwise.default, module.bias

    def forward(input: torch.Tensor) -> torch.Tensor:
        if input.dtype is not torch.float32 or torch.is_autocast_enabled("cpu"):
            return linear(input, module.weight, bias)
        return product(input, packed, bias, "none", [], "")

    return forward


def _fits(module: torch.nn.Module) -> bool:
    if type(module) is not torch.nn.Linear or "forward" in module.__dict__:
        return False
    weight = module.weight
    # A subclass would be a sharded or quantized tensor.
    plain = type(weight) is torch.nn.Parameter and weight.numel() >= _LEAST
    return plain and weight.dtype is torch.float32 and weight.device.type == "cpu"


@cache
def _available() -> bool:
    """Whether this build of PyTorch has the operators (they are not public), and they give the right product."""
    names = ("_reorder_linear_weight", "_linear_pointwise")
    if not torch.backends.mkldnn.is_available() or not all(hasattr(torch.ops.mkldnn, name) for name in names):
        return False
    layer = torch.nn.Linear(24, 40)
    try:
        with torch.no_grad():
            packed = torch.ops.mkldnn._reorder_linear_weight(layer.weight, _ROWS)
            rows = torch.linspace(-1, 1, 7 * 24).view(7, 24)
            return torch.allclose(_forward(layer, packed)(rows), linear(rows, layer.weight, layer.bias), atol=1e-5)
    except (RuntimeError, NotImplementedError):
        return False
