"""Variants with a frozen context: what is known is encoded once and cached. Legend: N cells."""

from collections.abc import Sequence

import torch
from torch import Tensor

from radar.attention.slots import NONE, Part, Side, Slots, class_token, join, starts_of, step_of_rank
from radar.errors import InputError


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
    return join(sizes, [class_token(target=0), Part(rank, True, rank, rank + 1, rank + 1)], _sees_causal)


def _sees_plain(asking: Side, seen: Side) -> Tensor:
    earlier = seen.content & (seen.step < asking.step)
    return earlier | ((seen.content == asking.content) & (seen.step == asking.step))


def plain(sizes: Sequence[int]) -> Slots:
    """Frozen context: queries of a step see the content of earlier steps and each other; 1 + 2N slots.

    The content of the last step is left out, since nothing could see it.
    """
    step, rank = step_of_rank(sizes), torch.arange(sum(sizes))
    known = step < len(sizes) - 1
    content = Part(step[known], True, rank[known], torch.full_like(rank[known], NONE), step[known] + 1)
    return join(sizes, [class_token(), content, Part(step, False, rank, rank, step)], _sees_plain)


def _sees_relay(asking: Side, seen: Side) -> Tensor:
    turn, seen_turn = asking.step + asking.content.int(), seen.step + seen.content.int()
    return (seen.content & (seen_turn <= turn)) | (seen_turn == turn)


def relay(sizes: Sequence[int]) -> Slots:
    """About N slots: a slot carries its token and asks for a cell of the next group; queries only where that is larger.

    A slot knows its token, its own place (rotary) and the place of its target (embedding). Content sees the content of
    its own and earlier steps; all slots of one pass see each other [ours].
    """
    starts = starts_of(sizes)
    parts = [class_token()]
    for k, size in enumerate(sizes):
        asked = torch.arange(starts[k], starts[k + 1])
        if k:
            known = torch.arange(starts[k - 1], starts[k])
            goal = torch.full_like(known, NONE)
            goal[:size] = asked[: len(known)]
            parts.append(Part(torch.full_like(known, k - 1), True, known, goal, torch.full_like(known, k)))
            asked = asked[len(known) :]
        place = torch.full_like(asked, k)
        parts.append(Part(place, False, asked, asked, place))
    return join(sizes, parts, _sees_relay)
