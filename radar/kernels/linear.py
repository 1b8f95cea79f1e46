"""Linear layers, and weights laid out once for matrix products while a model samples.

Legend: B... any leading sizes, I inputs, O outputs.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from radar.kernels.build import kernels
from radar.kernels.products import LEAST_WEIGHTS, trained_linear

Key = tuple[int, torch.Size, torch.dtype]
Product = Callable[[Tensor], Tensor]

_products: dict[Key, Product] = {}


class Linear(nn.Linear):
    """A linear layer, by default without bias: weight (O, I)."""

    def __init__(self, inputs: int, outputs: int, bias: bool = False) -> None:
        super().__init__(inputs, outputs, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B..., I) -> (B..., O)."""
        compiling = torch.compiler.is_compiling()
        if torch.is_grad_enabled():
            return trained_linear(x, self.weight, self.bias)
        if not (compiling or _products):
            return F.linear(x, self.weight, self.bias)
        if x.dtype == torch.float32 and torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        if compiling:
            found = torch.ops.radar.linear(x, self.weight)
        elif (product := _products.get(_key(self.weight, x.dtype))) is not None:
            found = product(x)
        else:
            return F.linear(x, self.weight, self.bias)
        return found if self.bias is None else found + self.bias.to(found.dtype)  # type: ignore[no-any-return]


@contextmanager
def fast_products(model: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Keep the weights of a model's layers also as faster products without gradients read them.

    On a CPU those of larger layers, in panels for our own kernel in float32, in oneDNN's blocks otherwise; on other
    devices in bfloat16, where that is the type of the products: compiled code would convert them anew in every pass.
    For the time of sampling: the weights must not change in the meantime, and take the memory of that type once more.

    Args:
        model: whose `Linear` layers are meant.
        dtype: that of the products (sampling.product_dtype).
    """
    weights = [layer.weight.detach() for layer in model.modules() if isinstance(layer, Linear)]
    worth = {_key(w, dtype): w for w in weights if _is_worth_it(w, dtype)}
    made = {key: _product(w.to(dtype)) for key, w in worth.items() if key not in _products}
    _products.update(made)
    try:
        yield
    finally:
        for key in made:
            del _products[key]


def _is_worth_it(weight: Tensor, dtype: torch.dtype) -> bool:
    if weight.device.type == "cpu":
        return weight.numel() >= LEAST_WEIGHTS and has_fast_products(dtype)
    return dtype == torch.bfloat16 != weight.dtype


def has_fast_products(dtype: torch.dtype) -> bool:
    """Whether there is another layout for products in `dtype` on this processor; compiles our kernels, if need be."""
    return _has_blocks(dtype) or (dtype == torch.float32 and kernels() is not None)


def _has_blocks(dtype: torch.dtype) -> bool:
    if not torch.backends.mkldnn.is_available():
        return False
    return dtype != torch.bfloat16 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _key(weight: Tensor, dtype: torch.dtype) -> Key:
    return weight.data_ptr(), weight.shape, dtype


def _product(weight: Tensor) -> Product:
    if weight.device.type != "cpu":
        return partial(F.linear, weight=weight)
    own = kernels() if weight.dtype == torch.float32 else None
    if own is None:
        return _blocked_product(weight)
    return partial(own.product, panels=own.panels(weight), outputs=len(weight))


# The two operations of PyTorch's own compiler for weights that it may freeze; PyTorch has no public name for them.
def _blocked_product(weight: Tensor) -> Product:
    if not _has_blocks(weight.dtype):
        return partial(F.linear, weight=weight)
    blocked = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None)
    return lambda x: torch.ops.mkldnn._linear_pointwise(x, blocked, None, "none", [], "")


# The compiler cannot follow such products, so it takes every one without gradients as one operation.
def _opaque(x: Tensor, weight: Tensor) -> Tensor:
    product = _products.get(_key(weight, x.dtype))
    return F.linear(x, weight.to(x.dtype)) if product is None else product(x)


torch.library.define("radar::linear", "(Tensor x, Tensor weight) -> Tensor")
torch.library.impl("radar::linear", ("cpu", "cuda"), _opaque)


def _fake(x: Tensor, weight: Tensor) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


torch.library.register_fake("radar::linear", _fake)
