"""Decoding orders by name, without a configuration: `radar.orders.steps("radial", (16, 16))`.

Legend: N = h*w cells, row by row.
"""

from torch import Tensor

from radar.config.load import parse_order
from radar.decoding.groups import decode_permutation, step_sizes
from radar.decoding.orders import ORDERS, decode_steps
from radar.decoding.total_correlation import exponential_covariance, independence_gap
from radar.errors import InputError

__all__ = ["ORDERS", "gap", "names", "permutation", "sizes", "steps"]

Grid = tuple[int, int]


def names() -> tuple[str, ...]:
    """All orders; more are added to ORDERS, a dict."""
    return tuple(ORDERS)


def steps(order: str, grid: Grid) -> Tensor:
    """Step (N,) at which an order decodes each cell, or (M, N) for one that is another for every image.

    `order` is a name, with options behind colons. Raises InputError for an unknown name or option.

    >>> steps("radial", (4, 4)).view(4, 4).tolist()
    [[3, 3, 2, 3], [3, 2, 1, 2], [2, 1, 0, 1], [3, 2, 1, 2]]
    >>> sizes("halton:steps=4:schedule=cosine", (8, 8))
    [5, 14, 21, 24]
    """
    if not isinstance(order, str):
        raise InputError(f"an order of type {type(order).__name__}: a name, with options behind colons, expected")
    return decode_steps(parse_order(order), *grid)


def sizes(order: str, grid: Grid) -> list[int]:
    """Cells of each step."""
    return step_sizes(steps(order, grid))


def permutation(order: str, grid: Grid) -> Tensor:
    """Cells (N,) in decoding order."""
    return decode_permutation(steps(order, grid))


def gap(order: str, grid: Grid, length: float = 4.0) -> Tensor:
    """What decoding each step in parallel costs (K,), in nats, on a Gaussian field of that length scale in cells."""
    return independence_gap(steps(order, grid), exponential_covariance(*grid, length))
