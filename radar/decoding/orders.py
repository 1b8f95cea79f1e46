"""Decoding orders: plain functions from a grid to a ranking of its cells, and the step vector made of it.

Legend: N = h*w cells in row-major order, K steps, R keys, M images.

An order function returns `keys: (R, N)`, or one such ranking per image, (M, R, N). Cells with an equal first key are
decoded in one step (this is the *natural* grouping); the further keys, then the cell number, only break ties when the
ranking is cut into another number of groups. To add an order, write one function and add one line to ORDERS.
Definitions: RadAR (arXiv 2512.24639) gives concentric rings from a start token [paper]; metric, rounding, start
cell and everything about regrouping are ours [ours].
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import qmc
from torch import Tensor

from radar.config.load import parse_order
from radar.config.lookup import call, choose, takes
from radar.config.options import OrderConfig
from radar.decoding.groups import group_sizes, step_sizes
from radar.decoding.lpd import lpd
from radar.decoding.optimised import optimised
from radar.decoding.order_file import file_order
from radar.errors import InputError

Keys = NDArray[np.float64]
Cell = Sequence[int]


def _grid(h: int, w: int) -> tuple[Keys, Keys]:
    rows, columns = np.divmod(np.arange(h * w), w)
    return rows.astype(np.float64), columns.astype(np.float64)


def raster(h: int, w: int) -> Keys:
    """Row by row, left to right; one cell per step."""
    return np.arange(h * w, dtype=np.float64)[None]


def column(h: int, w: int) -> Keys:
    """Column by column, top to bottom; one cell per step."""
    rows, columns = _grid(h, w)
    return (columns * h + rows)[None]


def snake(h: int, w: int) -> Keys:
    """Row by row, every second row from right to left; one cell per step."""
    rows, columns = _grid(h, w)
    return (rows * w + np.where(rows % 2 == 0, columns, w - 1 - columns))[None]


def diagonal(h: int, w: int) -> Keys:
    """Anti-diagonals from the top left corner, one diagonal per step: h + w - 1 steps (as in NAR, arXiv 2503.10696)."""
    rows, columns = _grid(h, w)
    return (rows + columns)[None]


def zcurve(h: int, w: int) -> Keys:
    """Morton order (interleaved bits of row and column); one cell per step, on grids of any size."""
    rows, columns = (axis.astype(np.int64) for axis in _grid(h, w))
    code = np.zeros(h * w, dtype=np.int64)
    for bit in range(max(h, w).bit_length()):
        code |= ((columns >> bit & 1) << 2 * bit) | ((rows >> bit & 1) << (2 * bit + 1))
    return code.argsort().argsort().astype(np.float64)[None]


def spiral_in(h: int, w: int) -> Keys:
    """Clockwise from the top left corner to the middle; one cell per step."""
    left = np.arange(h * w).reshape(h, w)
    path: list[int] = []
    while left.size:
        path.extend(left[0].tolist())
        left = np.rot90(left[1:])
    return np.argsort(path).astype(np.float64)[None]


def spiral_out(h: int, w: int) -> Keys:
    """`spiral_in` walked backwards, from the middle to the top left corner."""
    return h * w - 1 - spiral_in(h, w)


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
    rows, columns = (axis.astype(np.int64) for axis in _grid(h, w))
    region = rows * side // h * side + columns * side // w
    position = np.zeros(h * w, dtype=np.int64)
    for number in np.unique(region):
        position[region == number] = np.arange((region == number).sum())
    return np.where(position == 0, region, regions + position).astype(np.float64)[None]


DISTANCES: dict[str, Callable[[Keys, Keys], Keys]] = {
    "euclidean": np.hypot,
    "chebyshev": np.maximum,
    "manhattan": np.add,
}
ROUNDINGS: dict[str, Callable[[Keys], Keys]] = {"ceil": np.ceil, "round": np.rint, "floor": np.floor}


def multi_center(
    h: int,
    w: int,
    centers: Sequence[Cell] | None = None,
    metric: str = "euclidean",
    rounding: str = "ceil",
) -> Keys:
    """Rings around several start cells at once: the rounded distance to the nearest of them [ours].

    `centers` are (row, column) pairs; the default is the middle of each quadrant. Raises InputError for a centre
    outside the grid, an unknown metric or rounding.
    """
    if centers is None:
        centers = quarter_centers(h, w)
    if not centers:
        raise InputError("order.centers is empty: give at least one [row, column]")
    measure, quantise = choose("distance metric", metric, DISTANCES), choose("rounding", rounding, ROUNDINGS)
    rows, columns = _grid(h, w)
    distance = np.full(h * w, np.inf)
    for center in centers:
        row, col = _inside(center, h, w)
        distance = np.minimum(distance, measure(np.abs(rows - row), np.abs(columns - col)))
    return np.stack([quantise(distance), distance])


def quarter_centers(h: int, w: int) -> list[Cell]:
    """Return the middle cell of each quadrant."""
    return [[row, column] for row in sorted({h // 4, h * 3 // 4}) for column in sorted({w // 4, w * 3 // 4})]


def _inside(cell: Cell, h: int, w: int) -> Cell:
    if len(cell) != 2:
        raise InputError(f"start cell {list(cell)} is not a [row, column] pair")
    if not (0 <= cell[0] < h and 0 <= cell[1] < w):
        raise InputError(f"start cell {list(cell)} is outside the {h}x{w} grid (rows 0..{h - 1}, columns 0..{w - 1})")
    return cell


def radial(h: int, w: int, center: Cell | None = None, metric: str = "euclidean", rounding: str = "ceil") -> Keys:
    """Concentric rings around one start cell, by default (h // 2, w // 2): RadAR-style.

    Rings by distance are the paper's [paper]; it does not give the metric [unknown]. Euclidean-ceil is our default
    because it turns 256 cells into the paper's 13 steps.
    """
    return multi_center(h, w, [(h // 2, w // 2) if center is None else center], metric, rounding)


def inwards(h: int, w: int, given: NDArray[np.bool_] | None = None, metric: str = "euclidean") -> Keys:
    """From the border of a hole to its middle: the rounded distance to the nearest known cell, for inpainting [ours].

    `given` (N,) says which cells are known; where none is, the known ones are those around the grid.
    Raises InputError for an unknown metric.
    """
    measure = choose("distance metric", metric, DISTANCES)
    rows, columns = _grid(h, w)
    if given is None or not given.any():
        distance = np.minimum.reduce([rows + 1, h - rows, columns + 1, w - columns])
    else:
        away = (np.abs(axis[:, None] - axis[given]) for axis in (rows, columns))
        distance = measure(*away).min(1)
    return np.stack([np.ceil(distance), distance])


BY_SIZES = 20 / 16  # steps per cell of the side
GROUPING = (
    "sizes",
    "sizes_of",
    "steps",
    "schedule",
)  # options that cut a ranking; the first two alone


def decode_steps(order: OrderConfig, h: int, w: int, given: Tensor | None = None) -> Tensor:
    """Build the step vector (N,) int64 of an order on an h x w grid: the step at which each cell is decoded.

    Values are exactly 0..K-1. An order of one ranking per image gives (M, N), all with equal group sizes.
    Without `steps`, `schedule`, `sizes` and `sizes_of` the natural grouping is kept, as with `steps` where there are
    that many groups; otherwise the same ranking is cut into groups of the sizes that these ask for. An order that is
    made for group sizes gets those (default: cosine, and LPD's 20 steps for 16x16, else in proportion to the side).

    Args:
        order: name and options.
        h, w: sides of the grid, N = h * w.
        given: (N,) True where a cell is known before; by orders that look at it.

    Raises InputError for an unknown order or option, or if such groups are not possible.

    >>> decode_steps(OrderConfig(name="radial"), 4, 4).view(4, 4).tolist()
    [[3, 3, 2, 3], [3, 2, 1, 2], [2, 1, 0, 1], [3, 2, 1, 2]]
    """
    sizes = given_sizes(order, h, w)
    options = {key: value for key, value in vars(order).items() if key not in ("name", *GROUPING)}
    if takes(order.name, ORDERS, "sizes"):
        count = min(h * w, round(BY_SIZES * math.sqrt(h * w))) if order.steps is None else order.steps
        options["sizes"] = sizes or group_sizes(h * w, count, order.schedule or "cosine")
        if takes(order.name, ORDERS, "free"):
            options["free"] = sizes is None and order.schedule is None
        order, sizes = replace(order, schedule=None, steps=None), None
    if given is not None and takes(order.name, ORDERS, "given"):
        options["given"] = given.numpy()
    keys = call("order", order.name, ORDERS, h, w, **options)
    each = [_cut(ranking, order, sizes) for ranking in keys.reshape(-1, *keys.shape[-2:])]
    return torch.from_numpy(np.stack(each) if keys.ndim == 3 else each[0])


def _cut(keys: Keys, order: OrderConfig, asked: list[int] | None) -> NDArray[np.int64]:
    """Step (N,) of one ranking: its natural groups, or others if they are asked for."""
    natural: NDArray[np.int64] = np.unique(keys[0], return_inverse=True)[1]
    count = int(natural.max()) + 1
    if asked is None and order.schedule is None and order.steps in (None, count):
        return natural
    steps = count if order.steps is None else order.steps
    sizes = asked or group_sizes(len(natural), steps, order.schedule or "constant")
    step = np.empty(len(natural), dtype=np.int64)
    step[np.lexsort(keys[::-1])] = np.repeat(np.arange(len(sizes)), sizes)
    return step


def given_sizes(order: OrderConfig, h: int, w: int) -> list[int] | None:
    """Group sizes that `sizes` or `sizes_of` give, if one of them does; raises InputError if they are not possible."""
    ways = [key for key in GROUPING if getattr(order, key) is not None]
    if not ways or ways[0] not in GROUPING[:2]:
        return None
    if len(ways) > 1:
        raise InputError(f"order.{ways[1]} has no effect: the group sizes are those of order.{ways[0]}")
    if order.sizes_of is not None:
        return step_sizes(decode_steps(parse_order(order.sizes_of), h, w))
    sizes = order.sizes or []
    if sum(sizes) != h * w or min(sizes, default=0) < 1:
        raise InputError(
            f"order.sizes={sizes} is not possible: sizes of at least 1 that sum to {h * w} expected (sum {sum(sizes)})"
        )
    return list(sizes)


ORDERS: dict[str, Callable[..., Keys]] = {
    "raster": raster,
    "column": column,
    "snake": snake,
    "diagonal": diagonal,
    "zcurve": zcurve,
    "spiral_in": spiral_in,
    "spiral_out": spiral_out,
    "random": random,
    "halton": halton,
    "radial": radial,
    "multi_center": multi_center,
    "inwards": inwards,
    "regions": regions,
    "lpd": lpd,
    "optimised": optimised,
    "file": file_order,
}
