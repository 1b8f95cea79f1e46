"""Filling holes: what is given is the content of an order's first groups, and the sampler goes on from there.

Legend: B images, N cells, G given cells of an image, S slots, K steps.
"""

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from radar.attention import NONE, Slots
from radar.config.sampling import SampleConfig
from radar.decoding.groups import decode_permutation
from radar.errors import InputError
from radar.sampling.passes import Pass, plan_passes
from radar.sampling.sampler import Trace, sample_tokens
from radar.training.fitting import check_directions
from radar.training.generative import GenerativeModule
from radar.training.generator import GeneratorModule, by_rank
from radar.training.other_grid import check_rotary


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

    def __init__(self, module: GenerativeModule, settings: SampleConfig, revise: bool = False) -> None:
        if not isinstance(module, GeneratorModule):
            raise InputError("only an autoregressive generator can be given cells, not a diffusion")
        if module.model.reader is not None:
            raise InputError("only tokens that are one place of the image can be given, not those of scales")
        self.module, self.settings, self.revise = module, settings, revise
        self._known: dict[tuple[tuple[int, ...], int], Slots] = {}
        self._planned: dict[Slots, list[Pass]] = {}

    def seeded(self, seed: int) -> "HoleFiller":
        """Fill the same with other random numbers; what is planned is shared."""
        other = copy(self)
        other.settings = replace(self.settings, seed=seed)
        return other

    def alike(self, hidden: Tensor, images: Sequence[int]) -> Iterator[Alike]:
        """Sort images with hidden cells (B, N) by the sizes of their groups; raises InputError where not possible."""
        orders = self.module.order.with_given(hidden, self.settings, torch.tensor(images))
        keys = [(tuple(order.sizes), order.given) for order in orders]
        for key in dict.fromkeys(keys):
            rows = [row for row, other in enumerate(keys) if other == key]
            slots, first = self._slots_of(*key), orders[rows[0]]
            check_rotary(slots, self.module)
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
                self.passes(part.slots),
                part.permutation,
                labels[part.rows],
                self.settings,
                numbers,
                trace,
                given=given,
            )
        return filled

    def nll(self, tokens: Tensor, hidden: Tensor, labels: Tensor, images: Sequence[int]) -> Tensor:
        """NLL (B,) in nats of the hidden cells given the others; exact where the variant revises nothing.

        Not a number where sampling finds the order.
        """
        found = torch.zeros(len(tokens), dtype=torch.float64, device=tokens.device)
        if self.settings.choice_temperature is not None:
            return found.fill_(torch.nan)
        for part in self.alike(hidden, images):
            slots = replace(part.slots, target=torch.where(part.slots.is_candidate, NONE, part.slots.target))
            if not slots.predicts_new.any():
                continue
            slots, mask = slots.to(self.module.device), self.module.scoring_mask(slots.mask())
            asks = slots.predicts_new[slots.predictions.source]
            for some in torch.arange(len(part.rows)).split(self.settings.batch_size):
                rows, permutation = part.rows[some], part.permutation[some]
                known = by_rank(tokens[rows], permutation)
                content = known[:, slots.rank.clamp(min=0)]
                losses = self.module.cross_entropy(slots, mask, content, labels[rows], permutation, known)
                found[rows] = losses[:, asks].double().sum(1)
        return found

    def _slots_of(self, sizes: tuple[int, ...], given: int) -> Slots:
        key = sizes, given
        if key not in self._known:
            self._known[key] = self.module.slots_of(sizes, self.settings).given(given, self.revise)
        return self._known[key]

    def passes(self, slots: Slots) -> list[Pass]:
        """Forward passes that decode the slots of `alike`; planned once."""
        if slots not in self._planned:
            candidates = self.settings.choice_temperature is not None
            self._planned[slots] = plan_passes(slots, self.settings.correction > 0, self.module.device, candidates)
        return self._planned[slots]
