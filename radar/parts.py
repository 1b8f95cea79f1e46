"""Parts of a training batch: micro-batches on several devices, and random numbers that no cut changes.

What is random about an image is a function of (seed, iteration, place in the batch): every device draws for the whole
batch and takes its own rows. So 1, 2 and 4 devices, and any size of micro-batches, train the same run.
Legend: G images of the whole batch, B images of a part.
"""

from itertools import pairwise
from typing import NamedTuple, Self

import torch
from torch import Tensor

from radar.errors import InputError


class Part(NamedTuple):
    """Images `first` to `first + images` of a batch of `whole` images, one of `parts`.

    Attributes:
        last: whether it is the last one that its device goes through in an iteration.
    """

    first: int
    images: int
    whole: int
    parts: int = 1
    last: bool = True

    @classmethod
    def all(cls, images: int) -> Self:
        """The whole batch at once."""
        return cls(0, images, images)

    @property
    def weight(self) -> float:
        """Factor on the mean loss of this part, for the mean over all parts to be that of the batch."""
        return self.images * self.parts / self.whole

    def of(self, rows: Tensor) -> Tensor:
        """Rows (B, ...) of this part, of those of the whole batch (G, ...)."""
        return rows[self.first : self.first + self.images]


class Draws(NamedTuple):
    """Random numbers of the images of a part, on a device whose generator is seeded by (seed, iteration)."""

    part: Part
    device: torch.device

    def uniform(self, *shape: int) -> Tensor:
        """Numbers (B, *shape) from 0 to 1."""
        return self.part.of(torch.rand(self.part.whole, *shape, device=self.device))

    def normal(self, *shape: int) -> Tensor:
        """Numbers (B, *shape) of the normal distribution."""
        return self.part.of(torch.randn(self.part.whole, *shape, device=self.device))

    def integers(self, high: int, *shape: int) -> Tensor:
        """Integers (B, *shape) from 0 to `high` - 1."""
        return self.part.of(torch.randint(high, (self.part.whole, *shape), device=self.device))


def cut(whole: int, devices: int, micro_batch: int | None) -> list[list[Part]]:
    """Cut a batch into parts of at most `micro_batch` images, as many for each device, nearly equal: [device][part].

    Raises InputError where the batch has too few images.
    """
    each = -(-whole // devices)
    count = -(-each // min(each, micro_batch or each))
    parts = devices * count
    if whole < parts:
        raise InputError(
            f"train.batch_size={whole} is not possible on {devices} devices with {count} parts of a step each: every "
            f"part needs an image; choose {parts} at least"
        )
    ends = [number * whole // parts for number in range(parts + 1)]
    flat = [Part(a, b - a, whole, parts, i % count == count - 1) for i, (a, b) in enumerate(pairwise(ends))]
    return [flat[device * count : (device + 1) * count] for device in range(devices)]
