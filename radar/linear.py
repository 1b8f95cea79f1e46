"""Linear layers, and weights laid out once for the matrix products of a CPU while a model samples.

Legend: B... any leading sizes, I inputs, O outputs.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_blocked: dict[tuple[int, torch.dtype], Tensor] = {}  # by address and dtype of the weights they were made from


class Linear(nn.Linear):
    """A linear layer without bias: weight (O, I)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B..., I) -> (B..., O)."""
        if torch.is_grad_enabled() or x.device.type != "cpu":
            return F.linear(x, self.weight)
        if torch.is_autocast_enabled("cpu"):
            x = x.to(torch.get_autocast_dtype("cpu"))
        if torch.compiler.is_compiling():
            return torch.ops.radar.linear(x, self.weight)  # type: ignore[no-any-return]
        blocked = _blocked.get((self.weight.data_ptr(), x.dtype))
        return F.linear(x, self.weight) if blocked is None else _product(x, blocked)


@contextmanager
def blocked_weights(model: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Keep every Linear's weight also in the blocked layout of oneDNN, which products without gradients then read.

    For the time of sampling: the weights must not change in the meantime. Nothing happens on other devices, and
    where PyTorch was built without oneDNN. 1.1 to 1.9 times as fast as the plain layout on an AMD EPYC (docs/speed.md).

    Args:
        model: whose layers are meant.
        dtype: that of the products (sampling.product_dtype).
    """
    before = dict(_blocked)
    if torch.backends.mkldnn.is_available():
        weights = [layer.weight.detach() for layer in model.modules() if isinstance(layer, Linear)]
        _blocked.update({(w.data_ptr(), dtype): _block(w.to(dtype)) for w in weights if w.device.type == "cpu"})
    try:
        yield
    finally:
        _blocked.clear()
        _blocked.update(before)


# The two operations of PyTorch's own compiler for weights that it may freeze; PyTorch has no public name for them.
def _block(weight: Tensor) -> Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None)  # type: ignore[no-any-return]


def _product(x: Tensor, blocked: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, blocked, None, "none", [], "")  # type: ignore[no-any-return]


# The compiler cannot follow a blocked tensor, so it takes the product as one operation.
def _opaque(x: Tensor, weight: Tensor) -> Tensor:
    blocked = _blocked.get((weight.data_ptr(), x.dtype))
    return F.linear(x, weight.to(x.dtype)) if blocked is None else _product(x, blocked)


torch.library.define("radar::linear", "(Tensor x, Tensor weight) -> Tensor")
torch.library.impl("radar::linear", "cpu", _opaque)


def _fake(x: Tensor, weight: Tensor) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


torch.library.register_fake("radar::linear", _fake)
