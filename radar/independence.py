"""The independence gap: what decoding a group of cells in parallel costs, in nats, before any training [ours].

A group drawn in parallel is drawn as if its cells were independent given the past. The cost is the conditional total
correlation of the group, summed over the steps. For a Gaussian field it is closed-form (docs/method.md, section 3).
Legend: N cells, K steps.
"""

import torch
from torch import Tensor


def exponential_covariance(h: int, w: int, length: float = 4.0, nugget: float = 1e-4) -> Tensor:
    """Covariance (N, N) float64 of a stationary field on the grid: exp(-distance / length) + nugget * I."""
    rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    places = torch.stack([rows.flatten(), columns.flatten()], dim=1).double()
    return torch.exp(-torch.cdist(places, places) / length) + nugget * torch.eye(h * w, dtype=torch.float64)


def independence_gap(step: Tensor, covariance: Tensor) -> Tensor:
    """Gap per step in nats, (K,) float64: 0.5 * (sum log diag S - logdet S) with S the group's Schur complement.

    Args:
        step: (N,) the step of each cell.
        covariance: (N, N) of the field, positive definite.
    """
    # The Schur complement of a group given all earlier ones is L L^T of the group's diagonal block of the Cholesky
    # factor, if the cells stand in decoding order: one factorisation serves all steps.
    sequence = step.argsort(stable=True)
    factor = torch.linalg.cholesky(covariance.double()[sequence][:, sequence])
    # log diag S is a sum over the row of the block; logdet S a sum of log squares of the factor's diagonal.
    same = step[sequence][:, None] == step[sequence][None]
    variance = (factor.square() * same).sum(1)
    excess = 0.5 * (variance.log() - factor.diagonal().square().log())
    return torch.zeros(int(step.max()) + 1, dtype=torch.float64).index_add(0, step[sequence], excess)
