"""Slots: the sequence that the transformer sees, who sees whom in it, and what is predicted where.

Tokens and queries are the content and query streams of XLNet (arXiv 1906.08237).
Legend: N cells, S slots, T predictions, K steps. A *rank* is the index of a cell in the decoding permutation.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

from radar.errors import InputError

NONE = -1
MOST_CHECKED = 2048
FIELDS = ("step", "is_token", "group", "rank", "target", "second", "position", "in_pass")  # tensors of Slots


class Side(NamedTuple):
    """What a predicate may ask of a slot; tensors that broadcast against the other side's."""

    step: Tensor
    is_token: Tensor
    group: Tensor
    rank: Tensor
    in_pass: Tensor


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
        is_token: True if it carries a token, False if it is a query.
        group: step that decodes its cell; -1 for the class token.
        rank: rank of its cell; -1 for the class token.
        target: rank of the cell that it predicts; -1 for none.
        second: rank of the cell that it predicts with the second head; -1 for none.
        position: rank of the cell whose embedding it gets: the one that it is made to predict, or else its own.
        in_pass: forward pass in which the sampler computes it.
        sees: (asking side, seen side) -> bool tensor.
    """

    step: Tensor
    is_token: Tensor
    group: Tensor
    rank: Tensor
    target: Tensor
    second: Tensor
    position: Tensor
    in_pass: Tensor
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
    @torch.inference_mode(False)  # training needs it too, where validation has asked first
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
    def num_tokens(self) -> int:
        """How many slots carry a token."""
        return int(self.is_token.sum())

    @cached_property
    @torch.inference_mode(False)
    def kinds(self) -> tuple[Tensor, Tensor]:
        """Numbers of the slots that carry a token, and of those that ask."""
        known, asking = (torch.nonzero(kind).flatten() for kind in (self.is_token, ~self.is_token))
        return known, asking

    @property
    def revises(self) -> Tensor:
        """(S,) True where a slot predicts its own, already known token again (correction)."""
        return self.is_token & (self.target != NONE) & (self.target == self.rank)

    @property
    def is_candidate(self) -> Tensor:
        """(S,) True where a query predicts a cell that a later step decodes: a candidate for data-dependent orders."""
        return ~self.is_token & (self.target != NONE) & (self.group > self.step)

    @cached_property
    def last_rank(self) -> int:
        """The largest rank."""
        return int(self.rank.max())

    @property
    def blind(self) -> bool:
        """Whether no slot carries a token: they know what the tokenizer makes of the cells before."""
        return not bool((self.is_token & (self.rank != NONE)).any()) and bool((self.step > 0).any())

    @property
    def elsewhere(self) -> Tensor:
        """(S,) True where a slot of a cell is made to predict another one."""
        return (self.position != self.rank) & (self.rank != NONE)

    @property
    def last_target(self) -> Tensor:
        """(S,) the later one of the ranks that it predicts; -1 for none."""
        return torch.maximum(self.target, self.second)

    @property
    def predicts_new(self) -> Tensor:
        """(S,) True where a slot predicts a cell that is decoded in this pass."""
        return self.predicts & ~self.revises & ~self.is_candidate

    @property
    def side(self) -> Side:
        """What predicates see of the slots."""
        return Side(self.step, self.is_token, self.group, self.rank, self.in_pass)

    def mask(self) -> Tensor:
        """Dense mask (S, S): True where the row's slot sees the column's."""
        return self.sees(Side(*(part[:, None] for part in self.side)), self.side)

    def mask_mod(self, device: torch.device | str) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
        """The same rule as FlexAttention's `mask_mod`: (image, head, asking slot, seen slot) -> bool."""
        # Compared in each block that a GPU cannot leave out, where numbers of 32 bits should cost less than of 64.
        narrow = (part if part.dtype == torch.bool else part.int() for part in self.side)
        side = Side(*(part.to(device) for part in narrow))

        def rule(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
            return self.sees(Side(*(part[q] for part in side)), Side(*(part[kv] for part in side)))

        return rule

    def block_mask(self, device: torch.device | str) -> BlockMask:
        """Build the same rule as a FlexAttention block mask on `device`."""
        return create_block_mask(self.mask_mod(device), None, None, len(self), len(self), device=device)

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
        return self.take(self.seen_by(torch.isin(self.in_pass, steps) & self.predicts, mask))

    def given(self, known: int, revise: bool = False) -> "Slots":
        """Keep what decodes the ranks from `known` on where those before are given: no slot asks for these.

        With `revise`, slots that predict a known cell again do so with given ones, from the first other step on.
        """
        first = self.in_pass[self.predicts_new & (self.last_target >= known)]
        again = self.revises & (self.in_pass >= (int(first.min()) if revise and len(first) else len(self)))
        target, second = (torch.where((asked >= known) | again, asked, NONE) for asked in (self.target, self.second))
        slots = replace(self, target=target, second=second)
        return slots.take(slots.seen_by(slots.predicts_new, slots.mask()))

    def seen_by(self, wanted: Tensor, mask: Tensor) -> Tensor:
        """(S,) True for the slots `wanted` (S,) and all that they see through any number of layers of `mask`."""
        while not torch.equal(grown := wanted | mask[wanted].any(0), wanted):
            wanted = grown
        return wanted


def check_leaks(slots: Slots) -> None:
    """Refuse a rule by which a slot learns of a cell that it is to predict, or of a later one; raises InputError.

    Through any number of layers. Layouts of more than MOST_CHECKED slots are not looked at.
    """
    if not isinstance(slots, Slots):
        raise InputError(f"an attention gives {type(slots).__name__}: Slots expected")
    if len(slots) > MOST_CHECKED:
        return
    reach = slots.mask().float()
    while True:
        grown = ((reach + reach @ reach) > 0).float()
        if torch.equal(grown, reach):
            break
        reach = grown
    carried = torch.where(slots.is_token & (slots.rank != NONE), slots.group, NONE)  # what each slot knows by itself
    latest = torch.where(reach.bool(), carried, NONE).max(1).values
    most = int(torch.cat([slots.rank, slots.last_target]).max())
    of_rank = slots.group.new_full((most + 2,), int(slots.step.max()) + 1)  # a cell without a slot comes last
    of_rank[slots.rank] = slots.group  # of rank -1, the class token, at the end
    asked = of_rank[slots.last_target]
    leaks = slots.predicts_new & (asked != NONE) & (torch.maximum(latest, carried) >= asked)
    if leaks.any():
        slot = int(torch.nonzero(leaks)[0])
        raise InputError(
            f"who sees whom leaks: slot {slot}, which predicts a cell of step {int(asked[slot])}, sees a token of step "
            f"{int(torch.maximum(latest, carried)[slot])}, itself or through others"
        )


def _position(values: Tensor, listed: Tensor) -> Tensor:
    """Index in `listed` of each of `values`; -1 where it is not there."""
    found = values[:, None] == listed
    return torch.where(found.any(1), found.int().argmax(1), NONE)


class Part(NamedTuple):
    """Slots of one kind, all (S,); `second` only where they have second targets."""

    step: Tensor
    is_token: Tensor
    rank: Tensor
    target: Tensor
    in_pass: Tensor
    second: Tensor | None = None


def tokens(
    rank: Tensor,
    step: Tensor | int,
    predicts: Tensor | int = NONE,
    in_pass: Tensor | int | None = None,
    second: Tensor | None = None,
) -> Part:
    """Slots that carry the tokens of the cells `rank` (S,), of `step`; by default encoded in the pass after it.

    `predicts` and `second` are the ranks that they predict: by default none.
    """
    step = _each(step, rank)
    in_pass = step + 1 if in_pass is None else _each(in_pass, rank)
    return Part(step, _each(1, rank).bool(), rank, _each(predicts, rank), in_pass, second)


def queries(
    rank: Tensor, step: Tensor | int, predicts: Tensor | int | None = None, in_pass: Tensor | int | None = None
) -> Part:
    """Slots that ask for the cells `rank` (S,) in `step`: by default each predicts its own, in the pass of its step."""
    step = _each(step, rank)
    predicts, in_pass = rank if predicts is None else predicts, step if in_pass is None else in_pass
    return Part(step, _each(0, rank).bool(), rank, _each(predicts, rank), _each(in_pass, rank))


def _each(value: Tensor | int, rank: Tensor) -> Tensor:
    return value if isinstance(value, Tensor) else torch.full_like(rank, value)


def class_token(predicts: int = NONE, second: int = NONE) -> Part:
    """Slot 0: step -1, no cell."""
    none = torch.tensor([NONE])
    return tokens(none, step=-1, predicts=predicts, second=torch.tensor([second]))


def join(sizes: Sequence[int], parts: Sequence[Part], sees: Predicate) -> Slots:
    """Put the parts behind each other."""
    step, is_token, rank, target, in_pass = (
        torch.cat([getattr(part, name) for part in parts]) for name in Part._fields if name != "second"
    )
    second = torch.cat([_each(NONE, p.rank) if p.second is None else p.second for p in parts])
    group = torch.cat([step_of_rank(sizes), torch.tensor([-1])])[rank]
    position = torch.where((target == NONE) | (second != NONE), rank, target)
    return Slots(step, is_token, group, rank, target, second, position, in_pass, sees)


def step_of_rank(sizes: Sequence[int]) -> Tensor:
    """(N,) step of each rank."""
    return torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))


def starts_of(sizes: Sequence[int]) -> list[int]:
    """First rank of each step, and N behind them."""
    return [0, *torch.tensor(sizes).cumsum(0).tolist()]
