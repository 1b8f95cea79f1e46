"""Views of training images, encoded once; every batch draws one of each image. Held-out images have none.

Legend: V views, M images, H x W pixels. To add one: a function and a line in AUGMENTS.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from radar.config.lookup import choose
from radar.data.images import ImageData, center_crop, to_tensor

Larger = Callable[[int], Tensor]  # side in pixels -> the same image, cropped to it


def none(image: Tensor, larger: Larger) -> Tensor:
    """Only the image itself (3, H, W): (1, 3, H, W)."""
    return image[None]


def flip(image: Tensor, larger: Larger) -> Tensor:
    """Also its mirror image, as with ADM's crop (RandAR, ARPG, LPD, MAR, DiT): (2, 3, H, W)."""
    return torch.stack([image, image.flip(-1)])


def tencrop(image: Tensor, larger: Larger) -> Tensor:
    """LlamaGen's: middle, four corners, mirrored too, of crops 1.1 and 1.05 times as large: (20, 3, H, W)."""
    h, w = image.shape[1:]
    found = []
    for factor in (1.1, 1.05):
        large = larger(int(min(h, w) * factor))
        bottom, right = large.shape[1] - h, large.shape[2] - w
        corners = [(bottom // 2, right // 2), (0, 0), (0, right), (bottom, 0), (bottom, right)]
        crops = [large[:, top : top + h, left : left + w] for top, left in corners]
        found += crops + [crop.flip(-1) for crop in crops]
    return torch.stack(found)


class Augment(NamedTuple):
    """How many views an image has, and what makes them."""

    views: int
    make: Callable[[Tensor, Larger], Tensor]


AUGMENTS = {"none": Augment(1, none), "flip": Augment(2, flip), "tencrop": Augment(20, tencrop)}


@dataclass
class AugmentedImages:
    """All views of the training images, those of an image behind each other: M * V images."""

    data: ImageData
    augment: Augment = field(init=False)
    last: tuple[int, Tensor, int] | None = field(default=None, init=False)  # number, views and label of an image

    def __post_init__(self) -> None:
        self.augment = choose("augmentation", self.data.augment, AUGMENTS)

    def __len__(self) -> int:
        return len(self.data.train) * self.augment.views

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        number, view = divmod(index, self.augment.views)
        if self.last is None or self.last[0] != number:
            image, label = self.data.train[number]
            self.last = number, self.augment.make(image, lambda side: self._larger(number, image, side)), label
        return self.last[1][view], self.last[2]

    def _larger(self, number: int, image: Tensor, side: int) -> Tensor:
        """From the original where the data set can, otherwise from the image itself."""
        if self.data.larger is not None:
            return self.data.larger(number, side)
        pixels = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
        return to_tensor(center_crop(pixels, side))
