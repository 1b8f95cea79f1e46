"""Variants with a frozen context: what is known is encoded once and cached. Legend: N cells."""

from collections.abc import Sequence

import torch
from torch import Tensor

from radar.attention.slots import NONE, Side, Slots, class_token, join, queries, starts_of, step_of_rank, tokens
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
    return join(sizes, [class_token(predicts=0), tokens(rank, step=rank, predicts=rank + 1)], _sees_causal)


def _sees_plain(asking: Side, seen: Side) -> Tensor:
    earlier = seen.is_token & (seen.step < asking.step)
    return earlier | ((seen.is_token == asking.is_token) & (seen.step == asking.step))


def plain(sizes: Sequence[int]) -> Slots:
    """Frozen context: queries of a step see the tokens of earlier steps and each other; 1 + 2N slots.

    The tokens of the last step are left out, since nothing could see them.
    """
    step, rank = step_of_rank(sizes), torch.arange(sum(sizes))
    seen = step < len(sizes) - 1
    return join(sizes, [class_token(), tokens(rank[seen], step=step[seen]), queries(rank, step=step)], _sees_plain)


def _sees_relay(asking: Side, seen: Side) -> Tensor:
    return (seen.is_token & (seen.in_pass <= asking.in_pass)) | (seen.in_pass == asking.in_pass)


def relay(sizes: Sequence[int]) -> Slots:
    """About N slots: a slot carries its token and asks for a cell of the next group; queries only where that is larger.

    A slot knows its token, its own position (rotary) and that of its target (embedding). Tokens see the tokens of
    their own and earlier steps; all slots of one pass see each other [ours].
    """
    starts = starts_of(sizes)
    parts = [class_token()]
    for k, size in enumerate(sizes):
        asked = torch.arange(starts[k], starts[k + 1])
        if k:
            known = torch.arange(starts[k - 1], starts[k])
            target = torch.full_like(known, NONE)
            target[:size] = asked[: len(known)]
            parts.append(tokens(known, step=k - 1, predicts=target))
            asked = asked[len(known) :]
        parts.append(queries(asked, step=k))
    return join(sizes, parts, _sees_relay)
