"""What training does to features and logits on a CPU, in one pass over memory each way, by our kernels where they are.

For RMSNorm, SwiGLU, turned heads and losses PyTorch goes through memory several times there.
Legend: ... any sizes, R rows, V codes, I features, B images, S slots, H heads, E head width, D = H E.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd.function import once_differentiable

from radar.kernels.build import Kernels, kernels

EPS = 1e-5  # of RMSNorm, as LlamaGen
PLAIN = (Tensor, nn.Parameter, FakeTensor)  # and not a share of a weight, for example
LEAST = 2**14  # numbers: below, the call costs more than it saves


def _own(x: Tensor, *weights: Tensor) -> Kernels | None:
    """Our kernels, where they can do this: plain float32 tensors of a CPU, also fake ones, in training."""
    plain = all(type(w) in PLAIN and w.dtype == torch.float32 for w in (x, *weights))
    if not plain or x.device.type != "cpu" or not torch.is_grad_enabled() or x.numel() < LEAST:
        return None
    return None if torch.compiler.is_compiling() else kernels()


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, own: Kernels) -> Tensor:
        x = x.contiguous()
        y, inverse = own.rms_norm(x, weight, eps)
        ctx.save_for_backward(x, weight, inverse)
        ctx.own = own
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        return *ctx.own.rms_norm_back(grad.contiguous(), *ctx.saved_tensors), None, None


class RMSNorm(nn.RMSNorm):
    """nn.RMSNorm over the last dimension."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., I) -> (..., I)."""
        if (own := _own(x, self.weight)) is None:
            return super().forward(x)
        return _RMSNorm.apply(x, self.weight, self.eps, own)  # type: ignore[no-any-return, no-untyped-call]


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, own: Kernels) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x)
        ctx.own = own
        return own.swiglu(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        return ctx.own.swiglu_back(grad.contiguous(), *ctx.saved_tensors), None


class _Heads(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, q_weight: Tensor | None, k_weight: Tensor | None, angles: Tensor, heads: int, own: Kernels
    ) -> Any:
        x, angles = x.contiguous(), angles.contiguous()
        weights = None if q_weight is None or k_weight is None else torch.stack([q_weight, k_weight])
        *found, inverse = own.heads(x, weights, angles, heads, EPS)
        ctx.save_for_backward(x, weights, angles, inverse)
        ctx.own = own
        return tuple(found)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, weights, angles, inverse = ctx.saved_tensors
        dx, dw = ctx.own.heads_back([grad.contiguous() for grad in grads], x, weights, angles, inverse)
        return dx, *((None, None) if weights is None else dw.unbind()), None, None, None


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, truth: Tensor, own: Kernels) -> Tensor:
        losses, logs = own.cross_entropy(logits, truth)
        ctx.save_for_backward(logits, truth, logs)
        ctx.own = own
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        logits, truth, logs = ctx.saved_tensors
        torch.autograd.graph.increment_version(logits)  # so that PyTorch refuses who else needs them, or a second pass
        return ctx.own.cross_entropy_back(logits, truth, logs, grad.contiguous()), None, None


_own_losses = ContextVar("own_losses", default=True)


@contextmanager
def losses_by_pytorch() -> Iterator[None]:
    """Plan losses as they are on a GPU: of norms and gates compiled code makes one operation there, not of losses."""
    token = _own_losses.set(False)
    try:
        yield
    finally:
        _own_losses.reset(token)


def cross_entropy(logits: Tensor, truth: Tensor) -> Tensor:
    """Losses (R,) in nats of logits (R, V), of which nothing else is made: their gradient may take their place."""
    own = _own(logits) if _own_losses.get() and logits.is_contiguous() and not logits.is_leaf else None
    if own is None or not _all_there(truth, logits.shape[1]):
        return F.cross_entropy(logits, truth, reduction="none")
    return _CrossEntropy.apply(logits, truth.contiguous(), own)  # type: ignore[no-any-return, no-untyped-call]


def _all_there(truth: Tensor, codes: int) -> bool:
    """Whether every right code exists: where one does not, PyTorch says so, and our kernel would not."""
    if truth.dtype != torch.int64:
        return False
    if isinstance(truth, FakeTensor):
        return True
    low, high = truth.aminmax()
    return int(low) >= 0 and int(high) < codes


def fused_heads(
    qkv: Tensor, q_norm: nn.Module, k_norm: nn.Module, angles: Tensor, heads: int
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Queries, keys and values (B, H, S, E) of qkv (B, S, 3 D), normalised and turned; None where ours cannot."""
    if {type(q_norm), type(k_norm)} not in ({RMSNorm}, {nn.Identity}):
        return None
    norms = [norm.weight for norm in (q_norm, k_norm) if isinstance(norm, RMSNorm)]
    if (own := _own(qkv, angles, *norms)) is None:
        return None
    weights = norms if norms else (None, None)
    return _Heads.apply(qkv, *weights, angles, heads, own)  # type: ignore[no-any-return, no-untyped-call]


def swiglu(x: Tensor) -> Tensor:
    """Silu of the first half of x (..., 2 I), times the second: (..., I)."""
    if (own := _own(x)) is None:
        gate, up = x.chunk(2, dim=-1)
        return F.silu(gate) * up
    return _SwiGLU.apply(x, own)  # type: ignore[no-any-return, no-untyped-call]
