"""Orders that come as data: the step of every cell, from an .npy file.

Legend: N cells, M images, K steps.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from radar.errors import InputError

Steps = NDArray[np.int64]


def file_order(h: int, w: int, path: str = "") -> NDArray[np.float64]:
    """Steps learned or measured elsewhere: an .npy file of integers, (N,) or one order per image, (M, N).

    Image i, of a split or of the sampler, has row i modulo M. Values are those of a step vector: 0 to K - 1, none
    missing; all rows have equal group sizes, since slots depend on these. Raises InputError for any other file.
    """
    steps = read_steps(path, h * w)
    return steps[..., None, :].astype(np.float64)


def read_steps(path: str, cells: int) -> Steps:
    """Read and check a file of steps, (N,) or (M, N); raises InputError."""
    if not path:
        raise InputError("order 'file' needs order.path: an .npy file of the step of every cell")
    try:
        found = np.load(Path(path), allow_pickle=False)
    except (OSError, EOFError, ValueError) as error:
        raise InputError(f"order.path={path} cannot be read as .npy: {str(error).splitlines()[0]}") from error
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "iu":
        raise InputError(f"order.path={path} holds no array of whole numbers")
    if found.ndim not in (1, 2) or found.shape[-1] != cells or not len(found):
        raise InputError(f"order.path={path} has the shape {found.shape}, not ({cells},) or (images, {cells})")
    ranked = np.sort(np.atleast_2d(found).astype(np.int64), axis=1)
    broken = (ranked[:, 0] != 0) | (np.diff(ranked, axis=1) > 1).any(1)
    if broken.any():
        raise InputError(f"order.path={path}, row {broken.argmax()}: steps must be 0, 1, 2, ... with none missing")
    other = (ranked != ranked[0]).any(1)
    if other.any():
        raise InputError(f"order.path={path}, row {other.argmax()}: its group sizes are not those of row 0")
    return found.astype(np.int64)
