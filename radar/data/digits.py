"""digits: 1,797 real 8x8 handwritten digits with grey levels 0..16 (scikit-learn's copy of the UCI test set)."""

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import Tensor

from radar.data.images import ImageData, stratified_split

LEVELS = 17


@dataclass(frozen=True)
class DigitImages:
    """A split of the digits, grey level g shown as round(g * 255 / 16) in all three channels."""

    images: Tensor
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], int(self.labels[index])


@cache  # planning a study asks for them once per trial
def digits(held_out: float = 0.25, seed: int = 0) -> ImageData:
    """Load the digits with a fixed stratified split; `held_out` is the share that is never trained on."""
    source = load_digits()
    levels = torch.from_numpy(source.images).float()
    images = (levels * 255 / (LEVELS - 1)).round().to(torch.uint8)[:, None].expand(-1, 3, -1, -1)
    labels = source.target.astype(np.int64)
    train, test = stratified_split(labels, held_out, seed)
    return ImageData(
        name="digits",
        classes=tuple(str(name) for name in source.target_names),
        size=(8, 8),
        crop="none",
        identity=f"digits held_out={held_out} seed={seed}",
        train=DigitImages(images[train], labels[train]),
        held_out=DigitImages(images[test], labels[test]),
    )
