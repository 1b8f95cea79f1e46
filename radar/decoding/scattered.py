"""Orders that spread over the grid. Legend: N = h*w cells in row-major order.

Each returns keys (R, N), as radar/decoding/orders.py says.
"""

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.stats import qmc

from radar.decoding.scans import Keys, rows_and_columns
from radar.errors import InputError


def together(h: int, w: int) -> Keys:
    """All cells in one step: independent of each other, given the class; what a diffusion has for an order."""
    return np.zeros((1, h * w))


def random(h: int, w: int, seed: int = 0) -> Keys:
    """Permute the cells by `seed`; natural grouping is one cell per step, `steps` and `schedule` group it."""
    return np.random.default_rng(seed).permutation(h * w).astype(np.float64)[None]


def halton(h: int, w: int, seed: int | None = None) -> Keys:
    """Cells in the order of their first visit by the Halton sequence, bases 2 and 3 (arXiv 2503.17076): spread out.

    With a seed the list begins at a random place and ends before it, as its authors do for each image.
    """
    order = _halton(h, w)
    start = 0 if seed is None else int(np.random.default_rng(seed).integers(h * w))
    return np.argsort(np.roll(order, -start)).astype(np.float64)[None]


@cache
def _halton(h: int, w: int) -> NDArray[np.int64]:
    order: dict[int, None] = {}
    points = qmc.Halton(d=2, scramble=False)
    while len(order) < h * w:
        row, col = (points.random(4 * h * w) * (h, w)).astype(np.int64).T
        order.update(dict.fromkeys((row * w + col).tolist()))
    return np.array(list(order))


def regions(h: int, w: int, regions: int = 4) -> Keys:
    """PAR (arXiv 2412.15119): a square number of regions side by side, one cell of each per step.

    Their first cells are decoded one by one, then all that stand at the same place of their region together.
    Raises InputError if the number is no square.
    """
    side = math.isqrt(regions)
    if regions < 1 or side**2 != regions:
        raise InputError(f"order.regions={regions} is not possible: it must be a square number, as 4 or 16")
    rows, columns = (axis.astype(np.int64) for axis in rows_and_columns(h, w))
    region = rows * side // h * side + columns * side // w
    position = np.zeros(h * w, dtype=np.int64)
    for number in np.unique(region):
        position[region == number] = np.arange((region == number).sum())
    return np.where(position == 0, region, regions + position).astype(np.float64)[None]


QUADRANTS = np.array([[0, 2], [3, 1]])  # top left, bottom right, top right, bottom left


def checkerboard(h: int, w: int) -> Keys:
    """Round robin over the quadrants, and inside of each over its own, and so on (arXiv 2602.03811): equally spread.

    One cell per step; `steps` cuts it into equal groups. On a grid whose sides are no power of two, what remains of the
    next larger one.

    >>> checkerboard(4, 4)[0].reshape(4, 4).astype(int).tolist()
    [[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]]
    """
    rows, columns = (axis.astype(np.int64) for axis in rows_and_columns(h, w))
    levels = (max(h, w) - 1).bit_length()
    rank = np.zeros(h * w, dtype=np.int64)
    for level in range(levels):  # the largest quadrants change fastest
        half = levels - 1 - level
        rank += QUADRANTS[rows >> half & 1, columns >> half & 1] * 4**level
    return rank.argsort().argsort().astype(np.float64)[None]
