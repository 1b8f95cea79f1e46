"""Linear layers, and weights laid out once for the matrix products of a CPU while a model samples.

Legend: B... any leading sizes, I inputs, O outputs.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Key = tuple[int, torch.Size, torch.dtype]

LEAST = 2**17  # weights of a layer that is worth it: below, the call costs more than it saves (docs/speed.md)
_blocked: dict[Key, Tensor] = {}


class Linear(nn.Linear):
    """A linear layer without bias: weight (O, I)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B..., I) -> (B..., O)."""
        compiling = torch.compiler.is_compiling()
        if torch.is_grad_enabled() or x.device.type != "cpu" or not (compiling or _blocked):
            return F.linear(x, self.weight)
        if x.dtype == torch.float32 and torch.is_autocast_enabled("cpu"):
            x = x.to(torch.get_autocast_dtype("cpu"))
        if compiling:
            return torch.ops.radar.linear(x, self.weight)  # type: ignore[no-any-return]
        blocked = _blocked.get(_key(self.weight, x.dtype))
        return F.linear(x, self.weight) if blocked is None else _product(x, blocked)


@contextmanager
def blocked_weights(model: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Keep the weights of a model's larger layers also in oneDNN's blocked layout, for products without gradients.

    For the time of sampling: the weights must not change in the meantime, and take their memory once more. Nothing
    happens on other devices, and where oneDNN is not to be had.

    Args:
        model: whose `Linear` layers are meant.
        dtype: that of the products (sampling.product_dtype).
    """
    layers = [layer for layer in model.modules() if isinstance(layer, Linear)] if can_block(dtype) else []
    weights = [layer.weight.detach() for layer in layers if layer.weight.device.type == "cpu"]
    large = {_key(w, dtype): w for w in weights if w.numel() >= LEAST}
    made = {key: _block(w.to(dtype)) for key, w in large.items() if key not in _blocked}
    _blocked.update(made)
    try:
        yield
    finally:
        for key in made:
            del _blocked[key]


def can_block(dtype: torch.dtype) -> bool:
    """Whether PyTorch has oneDNN, and this processor its products in `dtype`."""
    if not torch.backends.mkldnn.is_available():
        return False
    return dtype != torch.bfloat16 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _key(weight: Tensor, dtype: torch.dtype) -> Key:
    return weight.data_ptr(), weight.shape, dtype


# The two operations of PyTorch's own compiler for weights that it may freeze; PyTorch has no public name for them.
def _block(weight: Tensor) -> Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None)  # type: ignore[no-any-return]


def _product(x: Tensor, blocked: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, blocked, None, "none", [], "")  # type: ignore[no-any-return]


# The compiler cannot follow a blocked tensor, so it takes every product without gradients as one operation.
def _opaque(x: Tensor, weight: Tensor) -> Tensor:
    blocked = _blocked.get(_key(weight, x.dtype))
    return F.linear(x, weight.to(x.dtype)) if blocked is None else _product(x, blocked)


torch.library.define("radar::linear", "(Tensor x, Tensor weight) -> Tensor")
torch.library.impl("radar::linear", "cpu", _opaque)


def _fake(x: Tensor, weight: Tensor) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


torch.library.register_fake("radar::linear", _fake)
