"""Training batches as pure functions of (seed, i), and a split once in order.

Legend: B images of a batch, N cells.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import NamedTuple

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from radar.config.options import Config
from radar.data import AugmentedImages, ImageData, ImageSet
from radar.data.images import load_images, spread
from radar.parts import Part, cut
from radar.seeding import Stream, derive

LOOKED_AT = 256  # images that are looked at at once


@lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(count)


def batch_indices(seed: int, number: int, batch: int, count: int) -> NDArray[np.int64]:
    """Indices (B,) of training batch `number`: epochs are permutations laid end to end, batches may straddle them."""
    position = np.arange(number * batch, (number + 1) * batch)
    return np.array([_permutation(seed, int(p) // count, count)[int(p) % count] for p in position])


# Indices (B,) of images, and of their views, -> tokens or images, labels.
Gather = Callable[[NDArray[np.int64], NDArray[np.int64]], tuple[Tensor, Tensor]]


class Batch(NamedTuple):
    """Number of the batch, its tokens (B, N) or images (B, 3, H, W), labels (B,), and numbers in the split (B,).

    Of a training batch they may be a part; `others` (B, N) are then tokens of other images of the whole.
    """

    number: int
    inputs: Tensor
    labels: Tensor
    images: Tensor
    part: Part | None = None
    others: Tensor | None = None

    @property
    def place(self) -> Part:
        """Which part it is, by default all."""
        return self.part or Part.all(len(self.labels))


@dataclass
class BatchDataset(Dataset[Batch]):
    """Parts of training batches, batch i a pure function of (seed, i), from number `start` on: resume is exact.

    Of every image it takes one of its `views`, by (seed, i, place in the batch).

    Args:
        batch: images of a whole batch.
        parts: those that this device goes through, by default all at once.
        others: whether the inputs of other images of the batch come along.
    """

    gather: Gather
    count: int
    batch: int
    seed: int
    total: int
    start: int = 0
    views: int = 1
    parts: Sequence[Part] = ()
    others: bool = False

    def __post_init__(self) -> None:
        self.parts = self.parts or [Part.all(self.batch)]

    def __len__(self) -> int:
        return self.total * len(self.parts)

    def __getitem__(self, index: int) -> Batch:
        if not 0 <= index < len(self):
            raise IndexError(index)
        number, part = self.start + index // len(self.parts), self.parts[index % len(self.parts)]
        images = batch_indices(self.seed, number, self.batch, self.count)
        random = np.random.default_rng(derive(Stream.AUGMENT, self.seed, number))
        views = random.integers(self.views, size=self.batch)
        mine = np.arange(part.first, part.first + part.images)
        inputs, labels = self.gather(images[mine], views[mine])
        theirs = random.permutation(self.batch)[mine] if self.others else None
        others = None if theirs is None else self.gather(images[theirs], views[theirs])[0]
        return Batch(number, inputs, labels, torch.from_numpy(images[mine]), part, others)


@dataclass
class OrderedBatches(Dataset[Batch]):
    """A split once, in order, the first view of every image; or `most` of its images, evenly spread.

    Of several `devices` each takes every so many-th batch. All take as many: what is one too much has weight 0.
    """

    gather: Gather
    count: int
    batch: int
    most: int | None = None
    device: int = 0
    devices: int = 1

    @cached_property
    def images(self) -> NDArray[np.int64]:
        """Numbers of the images."""
        return np.asarray(spread(self.count, self.count if self.most is None else self.most))

    def __len__(self) -> int:
        return -(-len(self.images) // (self.batch * self.devices))

    def __getitem__(self, index: int) -> Batch:
        if not 0 <= index < len(self):
            raise IndexError(index)
        first = (index * self.devices + self.device) * self.batch
        images = self.images[first : first + self.batch]
        surplus = not len(images)
        images = self.images[: self.batch] if surplus else images
        part = Part(0, 0, len(images)) if surplus else Part.all(len(images))
        return Batch(index, *self.gather(images, np.zeros_like(images)), torch.from_numpy(images), part)


class BatchDataModule(LightningDataModule):
    """One long epoch of pure-function training batches, and the held-out split in order.

    Args:
        config: seed, batch size, steps, workers.
        train, held_out: functions from indices to (inputs, labels), each with the number of images.
        views: of every training image.
        others: whether the inputs of other images of a training batch come along.
    """

    def __init__(
        self,
        config: Config,
        train: tuple[Gather, int],
        held_out: tuple[Gather, int],
        views: int = 1,
        others: bool = False,
    ) -> None:
        super().__init__()
        self.config, self.train, self.held_out, self.views, self.others = config, train, held_out, views, others

    def train_dataloader(self) -> DataLoader[Batch]:
        """Continue behind the batches that the restored optimizer steps have used."""
        t, step = self.config.train, self.trainer.global_step if self.trainer else 0
        # One batch more than needed: training ends by max_steps and never at the end of an epoch.
        seed, total = derive(Stream.DATA, self.config.seed), t.max_steps + 1
        device, devices = self._device()
        parts = cut(t.batch_size, devices, t.micro_batch)[device]
        batches = BatchDataset(*self.train, t.batch_size, seed, total, step, self.views, parts, self.others)
        return DataLoader(batches, batch_size=None, num_workers=self.config.data.workers)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Held-out images in order."""
        t, (device, devices) = self.config.train, self._device()
        size = max(part.images for part in cut(t.batch_size, t.devices * t.nodes, t.micro_batch)[0])
        batches = OrderedBatches(*self.held_out, size, t.val_images, device, devices)
        return DataLoader(batches, batch_size=None, num_workers=self.config.data.workers)

    def _device(self) -> tuple[int, int]:
        """Number of this device, and of all."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)


def image_batches(config: Config, data: ImageData) -> BatchDataModule:
    """Build batches of images, for a tokenizer to learn from."""

    train, held_out = AugmentedImages(data), data.held_out
    count = train.augment.views
    return BatchDataModule(
        config,
        (partial(gather_images, train, count), len(data.train)),
        (partial(gather_images, held_out, 1), len(held_out)),
        count,
    )


def gather_images(
    split: ImageSet, views: int, index: NDArray[np.int64], view: NDArray[np.int64]
) -> tuple[Tensor, Tensor]:
    """Images (B, 3, H, W) uint8 and labels (B,) at `index`, each in one of its views."""
    return load_images(split, (index * views + view).tolist())


def in_order(split: ImageSet, most: int | None = None, batch: int = LOOKED_AT, workers: int = 0) -> DataLoader[Batch]:
    """Images of a split once, all or `most` evenly spread, read by so many processes: never all in memory."""
    read = OrderedBatches(partial(gather_images, split, 1), len(split), batch, most)
    return DataLoader(read, batch_size=None, num_workers=workers)
