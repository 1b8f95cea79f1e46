"""Filling holes: what is given is the content of an order's first groups, and the sampler goes on from there.

Legend: B images, N cells, G given cells of an image, S slots, K steps.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from radar.attention import NONE, Slots
from radar.config.options import SampleConfig
from radar.decoding.groups import decode_permutation
from radar.sampling.passes import Pass, plan_passes
from radar.sampling.sampler import Trace, sample_tokens
from radar.training.generator import GeneratorModule, by_rank, check_directions


class Alike(NamedTuple):
    """Images whose holes are decoded in groups of equal sizes, so that they make one batch.

    Attributes:
        rows: which of the images.
        permutation: (rows, N) cells in decoding order, the given ones first.
        slots: that decode the others.
        given: how many cells are given.
        steps: K.
    """

    rows: Tensor
    permutation: Tensor
    slots: Slots
    given: int
    steps: int


class HoleFiller:
    """Fills holes, and says how likely what was there is; image i depends on its number, its hole and its label alone.

    Args:
        module: in eval mode.
        settings: how to sample; `steps` and `schedule` are those of the hole.
        revise: let variants that revise do so with given cells, too.
    """

    def __init__(self, module: GeneratorModule, settings: SampleConfig, revise: bool = False) -> None:
        self.module, self.settings, self.revise = module, settings, revise
        self._slots: dict[tuple[tuple[int, ...], int], Slots] = {}
        self._passes: dict[Slots, list[Pass]] = {}

    def alike(self, hidden: Tensor, images: Sequence[int]) -> Iterator[Alike]:
        """Sort images with hidden cells (B, N) by the sizes of their groups; raises InputError where not possible."""
        orders = self.module.order.around(hidden, self.settings, torch.tensor(images))
        keys = [(tuple(order.sizes), order.given) for order in orders]
        for key in dict.fromkeys(keys):
            rows = [row for row, other in enumerate(keys) if other == key]
            slots, first = self._slots_of(*key), orders[rows[0]]
            permutation = decode_permutation(torch.stack([orders[row].step for row in rows]))
            if slots.mixes:
                check_directions(slots, permutation, self.module.config.attention, self.module.order.grid[1])
            yield Alike(torch.tensor(rows), permutation.to(self.module.device), slots, first.given, first.steps)

    def fill(
        self, tokens: Tensor, hidden: Tensor, labels: Tensor, images: Sequence[int], trace: Trace | None = None
    ) -> Tensor:
        """Draw the hidden cells (B, N) of tokens (B, N) anew, all others as they are; one forward pass per step.

        A trace is that of images with holes of equal sizes.
        """
        filled = tokens.clone()
        for part in self.alike(hidden, images):
            given = by_rank(tokens[part.rows], part.permutation)[:, : part.given]
            numbers = [images[row] for row in part.rows.tolist()]
            filled[part.rows] = sample_tokens(
                self.module.model,
                self._passes_of(part.slots),
                part.permutation,
                labels[part.rows],
                self.settings,
                numbers,
                trace,
                given=given,
            )
        return filled

    def nll(self, tokens: Tensor, hidden: Tensor, labels: Tensor, images: Sequence[int]) -> Tensor:
        """NLL (B,) in nats of the hidden cells given the others; exact where the variant revises nothing."""
        found = torch.zeros(len(tokens), dtype=torch.float64, device=tokens.device)
        for part in self.alike(hidden, images):
            slots = replace(part.slots, target=torch.where(part.slots.is_candidate, NONE, part.slots.target))
            if not slots.predicts_new.any():
                continue
            slots, mask = slots.to(self.module.device), self.module.scoring_mask(slots.mask())
            known = by_rank(tokens[part.rows], part.permutation)
            content = known[:, slots.rank.clamp(min=0)]
            losses = self.module.cross_entropy(slots, mask, content, labels[part.rows], part.permutation, known)
            found[part.rows] = losses[:, slots.predicts_new[slots.predictions.source]].double().sum(1)
        return found

    def _slots_of(self, sizes: tuple[int, ...], given: int) -> Slots:
        key = sizes, given
        if key not in self._slots:
            self._slots[key] = self.module.slots_of(sizes, self.settings).given(given, self.revise)
        return self._slots[key]

    def _passes_of(self, slots: Slots) -> list[Pass]:
        if slots not in self._passes:
            candidates = self.settings.choice_temperature is not None
            self._passes[slots] = plan_passes(slots, self.settings.correction > 0, self.module.device, candidates)
        return self._passes[slots]
