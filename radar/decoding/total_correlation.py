"""The independence gap: what decoding a group of cells in parallel costs, in nats, before any training [ours].

A group drawn in parallel is drawn as if its cells were independent given the past. The cost is the conditional total
correlation of the group, summed over the steps. For a Gaussian field it is closed-form (docs/method.md, section 3).
Legend: N cells, K steps.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from radar.config.lookup import choose
from radar.errors import InputError

# Correlation of two cells at distance r, in length scales: exponential is Matern 1/2.
KERNELS: dict[str, Callable[[Tensor], Tensor]] = {
    "exponential": lambda r: torch.exp(-r),
    "matern32": lambda r: (1 + 3**0.5 * r) * torch.exp(-(3**0.5) * r),
    "matern52": lambda r: (1 + 5**0.5 * r + 5 / 3 * r**2) * torch.exp(-(5**0.5) * r),
}


def kernel_covariance(kernel: str, h: int, w: int, length: float = 4.0, nugget: float = 1e-4) -> Tensor:
    """Covariance (N, N) float64 of a stationary field on the grid: kernel(distance / length) + nugget * I.

    Raises InputError for an unknown kernel, a grid without cells or a length that is not above 0.
    """
    curve = choose("kernel", kernel, KERNELS)
    if min(h, w) < 1:
        raise InputError(f"a grid of {h}x{w} is not possible: sides of at least 1")
    if not 0 < length < float("inf"):
        raise InputError(f"length={length} is not possible: it must be above 0 and finite")
    rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    positions = torch.stack([rows.flatten(), columns.flatten()], dim=1).double()
    return curve(torch.cdist(positions, positions) / length) + nugget * torch.eye(h * w, dtype=torch.float64)


def exponential_covariance(h: int, w: int, length: float = 4.0, nugget: float = 1e-4) -> Tensor:
    """Covariance (N, N) float64 of the field by which orders are compared: exp(-distance / length) + nugget * I."""
    return kernel_covariance("exponential", h, w, length, nugget)


def independence_gap(step: Tensor, covariance: Tensor) -> Tensor:
    """Gap per step in nats, (K,) float64: 0.5 * (sum log diag S - logdet S) with S the group's Schur complement.

    Args:
        step: (N,) the step of each cell; of several orders, (M, N), it is the mean. Tensors or arrays.
        covariance: (N, N) of the field, positive definite.

    Raises InputError for other shapes, and a covariance that is none.
    """
    step, covariance = (_tensor(each) for each in (step, covariance))
    _check(step, covariance)
    if step.ndim > 1:
        return torch.stack([independence_gap(one, covariance) for one in step]).mean(0)
    # The Schur complement of a group given all earlier ones is L L^T of the group's diagonal block of the Cholesky
    # factor, if the cells stand in decoding order: one factorisation serves all steps.
    permutation = step.argsort(stable=True)
    factor = torch.linalg.cholesky(covariance.double()[permutation][:, permutation])
    # log diag S is a sum over the row of the block; logdet S a sum of log squares of the factor's diagonal.
    same = step[permutation][:, None] == step[permutation][None]
    variance = (factor.square() * same).sum(1)
    excess = 0.5 * (variance.log() - factor.diagonal().square().log())
    return torch.zeros(int(step.max()) + 1, dtype=torch.float64).index_add(0, step[permutation], excess)


def _tensor(values: object) -> Tensor:
    try:
        return values if isinstance(values, Tensor) else torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{type(values).__name__} is no tensor of numbers ({error})") from error


def _check(step: Tensor, covariance: Tensor) -> None:
    cells = step.shape[-1] if step.ndim in (1, 2) else 0
    if not cells or step.is_floating_point() or tuple(covariance.shape) != (cells, cells):
        raise InputError(
            f"steps {tuple(step.shape)} {step.dtype} and a covariance {tuple(covariance.shape)} are not possible: "
            "whole numbers (N,) or (M, N), and (N, N), expected"
        )
    if torch.linalg.cholesky_ex(covariance.double()).info:
        raise InputError("the covariance is not positive definite")


class Pair(NamedTuple):
    """Two cells that are decoded in one step, and their mutual information given the past, in nats."""

    step: int
    first: int
    second: int
    nats: float


def costly_pairs(step: Tensor, covariance: Tensor, count: int) -> list[Pair]:
    """List the `count` pairs of cells that an order decodes together although they tell most about each other.

    Of several orders (M, N) those of the first.
    """
    step = step if step.ndim == 1 else step[0]
    permutation = step.argsort(stable=True)
    factor = torch.linalg.cholesky(covariance.double()[permutation][:, permutation])
    same = step[permutation][:, None] == step[permutation][None]
    # Inside a group, the Schur complement is the product of the group's diagonal block of the factor with itself.
    block = factor * same
    given = block @ block.T
    squared = given.square() / (given.diagonal()[:, None] * given.diagonal()[None])
    nats = (-0.5 * torch.log1p(-squared.clamp(max=1 - 1e-12))).masked_fill(~same, 0).triu(1)
    values, positions = nats.flatten().topk(min(count, nats.numel()))
    pairs = zip(values.tolist(), (positions // len(step)).tolist(), (positions % len(step)).tolist(), strict=True)
    cells = permutation.tolist()
    return [Pair(int(step[cells[i]]), cells[i], cells[j], value) for value, i, j in pairs if value > 0]
