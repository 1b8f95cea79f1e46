"""The order of LPD (arXiv 2507.01957). Legend: N = h * w cells."""

from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.float64]


@cache
def _distances(h: int, w: int) -> Keys:
    """Distance (N, N) of every two cells."""
    rows, columns = np.divmod(np.arange(h * w), w)
    found: Keys = np.hypot(rows[:, None] - rows, columns[:, None] - columns)
    return found


def lpd(h: int, w: int, sizes: Sequence[int], seed: int = 0) -> Keys:
    """LPD (arXiv 2507.01957): near to what is known, far from each other, for groups of the given sizes.

    Cells whose proximity (the sum of 1 / distance over known cells among the 8 around) reaches 1 are taken in its
    order, ties by `seed`, unless they touch one already in the group; what is missing then is taken farthest from it.
    """
    rng, distance = np.random.default_rng(seed), _distances(h, w)
    touching = distance < 1.5
    step, near = np.full(h * w, -1, dtype=np.int64), np.zeros(h * w)
    for k, size in enumerate(sizes):
        free, group = rng.permutation(np.flatnonzero(step < 0)), list[int]()
        blocked = np.zeros(h * w, dtype=bool)
        for cell in free[np.argsort(-near[free], kind="stable")]:
            if near[cell] < 1 or len(group) == size:
                break
            if not blocked[cell]:
                group.append(int(cell))
                blocked |= touching[cell]
        gaps = distance[group].min(0, initial=np.inf)
        gaps[group] = -1
        while len(group) < size:
            cell = free[gaps[free].argmax()]
            group.append(int(cell))
            gaps = np.minimum(gaps, distance[cell])
            gaps[cell] = -1
        step[group] = k
        around = distance[group]
        near += np.where((around > 0) & (around < 1.5), 1 / np.maximum(around, 1), 0).sum(0)
    return step.astype(np.float64)[None]
