"""Linear layers of a float32 model on a CPU through oneDNN with packed weights, at about twice PyTorch's own speed.

PyTorch hands float32 products to MKL, which packs the weights anew in every call; with the few rows of a decode step
that costs as much as the product itself. Here the weights are packed once, as `torch.compile` does when it freezes a
model, and again only after they have changed.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch.nn.functional import linear

_ROWS = 32  # rows of a product that oneDNN packs the weights for; other numbers of rows work too
_LEAST = 2**17  # elements; with a smaller weight, the operator's overhead is more than what packing saves
MOST_BYTES = 4e9  # of packed weights; a layer beyond them is multiplied as it is, which is still faster than MKL


Product = Callable[[torch.Tensor], torch.Tensor]  # (tokens, in) -> (tokens, out)


class PackedLinears:
    """Packed forwards for the large linear layers of a model, put in place by `installed`.

    modules: the model's modules. Those that are a plain `nn.Linear` with a float32 weight of at least 2**17 elements on
        the CPU are taken, or none if this PyTorch cannot pack.
    """

    def __init__(self, modules: list[torch.nn.Module]) -> None:
        self._linears: list[Any] = [module for module in modules if _fits(module)] if can_pack() else []
        self._forwards: list[Any] = []

    def clear(self) -> None:
        """Gives the packed weights back. Call it whenever the model's weights have changed."""
        self._forwards.clear()

    @contextmanager
    def installed(self) -> Iterator[None]:
        """A context in which those layers run packed; afterwards their own forward is back."""
        if len(self._forwards) != len(self._linears):
            self._forwards = self._pack()
        for module, forward in zip(self._linears, self._forwards, strict=True):
            # Module.__setattr__ looks for parameters first: too slow for every layer and step.
            object.__setattr__(module, "forward", forward)
        try:
            yield
        finally:
            for module in self._linears:
                object.__delattr__(module, "forward")

    def _pack(self) -> list[Any]:
        """One forward for each layer; the weights beyond `MOST_BYTES` are left as they are."""
        forwards, size = [], 0
        for module in self._linears:
            weight = module.weight.detach()
            size += weight.nbytes
            packed = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS) if size <= MOST_BYTES else weight
            forwards.append(_forward(module, packed))
        return forwards


def product(*linears: torch.nn.Linear, scale: torch.Tensor | None = None) -> Product:
    """A function that computes several linear layers of the same input as one product.

    linears: layers in float32 on the CPU, all with inputs of the same size.
    scale: (in,) what the input is multiplied with first; it is multiplied into the weights.

    Returns a function of (tokens, in) that gives the layers' outputs side by side. It has a copy of their weights,
    packed where that is faster.
    """
    with torch.no_grad():
        weight = torch.cat([linear.weight for linear in linears])
        if scale is not None:
            weight = weight * scale
        bias = None
        if any(linear.bias is not None for linear in linears):
            bias = torch.cat([x.weight.new_zeros(x.out_features) if x.bias is None else x.bias for x in linears])
        if weight.numel() < _LEAST or not can_pack():
            turned = weight.t().contiguous()
            if bias is None:
                return lambda x: x @ turned
            return lambda x: torch.addmm(bias, x, turned)
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS)
    return lambda x: torch.ops.mkldnn._linear_pointwise.default(x, packed, bias, "none", [], "")


def _forward(module: Any, packed: torch.Tensor) -> Any:
    """A forward for a layer with packed weights; for other dtypes, and under autocast, it is PyTorch's own."""
    product, bias = torch.ops.mkldnn._linear_pointwise.default, module.bias

    def forward(input: torch.Tensor) -> torch.Tensor:
        if input.dtype is not torch.float32 or torch.is_autocast_enabled("cpu"):
            return linear(input, module.weight, bias)
        return product(input, packed, bias, "none", [], "")

    return forward


def _fits(module: torch.nn.Module) -> bool:
    """Whether a module is a linear layer that gains by packing and whose forward nobody has replaced."""
    if type(module) is not torch.nn.Linear or "forward" in module.__dict__:
        return False
    weight = module.weight
    # A subclass of Parameter would be a sharded or quantized tensor.
    plain = type(weight) is torch.nn.Parameter and weight.numel() >= _LEAST
    return plain and weight.dtype is torch.float32 and weight.device.type == "cpu"


@cache
def can_pack() -> bool:
    """Whether this build of PyTorch has the operators for packing, and they give the right product.

    They are not part of PyTorch's public interface, so neither is certain.
    """
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
