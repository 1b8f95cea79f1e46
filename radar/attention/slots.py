"""Slots: the sequence that the transformer sees, who sees whom in it, and what is predicted where.

Legend: N cells, S slots, T predictions, K steps.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

NONE = -1
FIELDS = ("step", "content", "group", "rank", "target", "second", "turn")  # tensors of Slots


class Side(NamedTuple):
    """What a predicate may ask of a slot; tensors that broadcast against the other side's."""

    step: Tensor
    content: Tensor
    group: Tensor
    rank: Tensor
    turn: Tensor


Predicate = Callable[[Side, Side], Tensor]


class Predictions(NamedTuple):
    """What the slots predict, each rank of a cell once per slot, or once where two slots predict it together; (T,).

    Attributes:
        target: rank of the cell.
        first: slot that predicts it with the first head; -1 for none.
        second: slot that predicts it with the second head; -1 for none. None where no slot has a second target.
        source: a slot that predicts it.
    """

    target: Tensor
    first: Tensor
    second: Tensor | None
    source: Tensor


@dataclass(frozen=True, eq=False)
class Slots:
    """The sequence that the transformer sees; all tensors are (S,) int64 or bool.

    Attributes:
        step: step that the slot belongs to; -1 for the class token.
        content: True if it carries a token (CONTENT), False if it asks for one (QUERY).
        group: step that decodes its cell; -1 for the class token.
        rank: place of its cell in the decoding sequence; -1 for the class token.
        target: rank of the cell that it predicts; -1 for none.
        second: rank of the cell that it predicts with the second head; -1 for none.
        turn: forward pass in which the sampler computes it.
        sees: (asking side, seen side) -> bool tensor.
    """

    step: Tensor
    content: Tensor
    group: Tensor
    rank: Tensor
    target: Tensor
    second: Tensor
    turn: Tensor
    sees: Predicate

    def __len__(self) -> int:
        return len(self.step)

    @property
    def predicts(self) -> Tensor:
        """(S,) True where a slot predicts a cell or two."""
        return (self.target != NONE) | (self.second != NONE)

    @cached_property
    def mixes(self) -> bool:
        """Whether slots have second targets, whose predictions are mixed with the first ones of other slots."""
        return bool((self.second != NONE).any())

    @cached_property
    def predictions(self) -> Predictions:
        """List what is predicted: in slot order, or by rank where two slots may predict a cell together."""
        if not self.mixes:
            source = torch.nonzero(self.target != NONE).flatten()
            return Predictions(self.target[source], source, None, source)
        target = torch.cat([self.target, self.second]).unique()
        target = target[target != NONE]
        first, second = (_position(target, asked) for asked in (self.target, self.second))
        return Predictions(target, first, second, torch.maximum(first, second))

    @cached_property
    def place(self) -> Tensor:
        """(S,) rank of the one cell that it predicts, or else of its own; -1 for a class token without target."""
        return torch.where((self.target == NONE) | (self.second != NONE), self.rank, self.target)

    @cached_property
    def contents(self) -> int:
        """How many slots carry a token."""
        return int(self.content.sum())

    @property
    def revises(self) -> Tensor:
        """(S,) True where a slot predicts its own, already known token again (correction)."""
        return self.content & (self.target != NONE) & (self.target == self.rank)

    @property
    def waits(self) -> Tensor:
        """(S,) True where a query predicts a cell that a later step decodes: a candidate for data-dependent orders."""
        return ~self.content & (self.target != NONE) & (self.group > self.step)

    @property
    def asks(self) -> Tensor:
        """(S,) True where a slot predicts a cell that is decoded in this pass."""
        return self.predicts & ~self.revises & ~self.waits

    @property
    def side(self) -> Side:
        """What predicates see of the slots."""
        return Side(self.step, self.content, self.group, self.rank, self.turn)

    def mask(self) -> Tensor:
        """Dense mask (S, S): True where the row's slot sees the column's."""
        return self.sees(Side(*(part[:, None] for part in self.side)), self.side)

    def block_mask(self, device: torch.device | str) -> BlockMask:
        """Build the same rule as a FlexAttention block mask on `device`."""
        side = Side(*(part.to(device) for part in self.side))

        def rule(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
            return self.sees(Side(*(part[q] for part in side)), Side(*(part[kv] for part in side)))

        return create_block_mask(rule, None, None, len(self), len(self), device=device)

    def to(self, device: torch.device | str) -> "Slots":
        """Move to a device."""
        return (
            self
            if self.step.device == torch.device(device)
            else replace(self, **{name: getattr(self, name).to(device) for name in FIELDS})
        )

    def take(self, index: Tensor) -> "Slots":
        """Keep the slots named by `index` (indices or a boolean mask)."""
        return replace(self, **{name: getattr(self, name)[index] for name in FIELDS})

    def only(self, steps: Tensor, mask: Tensor) -> "Slots":
        """Keep what predicts the cells of `steps`, and all that this can see through any number of layers of `mask`."""
        wanted = torch.isin(self.turn, steps) & self.predicts
        while not torch.equal(grown := wanted | mask[wanted].any(0), wanted):
            wanted = grown
        return self.take(wanted)


def _position(values: Tensor, listed: Tensor) -> Tensor:
    """Index in `listed` of each of `values`; -1 where it is not there."""
    found = values[:, None] == listed
    return torch.where(found.any(1), found.int().argmax(1), NONE)


class Part(NamedTuple):
    """Slots of one kind; `second` only where they have second targets."""

    step: Tensor
    content: bool
    rank: Tensor
    target: Tensor
    turn: Tensor
    second: Tensor | None = None


def class_token(target: int = NONE, second: int = NONE) -> Part:
    """Slot 0: step -1, no cell."""
    step, rank, goal, turn, also = (torch.tensor([value]) for value in (-1, NONE, target, 0, second))
    return Part(step, True, rank, goal, turn, also)


def join(sizes: Sequence[int], parts: Sequence[Part], sees: Predicate) -> Slots:
    """Put the parts behind each other."""
    step, rank, target, turn = (
        torch.cat([getattr(p, name) for p in parts]) for name in ("step", "rank", "target", "turn")
    )
    content = torch.cat([torch.full_like(part.rank, part.content, dtype=torch.bool) for part in parts])
    second = torch.cat([torch.full_like(p.rank, NONE) if p.second is None else p.second for p in parts])
    group = torch.cat([step_of_rank(sizes), torch.tensor([-1])])[rank]
    return Slots(step, content, group, rank, target, second, turn, sees)


def step_of_rank(sizes: Sequence[int]) -> Tensor:
    """(N,) step of each place in the decoding sequence."""
    return torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))


def starts_of(sizes: Sequence[int]) -> list[int]:
    """First rank of each step, and N behind them."""
    return [0, *torch.tensor(sizes).cumsum(0).tolist()]
