"""Decoding orders: plain functions from a grid to a ranking of its cells, and the step vector made of it.

Legend: N = h*w cells in row-major order, K steps, R keys.

An order function returns `keys: (R, N)`. Cells with an equal first key are decoded in one step (this is the
*natural* grouping); the further keys, then the cell number, only break ties when the ranking is cut into another
number of groups. To add an order, write one function and add one line to ORDERS.
Definitions: RadAR (arXiv 2512.24639) gives concentric rings from a start token [paper]; metric, rounding, start
cell and everything about regrouping are ours [ours].
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import qmc
from torch import Tensor

from radar.errors import InputError
from radar.optimised import optimised
from radar.options import OrderConfig
from radar.variants import call, choose, takes

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


def halton(h: int, w: int) -> Keys:
    """Cells in the order of their first visit by the Halton sequence, bases 2 and 3 (arXiv 2503.17076): spread out."""
    order: dict[int, None] = {}
    points = qmc.Halton(d=2, scramble=False)
    while len(order) < h * w:
        row, col = (points.random(4 * h * w) * (h, w)).astype(np.int64).T
        order.update(dict.fromkeys((row * w + col).tolist()))
    return np.argsort(list(order)).astype(np.float64)[None]


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
    place = np.zeros(h * w, dtype=np.int64)
    for number in np.unique(region):
        place[region == number] = np.arange((region == number).sum())
    return np.where(place == 0, region, regions + place).astype(np.float64)[None]


def lpd(h: int, w: int, sizes: Sequence[int], seed: int = 0) -> Keys:
    """LPD (arXiv 2507.01957): near to what is known, far from each other, for groups of the given sizes.

    Cells whose proximity (the sum of 1 / distance over known cells among the 8 around) reaches 1 are taken in its
    order, ties by `seed`, unless they touch one already in the group; what is missing then is taken farthest from it.
    """
    rng, cells = np.random.default_rng(seed), np.stack(_grid(h, w), 1)
    step, near = np.full(h * w, -1, dtype=np.int64), np.zeros(h * w)
    for k, size in enumerate(sizes):
        group = np.empty(0, dtype=np.int64)
        free = rng.permutation(np.flatnonzero(step < 0))
        for cell in free[np.argsort(-near[free], kind="stable")]:
            apart = np.abs(cells[group] - cells[cell]).max(1, initial=0) > 1
            if len(group) < size and near[cell] >= 1 and apart.all():
                group = np.append(group, cell)
        while len(group) < size:
            rest = free[~np.isin(free, group)]
            gaps = np.hypot(*(cells[rest][:, None] - cells[group]).transpose(2, 0, 1)).min(1, initial=np.inf)
            group = np.append(group, rest[gaps.argmax()])
        step[group] = k
        distance = np.hypot(*(cells[:, None] - cells[group]).transpose(2, 0, 1))
        near += np.where((distance > 0) & (distance < 1.5), 1 / np.maximum(distance, 1), 0).sum(1)
    return step.astype(np.float64)[None]


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
        centers = [(r, c) for r in sorted({h // 4, h * 3 // 4}) for c in sorted({w // 4, w * 3 // 4})]
    if not centers:
        raise InputError("order.centers is empty: give at least one [row, column]")
    measure, quantise = choose("distance metric", metric, DISTANCES), choose("rounding", rounding, ROUNDINGS)
    rows, columns = _grid(h, w)
    distance = np.full(h * w, np.inf)
    for center in centers:
        row, col = _inside(center, h, w)
        distance = np.minimum(distance, measure(np.abs(rows - row), np.abs(columns - col)))
    return np.stack([quantise(distance), distance])


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


def _cosine(x: Keys) -> Keys:
    return 1 - np.cos(np.pi / 2 * x)


def _arccos(x: Keys) -> Keys:
    return 1 - np.arccos(x) * 2 / np.pi


# Fraction of the cells that is known after a fraction x of the steps. Names say how the group *sizes* run: MaskGIT's
# `linear` mask schedule (arXiv 2202.04200) is `constant` here; `arccos` is as in ARPG (arXiv 2503.10568).
SCHEDULES: dict[str, Callable[[Keys], Keys]] = {
    "constant": lambda x: x,
    "linear": np.square,  # group sizes grow linearly
    "cosine": _cosine,
    "arccos": _arccos,
}


def group_sizes(cells: int, steps: int, schedule: str = "constant") -> list[int]:
    """Cut N cells into exactly K non-empty groups whose sizes follow the schedule.

    Raises InputError where 1 <= K <= N does not hold, or for an unknown schedule.
    """
    curve = choose("schedule", schedule, SCHEDULES)
    if not 1 <= steps <= cells:
        raise InputError(f"order.steps={steps} is not possible: a grid of {cells} cells takes 1..{cells} steps")
    known = [0]
    for step, fraction in enumerate(curve(np.arange(1, steps + 1) / steps), start=1):
        known.append(int(np.clip(np.rint(cells * fraction), known[-1] + 1, cells - (steps - step))))
    return np.diff(known).tolist()


BY_SIZES = 20 / 16  # steps per cell of the side


def decode_steps(order: OrderConfig, h: int, w: int) -> Tensor:
    """Build the step vector (N,) int64 of an order on an h x w grid: the step at which each cell is decoded.

    Values are exactly 0..K-1. Without `steps` and `schedule` the natural grouping is kept; otherwise the same ranking
    is cut into exactly `steps` groups (default: as many as natural) of the scheduled sizes (default: constant). An
    order that is made for group sizes gets those (default: cosine, and LPD's 20 steps for 16x16, else in proportion to
    the side).
    Raises InputError for an unknown order or option, or if K groups are not possible.
    """
    options: dict[str, object] = {"center": order.center, "centers": order.centers, "metric": order.metric}
    options |= {"rounding": order.rounding, "seed": order.seed, "regions": order.regions, "length": order.length}
    options |= {"nearness": order.nearness, "covariance": order.covariance}
    if takes(order.name, ORDERS, "sizes"):
        count = min(h * w, round(BY_SIZES * math.sqrt(h * w))) if order.steps is None else order.steps
        options["sizes"] = group_sizes(h * w, count, order.schedule or "cosine")
        if takes(order.name, ORDERS, "free"):
            options["free"] = order.schedule is None
        order = replace(order, schedule=None)
    keys = call("order", order.name, ORDERS, h, w, **options)
    natural: NDArray[np.int64] = np.unique(keys[0], return_inverse=True)[1]
    count = int(natural.max()) + 1
    if order.schedule is None and order.steps in (None, count):
        return torch.from_numpy(natural)
    steps = count if order.steps is None else order.steps
    sizes = group_sizes(h * w, steps, order.schedule or "constant")
    step = np.empty(h * w, dtype=np.int64)
    step[np.lexsort(keys[::-1])] = np.repeat(np.arange(len(sizes)), sizes)
    return torch.from_numpy(step)


def step_sizes(step: Tensor) -> list[int]:
    """Count the cells of each step: K sizes that sum to N. `step` is (N,) or (B, N) with equal sizes in each row."""
    sizes: list[int] = torch.bincount(step.reshape(-1, step.shape[-1])[0]).tolist()
    return sizes


def decode_sequence(step: Tensor) -> Tensor:
    """List the cells in decoding order: (N,) -> (N,), (B, N) -> (B, N); inside a step by cell number."""
    return step.argsort(dim=-1, stable=True)


def adjacent_share(step: Tensor, h: int, w: int) -> float:
    """Share of the 4-adjacent pairs of cells that are decoded in one step (0 on a 1x1 grid)."""
    grid = step.view(h, w)
    pairs = torch.cat([(grid[1:] == grid[:-1]).flatten(), (grid[:, 1:] == grid[:, :-1]).flatten()])
    return float(pairs.float().mean()) if len(pairs) else 0.0


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
    "regions": regions,
    "lpd": lpd,
    "optimised": optimised,
}
