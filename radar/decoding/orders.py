"""Decoding orders: plain functions from a grid to a ranking of its cells, and the step vector made of it.

Legend: N = h*w cells in row-major order, K steps, R keys, M images.

An order function returns `keys: (R, N)`, or one such ranking per image, (M, R, N). Cells with an equal first key are
decoded in one step (this is the *natural* grouping); the further keys, then the cell number, only break ties when the
ranking is cut into another number of groups. To add an order, write one function (beside its like: scans.py, rings.py,
scattered.py) and add one line to ORDERS. Everything about regrouping is ours [ours].
"""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from radar.config.load import parse_order
from radar.config.lookup import call, takes
from radar.config.options import OrderConfig
from radar.decoding.groups import group_sizes, step_sizes
from radar.decoding.lpd import lpd
from radar.decoding.optimised import optimised
from radar.decoding.order_file import file_order
from radar.decoding.rings import crops, inwards, multi_center, radial, scales
from radar.decoding.scans import Keys, column, diagonal, raster, snake, spiral_in, spiral_out, zcurve
from radar.decoding.scattered import checkerboard, halton, random, regions, together
from radar.errors import InputError

BY_SIZES = 20 / 16  # steps per cell of the side
GROUPING = ("sizes", "sizes_of", "steps", "schedule")  # options that cut a ranking; the first two alone


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
    _check_keys(order.name, keys, h * w)
    each = [_cut(ranking, order, sizes) for ranking in keys.reshape(-1, *keys.shape[-2:])]
    return torch.from_numpy(np.stack(each) if keys.ndim == 3 else each[0])


def _check_keys(name: str, keys: object, cells: int) -> None:
    """Refuse what is no ranking, as an order that is just being written may give it; raises InputError."""
    what = type(keys).__name__
    if isinstance(keys, np.ndarray):
        if (right := keys.ndim in (2, 3) and keys.shape[-1] == cells) and np.isfinite(keys).all():
            return
        what = f"shape {keys.shape}" + ", some not finite" * right
    raise InputError(
        f"order '{name}' gives no ranking: an array (keys, {cells}) of finite numbers expected, not {what}"
    )


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
    "together": together,
    "random": random,
    "halton": halton,
    "checkerboard": checkerboard,
    "radial": radial,
    "multi_center": multi_center,
    "crops": crops,
    "scales": scales,
    "inwards": inwards,
    "regions": regions,
    "lpd": lpd,
    "optimised": optimised,
    "file": file_order,
}
PARTICULAR = ("scales", "file")  # that not every grid has: of the tokens of a pyramid, of a file
