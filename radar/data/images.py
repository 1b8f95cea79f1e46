"""What every data set is: two splits of labelled images and a description."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.model_selection import train_test_split
from torch import Tensor

from radar.data.token_arrays import TokenSplit
from radar.errors import InputError


class ImageSet(Protocol):
    """One split."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[Tensor, int]:
        """Image (3, H, W) uint8 and label."""
        ...


@dataclass(frozen=True)
class ImageData:
    """A data set.

    Attributes:
        name: for columns and file names.
        classes: class names; a label is an index into them.
        size: (H, W) in pixels.
        crop: what was done to the pixels before they came here.
        identity: hash or description that changes when the images do.
        train, held_out: the splits.
        augment: which views the training images have (radar/data/augment.py).
        larger: number and side -> a training image cropped to that side from its original, where there is one.
        codes: tokens by split, where they were encoded elsewhere and there are no images.
        well_formed: images (B, 3, H, W), labels (B,) -> (B,) bool, where the data set can tell.
        counts: training images of each class, where that and not the images is known: enough to sample.
    """

    name: str
    classes: tuple[str, ...]
    size: tuple[int, int]
    crop: str
    identity: str
    train: ImageSet
    held_out: ImageSet
    augment: str = "none"
    larger: Callable[[int, int], Tensor] | None = None
    well_formed: Callable[[Tensor, Tensor], Tensor] | None = None
    codes: dict[str, TokenSplit] | None = None
    counts: tuple[int, ...] | None = None


@dataclass(frozen=True)
class GreyImages:
    """A split in memory: images (M, 1, H, W) uint8, shown in all three channels, and labels (M,)."""

    images: Tensor
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index].expand(3, -1, -1), int(self.labels[index])


class NoImages:
    """A split that has none."""

    def __len__(self) -> int:
        return 0

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        raise IndexError(index)


@dataclass(frozen=True)
class Section:
    """Images from number `first` on, up to `end`, of a split."""

    split: ImageSet
    first: int
    end: int

    def __len__(self) -> int:
        return self.end - self.first

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.split[self.first + index]


def center_crop(image: Image.Image, size: int) -> Image.Image:
    """Crop as ADM (guided-diffusion) does: halve by box filter while twice too large, then bicubic, then the middle."""
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    shape = (max(size, round(image.width * scale)), max(size, round(image.height * scale)))
    image = image.resize(shape, Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def to_tensor(image: Image.Image) -> Tensor:
    """Image (3, H, W) uint8."""
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)


def load_images(split: ImageSet, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Stack images (B, 3, H, W) uint8 and labels (B,) of one split."""
    images, labels = zip(*(split[i] for i in indices), strict=True)
    return torch.stack(images), torch.tensor(labels)


def split_images(split: ImageSet, most: int | None = None) -> tuple[Tensor, Tensor]:
    """Load images and labels of a split, all or `most` evenly spread."""
    return load_images(split, spread(len(split), len(split) if most is None else most))


def spread(count: int, most: int) -> Sequence[int]:
    """All numbers below `count`, or `most` of them, evenly spread."""
    return range(count) if most >= count else np.linspace(0, count - 1, most).round().astype(int).tolist()


def stratified_split(
    labels: NDArray[np.int64], held_out: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of the train and the held-out split, with the same share of each class; raises InputError."""
    counts = np.bincount(labels)
    if (counts == 1).any():
        raise InputError(
            f"class {int((counts == 1).argmax())} (counted from 0, by name) has one image alone: at least 2 expected, "
            "to learn from one and to hold one out"
        )
    if math.ceil(held_out * len(labels)) < (classes := int((counts > 0).sum())):
        raise InputError(
            f"data.held_out={held_out} of {len(labels)} images is less than one for each of {classes} classes; choose "
            "a larger share"
        )
    try:
        train, test = train_test_split(np.arange(len(labels)), test_size=held_out, stratify=labels, random_state=seed)
    except ValueError as error:
        raise InputError(f"data.held_out={held_out} cannot split {len(labels)} images by class: {error}") from error
    return np.sort(train), np.sort(test)
