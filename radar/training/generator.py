"""The LightningModule that trains a generator: transformer + order + attention variant.

Every training step draws its random numbers from (seed, batch number), so that a resumed run repeats them.
Legend: B images, N cells, S slots, T targets, K steps, V vocabulary.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from radar.attention import BACKENDS, NONE, Mask, Slots, banded
from radar.config.lookup import choose
from radar.config.options import Config
from radar.config.sampling import SampleConfig
from radar.data.batches import Batch
from radar.decoding.decoding_order import rows_of
from radar.parts import Draws, Part
from radar.sampling.draw import draw
from radar.tokenizers.multiscale import Pyramid
from radar.training.alignment import build_alignment
from radar.training.corruption import CORRUPTIONS, Sources, corruption_mask
from radar.training.devices import over_devices
from radar.training.generative import Sketch
from radar.training.layouts import LAYOUTS, Layout, layout_sketches
from radar.training.ordered import OrderedGenerator

LAYOUT_DRAWS = 16  # of a sampled layout, whose operations are counted


class GeneratorModule(OrderedGenerator):
    """A transformer that learns to decode in one order under one attention variant; arguments of OrderedGenerator."""

    judged_by = "val/nll"

    def __init__(
        self,
        config: Config,
        vocabulary: int,
        classes: int,
        grid: tuple[int, int],
        origin: dict[str, str] | None = None,
        step: Tensor | None = None,
        planned: bool = False,
        reader: Pyramid | None = None,
    ) -> None:
        # Query blocks take part of the mask, which only a dense one can be cut into.
        backend = choose("attention backend", "sdpa" if config.model.query_share else config.model.backend, BACKENDS)
        corruption = choose("corruption", config.train.corruption, CORRUPTIONS)
        layout = choose("layout", config.train.layout, LAYOUTS)
        super().__init__(config, vocabulary, classes, grid, origin, step, planned, reader)
        self.backend, self.corruption, self.layout = backend, corruption, layout
        self._packed: tuple[Any, Layout] | None = None
        self.alignment = build_alignment(
            config.train, self.model.shape.dim, len(self.model.blocks), self.reader is None
        )
        self._sums = torch.zeros(2, dtype=torch.float64)

    def packed(self) -> Layout:
        """All steps in one sequence; built once for a backend and device."""
        key = (self.device, self.backend, self.slots)
        if self._packed is None or self._packed[0] != key:
            slots, every = self.slots.to(self.device), torch.ones(len(self.slots), dtype=torch.bool)
            self._packed = (key, Layout(slots, self.backend(self.slots, self.device), every, 1.0))
        return self._packed[1]

    @property
    def takes_others(self) -> bool:  # type: ignore[override]
        """Where they replace known tokens."""
        return self.corruption.takes_others

    def sketches(self, draws: int, device: str) -> list[Sketch]:
        """One, or one of each random layout."""
        return layout_sketches(self, draws, device)

    @contextmanager
    def countable(self) -> Iterator[int]:
        """Under a dense mask and not compiled: the counter knows attention only by its matrix products."""
        backend, compiled = self.backend, self.model.compiled
        self.backend, self.model.compiled = BACKENDS["sdpa"], False
        try:
            yield 1 if self.layout(self).share == 1 else LAYOUT_DRAWS
        finally:
            self.backend, self.model.compiled = backend, compiled

    def cross_entropy(
        self, slots: Slots, mask: Mask, tokens: Tensor, labels: Tensor, permutation: Tensor, known: Tensor
    ) -> Tensor:
        """Loss (B, T) in nats of every target, given the slots' tokens (B, S) and the true ones (B, N) by rank."""
        truth = known[:, slots.predictions.target]
        hints = self.model.hints_of(slots, known)
        return self.model(slots, tokens, labels, permutation, mask, truth=truth, hints=hints)  # type: ignore[no-any-return]

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss = mean over the unknown cells + correction_weight * mean over the revised ones + the alignment's."""
        number, part = batch.number, batch.place
        self.seed_batch(number)
        layout, draws = self.layout(self), Draws(part, self.device)
        slots = layout.slots.to(self.device)
        permutation = self.order.in_training(batch.images, number, part).to(self.device)
        known = by_rank(batch.inputs, permutation)
        dropped = draws.uniform() < self.config.model.label_dropout
        labels = torch.where(dropped, self.model.classes, batch.labels)
        tokens = self._corrupted(batch, slots, known, labels, permutation, draws)
        self.seed_batch(number, part.first)  # dropout draws for the images of this part alone
        with self.watching() as seen:
            losses = self.cross_entropy(slots, layout.mask, tokens, labels, permutation, known)
        cells = torch.atleast_2d(permutation)[:, slots.rank.clamp(min=0)]
        aligned = self.aligned(seen, batch.inputs, cells, slots.rank != NONE)
        source = slots.predictions.source
        scored, revises = layout.scored.to(self.device)[source], slots.revises[source]
        # Divided by what the whole layout holds, so that a sampled part estimates the loss of the packed one.
        images, of_all = part.images * layout.share, int(self.slots.revises.sum())
        asked = losses[:, scored & ~revises].sum() / (images * (len(self.slots.predictions.target) - of_all))
        revised = losses[:, scored & revises].sum() / (images * max(1, of_all))
        if self.is_logged():
            asks = scored & slots.predicts_new[source]
            values = {"train/loss": asked} | self.aligned_value(aligned)
            values |= {"train/correction_loss": revised} if of_all else {}
            self._log_training(part, losses[:, asks], slots.predictions.target[asks], values)
        return self.checked((asked + self.config.train.correction_weight * revised + aligned) * part.weight)

    def _corrupted(
        self, batch: Batch, slots: Slots, known: Tensor, labels: Tensor, permutation: Tensor, draws: Draws
    ) -> Tensor:
        tokens, rate = known[:, slots.rank.clamp(min=0)], self.config.train.corruption_rate
        if not rate or not slots.revises.any():
            return tokens

        @torch.no_grad()
        def predict() -> Tensor:
            whole = self.slots.to(self.device)
            asks = whole.predicts_new[whole.predictions.source]
            chances = draws.uniform(int(asks.sum()))
            self.seed_batch(batch.number, draws.part.first)  # dropout, as above
            logits = self.model(
                whole, known[:, whole.rank.clamp(min=0)], labels, permutation, self.scoring_mask(self.mask)
            )
            drawn = draw(logits[:, asks].float().softmax(-1), chances)
            return torch.empty_like(known).index_copy_(1, whole.target[whole.predicts_new], drawn)

        def others() -> Tensor:
            assert batch.others is not None
            return by_rank(batch.others, permutation)

        bad = corruption_mask(slots, draws, rate)
        sources = Sources(draws, self.model.vocabulary, predict, others)
        return torch.where(bad, self.corruption.tokens(slots, sources), tokens)

    def _log_training(self, part: Part, losses: Tensor, ranks: Tensor, values: dict[str, Tensor]) -> None:
        step = torch.atleast_2d(self.step)[0].sort().values.to(ranks.device)[ranks]
        for k in step.unique().tolist():
            values[f"order/step_{k:03d}"] = losses[:, step == k].mean()
        if (means := self.over_parts(part, values)) is not None:
            self.log_values({**means, "train/images_seen": self.images_seen()})

    def nll(
        self, tokens: Tensor, labels: Tensor, settings: SampleConfig | None = None, images: Tensor | None = None
    ) -> Tensor:
        """Teacher-forced NLL (B,) in nats per image of the new cells; exact where the variant has no revision.

        In the layout and order that is trained, or with `settings` in the one that is sampled. `images` (B,) are their
        numbers, by default from 0 on, which matter where each has an order of its own.
        """
        slots, mask = self._layout_of(settings)
        images = torch.arange(len(tokens)) if images is None else images
        permutation = (
            rows_of(self.order.permutation, images).to(self.device)
            if settings is None
            else self.sampled_permutation(settings, images.tolist())
        )
        known = by_rank(tokens, permutation)
        losses = self.cross_entropy(slots, mask, known[:, slots.rank.clamp(min=0)], labels, permutation, known)
        return losses[:, slots.predicts_new[slots.predictions.source]].double().sum(1)

    def _layout_of(self, settings: SampleConfig | None) -> tuple[Slots, Mask]:
        if settings is None:
            return self.slots.to(self.device), self.scoring_mask(self.mask)
        slots = self.sampled_slots(settings)
        slots = replace(slots, target=torch.where(slots.is_candidate, NONE, slots.target))
        return slots.to(self.device), self.scoring_mask(slots.mask())

    def scoring_mask(self, mask: Tensor) -> Mask:
        """A whole mask where nothing is learned from it: on a CPU in bands, unless query blocks take parts of it."""
        whole = self.device.type != "cpu" or self.config.model.query_share
        return mask.to(self.device) if whole else banded(mask)

    def on_validation_epoch_start(self) -> None:
        """Start the sum over held-out images."""
        self._sums = torch.zeros(2, dtype=torch.float64)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add up the NLL of held-out images."""
        nll = self.nll(batch.inputs, batch.labels, images=batch.images)
        weight = batch.place.weight
        self._sums += weight * torch.tensor([float(nll.sum()), len(nll)], dtype=torch.float64)

    def on_validation_epoch_end(self) -> None:
        """Log the mean held-out NLL in nats per image."""
        self.log_validation()

    def validation_values(self) -> dict[str, float]:
        """Mean held-out NLL in nats per image."""
        total, images = over_devices(self._sums).tolist()
        return {"val/nll": total / images}


def by_rank(tokens: Tensor, permutation: Tensor) -> Tensor:
    """Tokens (B, N) by cell in decoding order, given the cells in it: (N,), or (B, N)."""
    return tokens.gather(1, permutation) if permutation.ndim == 2 else tokens[:, permutation]
