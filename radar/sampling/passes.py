"""The forward passes of the sampler: which slots run in which pass, what stays in the cache, who sees whom.

All of it is read off a variant's slots and its rule, so every order and variant is sampled by the same loop, with the
very mask that it was trained with.
Legend: N cells, S slots, K steps, T targets of one pass.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from radar.attention import NONE, Slots
from radar.sampling.guidance import Progress


@dataclass(frozen=True)
class Pass:
    """One forward pass.

    Attributes:
        slots: its own, those that later passes see first.
        start: slots of earlier passes in the cache; its own are written behind them.
        covered: slots that attention goes over: `start` and its own.
        mask: (own slots, covered) bool; None where every slot sees all of them.
        targets: (T,) ranks that it predicts.
        revises: (T,) True where the predicted cell is known already.
        corrects: whether it is anywhere.
        noise: (T,) which random numbers of an image it uses.
        num_commit: how many of the targets are written, from the first; the others are candidates for a later pass.
        progress: how far sampling is.
    """

    slots: Slots
    start: int
    covered: int
    mask: Tensor | None
    targets: Tensor
    revises: Tensor
    corrects: bool
    noise: Tensor
    num_commit: int
    progress: Progress


def plan_passes(slots: Slots, revise: bool, device: torch.device | str = "cpu", candidates: bool = False) -> list[Pass]:
    """Cut a variant's slots into forward passes; a slot is cached exactly if a later pass sees it.

    Slots that no pass sees any more are overwritten, where nothing behind them is still in use. The random numbers of a
    cell's first drawing are the same with and without `revise` and `candidates`. Where the first ranks are given
    (`Slots.given`), the first pass is the one that asks for the others, and encodes all that it sees.

    Args:
        slots: of a variant, for the group sizes of an order.
        revise: predict known cells again; without, they are context only.
        device: where the tensors of the passes are.
        candidates: predict cells of later steps, too, where the variant does.

    >>> from radar.attention import VARIANTS
    >>> passes = plan_passes(VARIANTS["nested"]([1, 4, 4]), revise=True)
    >>> [(len(each.slots), each.start, each.targets.tolist()) for each in passes]
    [(2, 0, [0]), (5, 1, [0, 1, 2, 3, 4]), (9, 1, [0, 1, 2, 3, 4, 5, 6, 7, 8])]
    """
    mask = slots.mask()
    dropped = (slots.revises & (not revise)) | (slots.is_candidate & (not candidates))
    slots = replace(slots, target=torch.where(dropped, NONE, slots.target))
    if not (asks := slots.predicts_new).any():
        return []  # all is given
    in_pass = (slots.in_pass - slots.in_pass[asks].min()).clamp(min=0)
    known = int(slots.predictions.target[asks[slots.predictions.source]].min())
    cells = drawn = int(torch.cat([slots.rank, slots.target]).max()) + 1
    count, cached = int(in_pass.max()) + 1, torch.empty(0, dtype=torch.long)
    passes: list[Pass] = []
    for number in range(count):
        alive = mask[in_pass >= number][:, cached].any(0).nonzero()
        cached = cached[: int(alive.max()) + 1 if len(alive) else 0]
        run = torch.nonzero(in_pass == number).flatten()
        seen_later = mask[in_pass > number][:, run].any(0)
        run = torch.cat([run[seen_later], run[~seen_later]])
        part, rows = slots.take(run), mask[run][:, torch.cat([cached, run])]
        targets, source = part.predictions.target, part.predictions.source
        revises, waits = part.revises[source], part.is_candidate[source]
        extra = revises | waits
        after = known + int((~extra).sum())
        tokens = targets.clamp(known, after - 1) / cells
        passes.append(
            Pass(
                slots=part.to(device),
                start=len(cached),
                covered=rows.shape[1],
                mask=None if rows.all() else rows.to(device),
                targets=targets.to(device),
                revises=revises.to(device),
                corrects=bool(revises.any()),
                noise=torch.where(extra, drawn - 1 + extra.cumsum(0), targets).to(device),
                num_commit=len(targets) - int(waits.sum()),
                progress=Progress(
                    (number + 1) / count, number / max(1, count - 1), known / cells, after / cells, tokens.to(device)
                ),
            )
        )
        known, drawn = after, drawn + int(extra.sum())
        cached = torch.cat([cached, run[: int(seen_later.sum())]])
    return passes
