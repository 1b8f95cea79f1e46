"""Attention variants: group sizes -> slots and a who-sees-whom rule.

Legend: N cells, S slots, K steps, B images, H heads, E head width.

A slot is one position of the transformer's sequence. Its cell is given by `rank`, the place of the cell in the
decoding sequence, so slots and mask depend on the group sizes only and serve every order, also one order per image.
Slot 0 is the class token: step -1, no cell, seen by all. The rule of a variant is one predicate; the dense boolean
mask (SDPA) and the FlexAttention block mask both come from it, and the sampler cuts its masks from the same one.

To add a variant: one function sizes -> Slots, one predicate, one line in VARIANTS.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from radar.errors import InputError

NONE = -1
FIELDS = ("step", "content", "rank", "target", "turn")  # tensors of Slots


class Side(NamedTuple):
    """What a predicate may ask of a slot; tensors that broadcast against the other side's."""

    step: Tensor
    content: Tensor


Predicate = Callable[[Side, Side], Tensor]


@dataclass(frozen=True)
class Slots:
    """The sequence that the transformer sees; all tensors are (S,) int64 or bool.

    Attributes:
        step: step that the slot belongs to; -1 for the class token.
        content: True if it carries a token (CONTENT), False if it asks for one (QUERY).
        rank: place of its cell in the decoding sequence; -1 for the class token.
        target: rank of the cell that it predicts; -1 for none.
        turn: forward pass in which the sampler computes it.
        sees: (asking side, seen side) -> bool tensor.
    """

    step: Tensor
    content: Tensor
    rank: Tensor
    target: Tensor
    turn: Tensor
    sees: Predicate

    def __len__(self) -> int:
        return len(self.step)

    @property
    def revises(self) -> Tensor:
        """(S,) True where a slot predicts its own, already known token again (correction)."""
        return self.content & (self.target != NONE) & (self.target == self.rank)

    @property
    def asks(self) -> Tensor:
        """(S,) True where a slot predicts a cell that is not known yet."""
        return (self.target != NONE) & ~self.revises

    def mask(self) -> Tensor:
        """Dense mask (S, S): True where the row's slot sees the column's."""
        asking = Side(self.step[:, None], self.content[:, None])
        return self.sees(asking, Side(self.step[None], self.content[None]))

    def block_mask(self, device: torch.device | str) -> BlockMask:
        """Build the same rule as a FlexAttention block mask on `device`."""
        step, content = self.step.to(device), self.content.to(device)

        def rule(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
            return self.sees(Side(step[q], content[q]), Side(step[kv], content[kv]))

        return create_block_mask(rule, None, None, len(self), len(self), device=device)

    def to(self, device: torch.device | str) -> "Slots":
        """Move to a device."""
        return replace(self, **{name: getattr(self, name).to(device) for name in FIELDS})

    def take(self, index: Tensor) -> "Slots":
        """Keep the slots named by `index` (indices or a boolean mask)."""
        return replace(self, **{name: getattr(self, name)[index] for name in FIELDS})

    def only(self, steps: Tensor, mask: Tensor) -> "Slots":
        """Keep what predicts the cells of `steps`, and all that this can see through any number of layers of `mask`."""
        wanted = torch.isin(self.turn, steps) & (self.target != NONE)
        while not torch.equal(grown := wanted | mask[wanted].any(0), wanted):
            wanted = grown
        return self.take(wanted)


def _class_token(sees: Predicate, target: int = NONE) -> Slots:
    step, content, rank, goal, turn = (torch.tensor([value]) for value in (-1, True, NONE, target, 0))
    return Slots(step, content, rank, goal, turn, sees)


def _slots(step: Tensor, content: bool, rank: Tensor, target: Tensor | None, turn: Tensor, sees: Predicate) -> Slots:
    nothing = torch.full_like(rank, NONE)
    return Slots(
        step,
        torch.full_like(rank, content, dtype=torch.bool),
        rank,
        nothing if target is None else target,
        turn,
        sees,
    )


def _join(parts: Sequence[Slots]) -> Slots:
    joined = {name: torch.cat([getattr(part, name) for part in parts]) for name in FIELDS}
    return Slots(**joined, sees=parts[0].sees)


def _step_of_rank(sizes: Sequence[int]) -> Tensor:
    return torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))


def _sees_causal(asking: Side, seen: Side) -> Tensor:
    return seen.step <= asking.step


def causal(sizes: Sequence[int]) -> Slots:
    """Next-token prediction: the slot of one cell predicts the next cell (as LlamaGen); N slots.

    Raises InputError if a step decodes more than one cell.
    """
    if max(sizes) > 1:
        raise InputError(
            f"attention 'causal' decodes one cell per step, but the order has a step of {max(sizes)} cells; "
            "choose an order of one cell per step or attention plain, nested, full"
        )
    rank = torch.arange(len(sizes) - 1)
    return _join([_class_token(_sees_causal, target=0), _slots(rank, True, rank, rank + 1, rank + 1, _sees_causal)])


