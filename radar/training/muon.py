"""Muon in the precision of the weights (bfloat16 on CUDA), matrices of one shape together.

torch.optim.Muon works in bfloat16 and on one matrix at a time. A processor without products in bfloat16 takes as long
for that as for all the rest of a small model's optimizer step.
Legend: M matrices of A x B.
"""

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from radar.training.shares import share, whole

MOST = 2**26  # numbers in the matrices that are stepped together, which all devices hold whole for that


class Muon(torch.optim.Muon):
    """torch.optim.Muon with the same state and, but for rounding, the same steps (its adjust_lr_fn is "original")."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One optimizer step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            by_shape = defaultdict(list)
            for weight in group["params"]:
                if weight.grad is not None:
                    by_shape[weight.shape].append(weight)
            for weights in by_shape.values():
                most = max(1, MOST // weights[0].numel())
                for first in range(0, len(weights), most):
                    self._step(weights[first : first + most], group)
        return loss

    def _step(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        """Step matrices of one shape."""
        for weight in weights:
            if not self.state[weight]:
                self.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        momenta = [
            self.state[weight]["momentum_buffer"].lerp_(g, 1 - group["momentum"])
            for weight, g in zip(weights, gradients, strict=True)
        ]
        if group["nesterov"]:
            momenta = [g.lerp(m, group["momentum"]) for g, m in zip(gradients, momenta, strict=True)]
        changes = orthogonalised(
            torch.stack([whole(m) for m in momenta]), group["ns_coefficients"], group["ns_steps"], group["eps"]
        )
        rows, columns = weights[0].shape
        rate = group["lr"] * math.sqrt(max(1, rows / columns))
        for weight, change in zip(weights, changes, strict=True):
            weight.mul_(1 - group["lr"] * group["weight_decay"]).sub_(share(change, weight), alpha=rate)


def orthogonalised(matrices: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """Matrices (M, A, B) with singular values near 1, by the quintic Newton-Schulz iteration x -> ax + bx^3 + cx^5."""
    a, b, c = coefficients
    x = matrices.bfloat16() if matrices.device.type == "cuda" else matrices
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrices.dtype)
