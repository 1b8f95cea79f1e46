"""Attention variants: group sizes -> slots and a who-sees-whom rule.

Legend: N cells, S slots, K steps, B images, H heads, E head width.

A slot is one position of the transformer's sequence. Its cell is given by `rank`, the place of the cell in the
decoding sequence, so slots and mask depend on the group sizes only and serve every order, also one order per image.
Slot 0 is the class token: step -1, no cell, seen by all. The rule of a variant is one predicate; the dense boolean
mask (SDPA) and the FlexAttention block mask both come from it, and the sampler cuts its masks from the same one.

To add a variant: one function (sizes, its own options) -> Slots, one predicate, one line in VARIANTS.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from radar.errors import InputError

NONE = -1
FIELDS = ("step", "content", "group", "rank", "target", "turn")  # tensors of Slots


class Side(NamedTuple):
    """What a predicate may ask of a slot; tensors that broadcast against the other side's."""

    step: Tensor
    content: Tensor
    group: Tensor


Predicate = Callable[[Side, Side], Tensor]


@dataclass(frozen=True, eq=False)
class Slots:
    """The sequence that the transformer sees; all tensors are (S,) int64 or bool.

    Attributes:
        step: step that the slot belongs to; -1 for the class token.
        content: True if it carries a token (CONTENT), False if it asks for one (QUERY).
        group: step that decodes its cell; -1 for the class token.
        rank: place of its cell in the decoding sequence; -1 for the class token.
        target: rank of the cell that it predicts; -1 for none.
        turn: forward pass in which the sampler computes it.
        sees: (asking side, seen side) -> bool tensor.
    """

    step: Tensor
    content: Tensor
    group: Tensor
    rank: Tensor
    target: Tensor
    turn: Tensor
    sees: Predicate

    def __len__(self) -> int:
        return len(self.step)

    @cached_property
    def goals(self) -> Tensor:
        """(T,) indices of the slots with a target."""
        return torch.nonzero(self.target != NONE).flatten()

    @cached_property
    def place(self) -> Tensor:
        """(S,) rank of the cell that it predicts, or else of its own; -1 for a class token without target."""
        return torch.where(self.target == NONE, self.rank, self.target)

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
        side = Side(self.step, self.content, self.group)
        return self.sees(Side(*(part[:, None] for part in side)), side)

    def block_mask(self, device: torch.device | str) -> BlockMask:
        """Build the same rule as a FlexAttention block mask on `device`."""
        side = Side(*(part.to(device) for part in (self.step, self.content, self.group)))

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
        wanted = torch.isin(self.turn, steps) & (self.target != NONE)
        while not torch.equal(grown := wanted | mask[wanted].any(0), wanted):
            wanted = grown
        return self.take(wanted)


class _Part(NamedTuple):
    """Slots of one kind."""

    step: Tensor
    content: bool
    rank: Tensor
    target: Tensor
    turn: Tensor


def _class_token(target: int = NONE) -> _Part:
    step, rank, goal, turn = (torch.tensor([value]) for value in (-1, NONE, target, 0))
    return _Part(step, True, rank, goal, turn)


def _join(sizes: Sequence[int], parts: Sequence[_Part], sees: Predicate) -> Slots:
    step, rank, target, turn = (
        torch.cat([getattr(p, name) for p in parts]) for name in ("step", "rank", "target", "turn")
    )
    content = torch.cat([torch.full_like(part.rank, part.content, dtype=torch.bool) for part in parts])
    group = torch.cat([_step_of_rank(sizes), torch.tensor([-1])])[rank]
    return Slots(step, content, group, rank, target, turn, sees)


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
    return _join(sizes, [_class_token(target=0), _Part(rank, True, rank, rank + 1, rank + 1)], _sees_causal)


def _sees_plain(asking: Side, seen: Side) -> Tensor:
    earlier = seen.content & (seen.step < asking.step)
    return earlier | ((seen.content == asking.content) & (seen.step == asking.step))


