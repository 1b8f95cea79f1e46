"""digits: 1,797 real 8x8 handwritten digits (scikit-learn's copy of the UCI test set); of its grey levels 0..16, g is
shown as round(g * 255 / 16).
"""

from functools import cache

import numpy as np
import torch
from sklearn.datasets import load_digits

from radar.data.images import GreyImages, ImageData, stratified_split

LEVELS = 17


@cache  # planning a study asks for them once per trial
def digits(held_out: float = 0.25, seed: int = 0) -> ImageData:
    """Load the digits with a fixed stratified split; `held_out` is the share that is never trained on."""
    source = load_digits()
    levels = torch.from_numpy(source.images).float()
    images = (levels * 255 / (LEVELS - 1)).round().to(torch.uint8)[:, None]
    labels = source.target.astype(np.int64)
    train, test = stratified_split(labels, held_out, seed)
    return ImageData(
        name="digits",
        classes=tuple(str(name) for name in source.target_names),
        size=(8, 8),
        crop="none",
        identity=f"digits held_out={held_out} seed={seed}",
        train=GreyImages(images[train], labels[train]),
        held_out=GreyImages(images[test], labels[test]),
    )
