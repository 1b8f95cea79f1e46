"""Groups of cells that are decoded together: their sizes, and what a step vector says of them.

Legend: N = h * w cells, K steps, B images.
"""

import math
from collections.abc import Callable, Sequence
from itertools import groupby

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from radar.config.lookup import choose
from radar.errors import InputError

Keys = NDArray[np.float64]


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

    Args:
        cells: N.
        steps: K.
        schedule: how the sizes run, a name of SCHEDULES.

    Raises InputError where 1 <= K <= N does not hold, or for an unknown schedule.

    >>> group_sizes(16, 4, "cosine")
    [1, 4, 5, 6]
    """
    curve = choose("schedule", schedule, SCHEDULES)
    if not 1 <= steps <= cells:
        raise InputError(f"order.steps={steps} is not possible: a grid of {cells} cells takes 1..{cells} steps")
    known = [0]
    for step, fraction in enumerate(curve(np.arange(1, steps + 1) / steps), start=1):
        known.append(int(np.clip(np.rint(cells * fraction), known[-1] + 1, cells - (steps - step))))
    return np.diff(known).tolist()


def step_sizes(step: Tensor) -> list[int]:
    """Count the cells of each step: K sizes that sum to N. `step` is (N,) or (B, N) with equal sizes in each row.

    >>> step_sizes(torch.tensor([1, 1, 0, 1, 2]))
    [1, 3, 1]
    """
    sizes: list[int] = torch.bincount(step.reshape(-1, step.shape[-1])[0]).tolist()
    return sizes


def sizes_text(sizes: Sequence[int]) -> str:
    """Write group sizes, equal ones in a row as 64x1."""
    runs = [(size, len(list(run))) for size, run in groupby(sizes)]
    return " ".join(f"{count}x{size}" if count > 2 else " ".join([str(size)] * count) for size, count in runs)


def decode_permutation(step: Tensor) -> Tensor:
    """List the cells in decoding order: (N,) -> (N,), (B, N) -> (B, N); inside a step by cell number.

    >>> decode_permutation(torch.tensor([2, 0, 1, 0])).tolist()
    [1, 3, 2, 0]
    """
    return step.argsort(dim=-1, stable=True)


def adjacent_share(step: Tensor, h: int, w: int) -> float:
    """Share of the 4-adjacent pairs of cells that are decoded in one step (0 on a 1x1 grid)."""
    grid = step.view(h, w)
    pairs = torch.cat([(grid[1:] == grid[:-1]).flatten(), (grid[:, 1:] == grid[:, :-1]).flatten()])
    return float(pairs.float().mean()) if len(pairs) else 0.0


def known_neighbours(step: Tensor, h: int, w: int, first: float = 1.0) -> float:
    """Mean share of a cell's 4-adjacent neighbours that are known when it is decoded (0 on a 1x1 grid).

    Args:
        step: (N,).
        h, w: sides of the grid.
        first: share of the cells that it is the mean of, the first and what is decoded together with them. Over all
            cells it says little: of two neighbours, one is known before the other, or they are decoded together.

    >>> known_neighbours(torch.arange(4), 2, 2), known_neighbours(torch.arange(4), 2, 2, first=0.5)
    (0.5, 0.25)
    """
    grid = F.pad(step.view(h, w).float(), (1, 1, 1, 1), value=math.nan)
    around = torch.stack([grid[:-2, 1:-1], grid[2:, 1:-1], grid[1:-1, :-2], grid[1:-1, 2:]])
    known, there = (around < grid[1:-1, 1:-1]).sum(0), (~around.isnan()).sum(0)
    early = step <= step.sort().values[max(1, round(len(step) * first)) - 1]
    return float((known / there.clamp(min=1)).flatten()[early].mean())