def _sees_plain(asking: Side, seen: Side) -> Tensor:
    earlier = seen.content & (seen.step < asking.step)
    return earlier | ((seen.content == asking.content) & (seen.step == asking.step))


def plain(sizes: Sequence[int]) -> Slots:
    """Frozen context: queries of a step see the content of earlier steps and each other; 1 + 2N slots.

    The content of the last step is left out, since nothing could see it.
    """
    step, rank = _step_of_rank(sizes), torch.arange(sum(sizes))
    known = step < len(sizes) - 1
    content = _slots(step[known], True, rank[known], None, step[known] + 1, _sees_plain)
    return _join([_class_token(_sees_plain), content, _slots(step, False, rank, rank, step, _sees_plain)])


def _sees_relay(asking: Side, seen: Side) -> Tensor:
    turn, seen_turn = asking.step + asking.content.int(), seen.step + seen.content.int()
    return (seen.content & (seen_turn <= turn)) | (seen_turn == turn)


def relay(sizes: Sequence[int]) -> Slots:
    """About N slots: a slot carries its token and asks for a cell of the next group; queries only where that is larger.

    A slot knows its token, its own place (rotary) and the place of its target (embedding). Content sees the content of
    its own and earlier steps; all slots of one pass see each other [ours].
    """
    starts = [0, *torch.tensor(sizes).cumsum(0).tolist()]
    parts = [_class_token(_sees_relay)]
    for k, size in enumerate(sizes):
        asked = torch.arange(starts[k], starts[k + 1])
        if k:
            known = torch.arange(starts[k - 1], starts[k])
            goal = torch.full_like(known, NONE)
            goal[:size] = asked[: len(known)]
            parts.append(
                _slots(torch.full_like(known, k - 1), True, known, goal, torch.full_like(known, k), _sees_relay)
            )
            asked = asked[len(known) :]
        place = torch.full_like(asked, k)
        parts.append(_slots(place, False, asked, asked, place, _sees_relay))
    return _join(parts)


def _blocks(sizes: Sequence[int], sees: Predicate) -> Slots:
    """Build one block per step k: the region known so far as content, to be revised, and its new ring as queries."""
    step, parts = _step_of_rank(sizes), [_class_token(sees)]
    for k in range(len(sizes)):
        for content in (True, False):
            rank = torch.nonzero(step < k if content else step == k).flatten()
            block = torch.full_like(rank, k)
            parts.append(_slots(block, content, rank, rank, block, sees))
    return _join(parts)


def _sees_nested(asking: Side, seen: Side) -> Tensor:
    return (seen.step == -1) | ((seen.step == asking.step) & (seen.content | ~asking.content))


def nested(sizes: Sequence[int]) -> Slots:
    """RadAR's nested attention [paper]: the known region is predicted again each step and cannot see the new ring."""
    return _blocks(sizes, _sees_nested)


def _sees_full(asking: Side, seen: Side) -> Tensor:
    return (seen.step == -1) | (seen.step == asking.step)


def full(sizes: Sequence[int]) -> Slots:
    """Lay out as `nested`, but let the known region see the new ring's queries too: what the nesting buys [ours]."""
    return _blocks(sizes, _sees_full)


def _sees_nested_memory(asking: Side, seen: Side) -> Tensor:
    return _sees_nested(asking, seen) | (seen.content & (seen.step < asking.step))


def nested_memory(sizes: Sequence[int]) -> Slots:
    """Extend `nested`: a step also sees the earlier steps' copies of the known region, from the cache [ours]."""
    return _blocks(sizes, _sees_nested_memory)


VARIANTS: dict[str, Callable[[Sequence[int]], Slots]] = {
    "causal": causal,
    "plain": plain,
    "relay": relay,
    "nested": nested,
    "full": full,
    "nested_memory": nested_memory,
}


def _dense(slots: Slots, device: torch.device) -> Tensor | BlockMask:
    return slots.mask().to(device)


def _flex(slots: Slots, device: torch.device) -> Tensor | BlockMask:
    return slots.block_mask(device)


def _auto(slots: Slots, device: torch.device) -> Tensor | BlockMask:
    return _flex(slots, device) if device.type == "cuda" else _dense(slots, device)


# How packed training attends; sampling and short sequences always use the dense mask.
BACKENDS: dict[str, Callable[[Slots, torch.device], Tensor | BlockMask]] = {
    "sdpa": _dense,
    "flex": _flex,
    "auto": _auto,
}


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | BlockMask | None) -> Tensor:
    """Scaled dot-product attention (B, H, S, E): FlexAttention for a block mask, SDPA for a dense one or none.

    FlexAttention has no backward pass on CPU.
    """
    if isinstance(mask, BlockMask):
        return _compiled_flex()(q, k, v, block_mask=mask)  # type: ignore[no-any-return]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


@cache
def _compiled_flex() -> Any:
    return torch.compile(flex_attention, dynamic=False)
