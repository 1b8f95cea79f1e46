"""Linear layers in training on a CPU: products by oneDNN, where PyTorch by itself takes those of its BLAS library.

That is MKL as a rule, which on an AMD processor is slower (benchmarks/NOTES.md, "A training step on a CPU").
Legend: ... any sizes, R rows (their product), I inputs, O outputs.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.flop_counter import flop_registry, register_flop_formula

LEAST_WEIGHTS = 2**17  # of a layer, as in sampling: smaller ones gained nothing clear
LEAST_ROWS = 64  # for fewer it was not tried
HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        dx = _product(grad, weight.t()) if ctx.needs_input_grad[0] else None
        # Sums over rows are as fast in PyTorch's own product, which takes both sides as they lie.
        dw = grad.t() @ x if ctx.needs_input_grad[1] else None
        return dx, dw


def _product(x: Tensor, weight: Tensor) -> Tensor:
    """(R, I) times (O, I): (R, O); the operation of PyTorch's own compiler, which has no public name."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")  # type: ignore[no-any-return]


def _operations(x: torch.Size, weight: torch.Size, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return 2 * x.numel() * weight[0]


if HAS_ONEDNN and torch.ops.mkldnn._linear_pointwise not in flop_registry:
    register_flop_formula(torch.ops.mkldnn._linear_pointwise)(_operations)


def trained_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The same as F.linear: (..., I) -> (..., O)."""
    if not _by_onednn(x, weight):
        return F.linear(x, weight, bias)
    found = _Linear.apply(x.flatten(0, -2), weight).unflatten(0, x.shape[:-1])  # type: ignore[no-untyped-call]
    return found if bias is None else found + bias  # type: ignore[no-any-return]


def _by_onednn(x: Tensor, weight: Tensor) -> bool:
    """Whether a product of plain float32 tensors of a CPU is worth it; not fake ones, which plan a training."""
    if weight.numel() < LEAST_WEIGHTS or x.shape[:-1].numel() < LEAST_ROWS or x.device.type != "cpu":
        return False
    plain = all(type(each) in (Tensor, nn.Parameter) and each.dtype == torch.float32 for each in (x, weight))
    if not plain or torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"):
        return False
    return HAS_ONEDNN and bool(torch.backends.mkldnn.enabled)
