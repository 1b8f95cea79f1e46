"""Orders that walk over the grid along one line. Legend: N = h*w cells in row-major order.

Each returns keys (R, N), as radar/decoding/orders.py says.
"""

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.float64]


def rows_and_columns(h: int, w: int) -> tuple[Keys, Keys]:
    """Row and column (N,) of each cell."""
    rows, columns = np.divmod(np.arange(h * w), w)
    return rows.astype(np.float64), columns.astype(np.float64)


def raster(h: int, w: int) -> Keys:
    """Row by row, left to right; one cell per step."""
    return np.arange(h * w, dtype=np.float64)[None]


def column(h: int, w: int) -> Keys:
    """Column by column, top to bottom; one cell per step."""
    rows, columns = rows_and_columns(h, w)
    return (columns * h + rows)[None]


def snake(h: int, w: int) -> Keys:
    """Row by row, every second row from right to left; one cell per step."""
    rows, columns = rows_and_columns(h, w)
    return (rows * w + np.where(rows % 2 == 0, columns, w - 1 - columns))[None]


def diagonal(h: int, w: int) -> Keys:
    """Anti-diagonals from the top left corner, one diagonal per step: h + w - 1 steps (as in NAR, arXiv 2503.10696)."""
    rows, columns = rows_and_columns(h, w)
    return (rows + columns)[None]


def zcurve(h: int, w: int) -> Keys:
    """Morton order (interleaved bits of row and column); one cell per step, on grids of any size."""
    rows, columns = (axis.astype(np.int64) for axis in rows_and_columns(h, w))
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
