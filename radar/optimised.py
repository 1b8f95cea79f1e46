"""An order computed from a covariance: groups whose cells are as independent as possible given what is known [ours].

The independence gap of an order is half the sum of the cells' log variances given the steps before theirs, less a
constant of the field (docs/method.md, section 3). So cells are chosen greedily; then cells of neighbouring steps are
swapped or moved as long as that lowers the sum, which only these two steps' cells contribute to.
Legend: N cells, K steps, n cells of two neighbouring steps.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
Cells = NDArray[np.int64]
SPREADS = (0.0, 0.003, 0.01, 0.03, 0.1, 0.3)  # tried by the greedy search
SWEEPS = 12  # over all pairs of neighbouring steps
BEST = 6  # cells of each side that are tried in swaps
TIE = 1e-9  # per variance: less than any other difference
GAIN = 1e-9  # nats; smaller ones are rounding


def optimise(covariance: Matrix, sizes: Sequence[int], free: bool = False, nearness: float = 0.0) -> Cells:
    """Step (N,) of each cell.

    Args:
        covariance: (N, N), positive definite.
        sizes: cells of each step.
        free: whether the local search may change the sizes (of a step to one cell at least).
        nearness: weight of being near to the context (LPD's first principle) against independence inside a group
            (its second): how many nats of total correlation a cell may add for each nat by which it is better known.
            0 looks for the least gap alone, and only then there is a local search.
    """
    if nearness:
        groups = greedy(covariance, sizes, -nearness)
    else:
        found = [greedy(covariance, sizes, spread) for spread in SPREADS]
        groups = found[int(np.argmin([_total(covariance, groups) for groups in found]))]
        improve(covariance, groups, free)
    step = np.empty(len(covariance), dtype=np.int64)
    for number, group in enumerate(groups):
        step[group] = number
    return step


def greedy(covariance: Matrix, sizes: Sequence[int], spread: float) -> list[Cells]:
    """Fill the groups one after the other, each time with the cell that adds the least total correlation.

    What it adds is half its log variance given the past, less that given the past and the group so far. `spread` times
    half its log variance given the past is taken off: cells that are known least come first, since later ones
    will depend on them; a negative spread prefers those that are known best. Ties go to the least known.
    """
    given = covariance.copy()  # of all cells, given the past
    left, groups = np.ones(len(covariance), dtype=bool), list[Cells]()
    for size in sizes:
        past = np.diag(given).copy()
        factor, within, group = np.zeros((len(given), size)), past.copy(), list[int]()
        for i in range(size):
            added = 0.5 * ((1 - spread) * np.log(past) - np.log(within)) - TIE * past
            cell = int(np.where(left, added, np.inf).argmin())
            column = given[:, cell] - factor[:, :i] @ factor[cell, :i]
            factor[:, i] = column / np.sqrt(column[cell])
            within = np.maximum(within - factor[:, i] ** 2, 1e-12 * past)
            group.append(cell)
            left[cell] = False
        groups.append(np.array(group))
        given = given - factor @ factor.T
        given[~left, :], given[:, ~left], given[~left, ~left] = 0, 0, 1
    return groups


def _total(covariance: Matrix, groups: Sequence[Cells]) -> float:
    """Half the log variances of all cells, each given the steps before its own: the gap but for a constant."""
    sequence, ends = np.concatenate(groups), np.cumsum([len(group) for group in groups])
    factor = np.linalg.cholesky(covariance[np.ix_(sequence, sequence)])
    step = np.repeat(np.arange(len(groups)), np.diff(ends, prepend=0))
    return float(0.5 * np.log((factor**2 * (step[:, None] == step)).sum(1)).sum())


def improve(covariance: Matrix, groups: list[Cells], free: bool) -> None:
    """Swap and move cells between neighbouring steps, in place, until nothing is gained or SWEEPS are done."""
    for _ in range(SWEEPS):
        gained, past = 0.0, np.empty(0, dtype=np.int64)
        for k in range(len(groups) - 1):
            both = np.concatenate(groups[k : k + 2])
            schur = _given(covariance, both, past)
            first = np.arange(len(both)) < len(groups[k])
            gained += _improve_pair(schur, first, free)
            groups[k], groups[k + 1] = both[first], both[~first]
            past = np.concatenate([past, groups[k]])
        if gained < GAIN:
            break


def _given(covariance: Matrix, cells: Cells, past: Cells) -> Matrix:
    """Covariance of some cells given others."""
    own = covariance[np.ix_(cells, cells)]
    if not len(past):
        return own
    across = covariance[np.ix_(past, cells)]
    known: Matrix = own - across.T @ np.linalg.solve(covariance[np.ix_(past, past)], across)
    return known


def _improve_pair(schur: Matrix, first: NDArray[np.bool_], free: bool) -> float:
    """Change which cells come first, in place, as long as it pays; return what was gained, in nats."""
    before = cost = _cost(schur, first)
    while True:
        options = _swaps(schur, first) + (_moves(first) if free else [])
        costs = [_cost(schur, option) for option in options]
        if not costs or min(costs) > cost - GAIN:
            return before - cost
        best = int(np.argmin(costs))
        first[:], cost = options[best], costs[best]


def _cost(schur: Matrix, first: NDArray[np.bool_]) -> float:
    """Half the log variances of the cells: of the first ones, and of the others given those."""
    own, across = schur[np.ix_(first, first)], schur[np.ix_(first, ~first)]
    variance = np.diag(schur)[~first] - (across * np.linalg.solve(own, across)).sum(0)
    return float(0.5 * (np.log(np.diag(own)).sum() + np.log(variance).sum()))


def _swaps(schur: Matrix, first: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    """Swaps of the cells that are worst off where they are: those most correlated with their group, and any other."""
    correlation = np.abs(schur) / np.sqrt(np.outer(np.diag(schur), np.diag(schur)))
    np.fill_diagonal(correlation, 0)
    crowd = (correlation**2 * (first[:, None] == first)).sum(1)
    a, b = (np.flatnonzero(side)[np.argsort(-crowd[side], kind="stable")[:BEST]] for side in (first, ~first))
    swapped = []
    for i in a:
        for j in b:
            option = first.copy()
            option[[i, j]] = option[[j, i]]
            swapped.append(option)
    return swapped


def _moves(first: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    """Every move of one cell to the other step, but of the last one."""
    moved = []
    for i in range(len(first)):
        option = first.copy()
        option[i] = not option[i]
        if option.any() and not option.all():
            moved.append(option)
    return moved
