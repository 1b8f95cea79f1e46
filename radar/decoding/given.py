"""Orders where some cells are given: these come first, in the groups that they had, and the others follow in theirs.

Legend: N cells, K steps. A hole is what is not given.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from radar.decoding.groups import group_sizes, step_sizes


class Restricted(NamedTuple):
    """An order whose first cells are given.

    Attributes:
        step: (N,) step of each cell.
        sizes: cells of each step.
        given: how many cells are given; the ranks from 0 on.
    """

    step: Tensor
    sizes: list[int]
    given: int

    @property
    def steps(self) -> int:
        """K: steps that decode the hole."""
        return int((torch.tensor(self.sizes).cumsum(0) > self.given).sum())


def given_first(step: Tensor, hidden: Tensor) -> Restricted:
    """Put the given cells of an order in front of the `hidden` ones (N,); each part keeps its groups, in sequence.

    >>> given_first(torch.tensor([0, 1, 1, 2, 2]), torch.tensor([True, False, True, False, True])).step.tolist()
    [2, 0, 3, 1, 4]
    """
    return Restricted(found := _dense(step + hidden * (int(step.max()) + 1)), step_sizes(found), int((~hidden).sum()))


def cut_again(step: Tensor, hidden: Tensor, ranking: Tensor, steps: int, schedule: str) -> Restricted:
    """As `given_first`, but cut the hole into K groups by a schedule, in the sequence of `ranking` (N,).

    A hole of fewer cells is decoded cell by cell.
    """
    cells = torch.nonzero(hidden).flatten()
    if not len(cells):
        return given_first(step, hidden)
    step, cells = step.clone(), cells[ranking[cells].argsort(stable=True)]
    sizes = group_sizes(len(cells), min(steps, len(cells)), schedule)
    step[cells] = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    return given_first(step, hidden)


def known_first(step: Tensor, hidden: Tensor) -> Restricted:
    """Let the given cells take the first places, whatever their steps: the hole is what the later steps decode.

    For orders that sampling finds, whose steps say only how many cells follow when (MaskGIT, arXiv 2202.04200).
    """
    rank = given_first(step, hidden).step.argsort(stable=True).argsort()
    return given_first(step.sort().values[rank], hidden)


def _dense(step: Tensor) -> Tensor:
    found: Tensor = step.unique(return_inverse=True)[1]
    return found
