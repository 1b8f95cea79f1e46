"""An order computed from a covariance: groups whose cells are as independent as possible given what is known [ours].

The independence gap of an order is half the sum of the cells' log variances given the steps before theirs, less a
constant of the field (docs/method.md, section 3). So cells are chosen greedily; then cells of neighbouring steps are
swapped or moved as long as that lowers the sum, which only these two steps' cells contribute to.
Legend: N cells, K steps, n cells of two neighbouring steps.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from radar.decoding.total_correlation import exponential_covariance
from radar.errors import InputError

Matrix = NDArray[np.float64]
Cells = NDArray[np.int64]
SPREADS = (0.0, 0.003, 0.01, 0.03, 0.1, 0.3)  # tried by the greedy search
SWEEPS = 12  # over all pairs of neighbouring steps
LENGTH = 4.0  # of the field, in cells, where none is given
TIE = 1e-9  # per variance: less than any other difference
GAIN = 1e-9  # nats; smaller ones are rounding


def optimised(
    h: int,
    w: int,
    sizes: Sequence[int],
    free: bool,
    length: float | None = None,
    nearness: float = 0.0,
    covariance: str = "",
) -> Matrix:
    """Cells of a group as independent as possible given what is known [ours]: keys for radar/decoding/orders.py.

    For a field exp(-r / length), by default exp(-r / 4), or the matrix in the file `covariance`, which `radar gap
    --save` writes. The group sizes are those given, or if `free` where the search takes them from there. With
    `nearness` above 0 cells near to the context come first, and the local search is left out. Raises InputError for an
    unusable file or option.
    """
    if not 0 <= nearness < float("inf"):
        raise InputError(f"order.nearness={nearness} is not possible: it must be at least 0 and finite")
    if covariance and length is not None:
        raise InputError(f"order.length={length:g} has no effect: the field is that of order.covariance={covariance}")
    length = LENGTH if length is None else length
    field = read_field(covariance, h, w) if covariance else exponential_covariance(h, w, length).numpy()
    return _optimised(field.tobytes(), tuple(sizes), free, nearness)


@lru_cache(maxsize=256)  # of what the field holds, and not of its file
def _optimised(field: bytes, sizes: tuple[int, ...], free: bool, nearness: float) -> Matrix:
    cells = sum(sizes)
    return optimise(np.frombuffer(field).reshape(cells, cells), sizes, free, nearness).astype(np.float64)[None]


def read_field(file: str, h: int, w: int) -> Matrix:
    """Read the covariance (N, N) that `radar gap --save` wrote; raises InputError for another file or grid."""
    try:
        field: Matrix = np.load(Path(file))["covariance"].astype(np.float64)
        np.linalg.cholesky(field)
        if not np.isfinite(field).all():
            raise ValueError("not finite")
    except (OSError, EOFError, ValueError, TypeError, LookupError, BadZipFile, np.linalg.LinAlgError) as error:
        raise InputError(f"order.covariance={file} holds no covariance ({error})") from error
    if field.shape != (h * w, h * w):
        raise InputError(f"order.covariance={file} is of {len(field)} cells, not of a {h}x{w} grid")
    return field


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
        shuffles, best = effort(len(covariance))
        found = starts(covariance, sizes, shuffles)
        found = sorted(found, key=lambda groups: _total(covariance, groups))[:best]
        for groups in found:
            improve(covariance, groups, free)
        groups = min(found, key=lambda groups: _total(covariance, groups))
    step = np.empty(len(covariance), dtype=np.int64)
    for number, group in enumerate(groups):
        step[group] = number
    return step


def effort(cells: int) -> tuple[int, int]:
    """Numberings of the cells to start from, and starts to improve; few on large grids: 32x32 in under a minute."""
    return (5, 6) if cells <= 256 else (1, 2)


def starts(covariance: Matrix, sizes: Sequence[int], shuffles: int) -> list[list[Cells]]:
    """Groups that the greedy search finds with each of SPREADS, from the cells in order and shuffled.

    In a stationary field many cells are alike, and which of them comes first decides where the local search ends.
    """
    random, found = np.random.default_rng(0), []
    for shuffle in range(shuffles):
        cells = random.permutation(len(covariance)) if shuffle else np.arange(len(covariance))
        renamed = covariance[np.ix_(cells, cells)]
        found += [[cells[group] for group in greedy(renamed, sizes, spread)] for spread in SPREADS]
    return found


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
    permutation, ends = np.concatenate(groups), np.cumsum([len(group) for group in groups])
    factor = np.linalg.cholesky(covariance[np.ix_(permutation, permutation)])
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
    """Swap two cells or move one, in place, as long as it pays; return what was gained, in nats.

    `schur` (n, n) is their covariance given the past, `first` (n,) says which belong to the earlier step.
    """
    gained = 0.0
    while True:
        swaps, removals, additions = _gains(schur, first)
        inner, outer = np.flatnonzero(first), np.flatnonzero(~first)
        i, j = np.unravel_index(int(swaps.argmax()), swaps.shape)
        best, changed = float(swaps[i, j]), [inner[i], outer[j]]
        if free and len(inner) > 1 and removals.max() > best:
            best, changed = float(removals.max()), [inner[removals.argmax()]]
        if free and len(outer) > 1 and additions.max() > best:
            best, changed = float(additions.max()), [outer[additions.argmax()]]
        if best < GAIN:
            return gained
        gained += best
        first[changed] = ~first[changed]


def _gains(schur: Matrix, first: NDArray[np.bool_]) -> tuple[Matrix, Matrix, Matrix]:
    """Nats gained by every swap (n1, n2), by every cell that leaves the earlier step (n1,) or joins it (n2,).

    All by updates of rank one of the conditional covariance of the later step's cells.
    """
    own = np.log(np.diag(schur))
    precision = np.linalg.inv(schur[np.ix_(first, first)])
    weights = precision @ schur[np.ix_(first, ~first)]  # (n1, n2)
    given = schur[np.ix_(~first, ~first)] - schur[np.ix_(~first, first)] @ weights
    alone = 1 / np.diag(precision)  # variance of each earlier cell, given the others
    now = np.log(np.diag(given)).sum()
    without = np.diag(given) + weights**2 * alone[:, None]  # of the later cells, had one earlier cell not come before
    removals = own[first] + now - np.log(without).sum(1) - np.log(alone)
    additions = now - own[~first] - _logs(given)
    swaps = np.empty(weights.shape)
    for i, (row, variance) in enumerate(zip(weights, alone, strict=True)):
        other = given + np.outer(row, row) * variance
        left = np.log(variance - (row * variance) ** 2 / np.diag(other))  # the earlier cell, after the one that joins
        swaps[i] = own[first][i] + now - own[~first] - _logs(other) - left
    return 0.5 * swaps, 0.5 * removals, 0.5 * additions


def _logs(given: Matrix) -> Matrix:
    """Sum of the log variances of all cells but j, given j; for every j."""
    after = np.diag(given)[:, None] - given**2 / np.diag(given)
    np.fill_diagonal(after, 1)
    total: Matrix = np.log(after).sum(0)
    return total
