"""Variants after published methods that the others do not cover. Legend: N cells, K steps."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from radar.attention.slots import NONE, Side, Slots, class_token, join, queries, starts_of, tokens
from radar.errors import InputError


def instructed(sizes: Sequence[int]) -> Slots:
    """RandAR (arXiv 2412.01827): in front of every token stands a query that says where it is; all of it is causal.

    Decoding cell by cell that is all: 2N slots. Decoding a group at once, its queries come first, each after those
    before it, and are encoded again between their tokens when these are known (all but the group's first), so that
    later steps see the sequence that they would have seen cell by cell; up to 3N slots.
    """
    starts, parts = starts_of(sizes), [class_token()]
    first = torch.tensor(starts[:-1])
    for k in range(len(sizes)):
        asked = torch.arange(starts[k], starts[k + 1])
        parts.append(queries(asked, step=k))
        if k + 1 < len(sizes):
            parts.append(queries(asked[1:], step=k, predicts=NONE, in_pass=k + 1))
            parts.append(tokens(asked, step=k))

    def sees(asking: Side, seen: Side) -> Tensor:
        """Queries of a pass see those before them; beyond the pass everyone sees the sequence cell by cell."""
        asks, asked = ~asking.is_token & (asking.in_pass == asking.step), ~seen.is_token & (seen.in_pass == seen.step)
        kept = ~asked | (seen.rank == first.to(seen.rank.device)[seen.step])
        before = (seen.rank < asking.rank) | ((seen.rank == asking.rank) & (asking.is_token | ~seen.is_token))
        together = asked & (seen.step == asking.step) & (seen.rank <= asking.rank)
        return torch.where(asks, (kept & (seen.step < asking.step)) | together, kept & before)

    return join(sizes, parts, sees)


def _sees_until(asking: Side, seen: Side) -> Tensor:
    return seen.step <= asking.step


def neighbours(sizes: Sequence[int]) -> Slots:
    """NAR (arXiv 2503.10696): a token predicts its neighbour to the right with one head, the one below with another.

    Where a cell has both, the two predictions (logits) are averaged, in training too; N slots. The order is `diagonal`,
    whose steps run from top to bottom. Grids that are higher than wide would need another pairing in the middle, and
    are refused when the grid is known. Raises InputError where steps do not grow or shrink by at most one cell.
    """
    if sizes[0] != 1 or any(abs(a - b) > 1 for a, b in pairwise(sizes)):
        raise InputError(
            "attention 'neighbours' needs steps of 1, 2, 3, ... cells that grow and shrink by at most one, as in order "
            f"'diagonal', but the order has steps of {', '.join(map(str, sizes[:8]))}{', ...' * (len(sizes) > 8)}"
        )
    starts, parts = starts_of(sizes), [class_token(predicts=0, second=0)]
    for k in range(len(sizes) - 1):
        rank = torch.arange(starts[k], starts[k + 1])
        right = starts[k + 1] + torch.arange(sizes[k]) - int(sizes[k + 1] < sizes[k])
        targets = [
            torch.where((cell >= starts[k + 1]) & (cell < starts[k + 2]), cell, NONE) for cell in (right, right + 1)
        ]
        parts.append(tokens(rank, step=k, predicts=targets[0], second=targets[1]))
    return join(sizes, parts, _sees_until)


def block_causal(sizes: Sequence[int]) -> Slots:
    """VAR (arXiv 2404.02905): one slot per cell asks for it, with features of what is known before its step.

    The features are made by the tokenizer, in training and in sampling by the same function, so that no slot carries a
    token. Slots see those of their own and earlier steps. A first step of one cell is asked for by the class token: N
    slots; otherwise one more.
    """
    starts, by_class = starts_of(sizes), sizes[0] == 1
    parts = [class_token(predicts=0) if by_class else class_token()]
    for k in range(by_class, len(sizes)):
        parts.append(queries(torch.arange(starts[k], starts[k + 1]), step=k))
    return join(sizes, parts, _sees_until)