def plain(sizes: Sequence[int]) -> Slots:
    """Frozen context: queries of a step see the content of earlier steps and each other; 1 + 2N slots.

    The content of the last step is left out, since nothing could see it.
    """
    step, rank = _step_of_rank(sizes), torch.arange(sum(sizes))
    known = step < len(sizes) - 1
    content = _Part(step[known], True, rank[known], torch.full_like(rank[known], NONE), step[known] + 1)
    return _join(sizes, [_class_token(), content, _Part(step, False, rank, rank, step)], _sees_plain)


def _sees_relay(asking: Side, seen: Side) -> Tensor:
    turn, seen_turn = asking.step + asking.content.int(), seen.step + seen.content.int()
    return (seen.content & (seen_turn <= turn)) | (seen_turn == turn)


def relay(sizes: Sequence[int]) -> Slots:
    """About N slots: a slot carries its token and asks for a cell of the next group; queries only where that is larger.

    A slot knows its token, its own place (rotary) and the place of its target (embedding). Content sees the content of
    its own and earlier steps; all slots of one pass see each other [ours].
    """
    starts = [0, *torch.tensor(sizes).cumsum(0).tolist()]
    parts = [_class_token()]
    for k, size in enumerate(sizes):
        asked = torch.arange(starts[k], starts[k + 1])
        if k:
            known = torch.arange(starts[k - 1], starts[k])
            goal = torch.full_like(known, NONE)
            goal[:size] = asked[: len(known)]
            parts.append(_Part(torch.full_like(known, k - 1), True, known, goal, torch.full_like(known, k)))
            asked = asked[len(known) :]
        place = torch.full_like(asked, k)
        parts.append(_Part(place, False, asked, asked, place))
    return _join(sizes, parts, _sees_relay)


Encoding = Callable[[Tensor, Tensor], Tensor]  # (block, group) -> the block whose copy of the group it sees


def _blocks(sizes: Sequence[int], sees: Predicate, latest: Encoding = lambda block, group: block) -> Slots:
    """Build one block per step k: known groups as content, to be revised, and the new ring as queries.

    A block holds its own copy of the groups for which `latest` says so, and sees older copies of the others.
    """
    step, parts = _step_of_rank(sizes), [_class_token()]
    for k in range(len(sizes)):
        anew = (step < k) & (latest(torch.tensor(k), step) == k)
        for content in (True, False):
            rank = torch.nonzero(anew if content else step == k).flatten()
            block = torch.full_like(rank, k)
            parts.append(_Part(block, content, rank, rank, block))
    return _join(sizes, parts, sees)


def _sees_nested(asking: Side, seen: Side) -> Tensor:
    return (seen.step == -1) | ((seen.step == asking.step) & (seen.content | ~asking.content))


def nested(sizes: Sequence[int], rings: int | None = None, every: int = 1) -> Slots:
    """RadAR's nested attention [paper]: the known region is predicted again each step and cannot see the new ring.

    Cheaper ones [ours], exact too since they are trained like that: only the last `rings` rings are encoded and revised
    again, or all of them only in steps that `every` divides, and otherwise the last one; with both, the last `rings` in
    those steps. Older rings are seen as they were encoded last, so that later steps do not see a correction until its
    ring is encoded again. Raises InputError if a number is below 1.
    """
    if every < 1 or (rings is not None and rings < 1):
        raise InputError(f"attention 'nested' with rings={rings}, every={every} is not possible: at least 1 each")

    if rings is None and every == 1:
        return _blocks(sizes, _sees_nested)

    def latest(block: Tensor, group: Tensor) -> Tensor:
        last = block if rings is None else torch.minimum(block, group + rings)
        return torch.maximum(group + 1, last - last % every)

    def sees(asking: Side, seen: Side) -> Tensor:
        older = seen.content & (seen.group < asking.step) & (seen.step == latest(asking.step, seen.group))
        return (seen.step == -1) | older | (~asking.content & ~seen.content & (seen.step == asking.step))

    return _blocks(sizes, sees, latest)


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


VARIANTS: dict[str, Callable[..., Slots]] = {
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
