"""Orders that grow around cells, or into a hole. Legend: N = h*w cells in row-major order.

Each returns keys (R, N), as radar/decoding/orders.py says. RadAR (arXiv 2512.24639) gives concentric rings from a start
token [paper]; metric, rounding and start cell are ours [ours].
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from radar.config.lookup import choose
from radar.decoding.scans import Keys, rows_and_columns
from radar.errors import InputError

Cell = Sequence[int]

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
    rows, columns = rows_and_columns(h, w)
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
    rows, columns = rows_and_columns(h, w)
    if given is None or not given.any():
        distance = np.minimum.reduce([rows + 1, h - rows, columns + 1, w - columns])
    else:
        away = (np.abs(axis[:, None] - axis[given]) for axis in (rows, columns))
        distance = measure(*away).min(1)
    return np.stack([np.ceil(distance), distance])


VAR_SIDES = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)  # of VAR's scales (arXiv 2404.02905) for 16x16 cells


def crops(h: int, w: int, sides: Sequence[int] | None = None) -> Keys:
    """Squares around the middle, each holding the one before: a step decodes what it adds, a frame or an L [ours].

    A probable reading of RadAR's "inside-out" regions [unknown]. By default the sides are those of VAR's scales, in
    proportion to the grid's longer side: ten squares on 16x16 cells. On a grid that is no square they are cut off.
    Raises InputError for sides that do not grow from 1 or more to the grid's longer side.

    >>> crops(4, 4, [2, 3, 4])[0].reshape(4, 4).astype(int).tolist()
    [[1, 1, 1, 2], [1, 0, 0, 2], [1, 0, 0, 2], [2, 2, 2, 2]]
    """
    side = max(h, w)
    sides = var_sides(side) if sides is None else sides
    if not sides or sides[0] < 1 or sides[-1] != side or list(sides) != sorted(set(sides)):
        raise InputError(
            f"order.sides={list(sides)} is not possible: they must grow, from at least 1 to {side}, the longer side of "
            f"the {h}x{w} grid"
        )
    rows, columns = rows_and_columns(h, w)
    outside = np.zeros(h * w)
    for crop in sides[:-1]:
        row, column = (h - crop) // 2, (w - crop) // 2
        inside = (rows >= row) & (rows < row + crop) & (columns >= column) & (columns < column + crop)
        outside += ~inside
    step = np.unique(outside, return_inverse=True)[1].astype(np.float64)
    return np.stack([step, np.hypot(rows - (h - 1) / 2, columns - (w - 1) / 2)])


def var_sides(side: int) -> list[int]:
    """Sides of VAR's scales in proportion to the last, the first of one cell.

    >>> var_sides(8), var_sides(24)
    ([1, 2, 3, 4, 5, 7, 8], [1, 3, 5, 6, 8, 9, 12, 15, 20, 24])
    """
    return sorted({1, *(-(-each * side // VAR_SIDES[-1]) for each in VAR_SIDES[1:])})


def scales(h: int, w: int, sides: Sequence[int] | None = None) -> Keys:
    """Scale after scale of a tokenizer `multiscale` (VAR, arXiv 2404.02905), whose cells are one row.

    By default the sides are those of VAR's scales, in proportion to whichever last one gives so many cells. Raises
    InputError where the cells are not those of such scales.
    """
    known = [var_sides(side) for side in range(1, 65)] if sides is None else [list(sides)]
    found = next((each for each in known if sum(side**2 for side in each) == w), None)
    if h != 1 or found is None:
        asked = "order 'scales'" if sides is None else f"order.sides={list(sides)}"
        raise InputError(
            f"{asked} is not possible on {h}x{w} cells: those of a tokenizer 'multiscale' expected, as in the "
            "configuration digits_var"
        )
    return np.repeat(np.arange(len(found)), [side**2 for side in found])[None].astype(np.float64)
