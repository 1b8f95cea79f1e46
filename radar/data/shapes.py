"""shapes: procedural 32x32 RGB images of 10 classes, unlimited, each a pure function of (seed, split, index).

One filled shape of one colour on a plain background. Since the drawing rule is known, `well_formed` can say whether
any image is a member of its class: it finds background, foreground and bounding box, draws the ideal shape there,
and compares.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from radar.data.images import ImageData

SIDE = 32
CONTRAST = 100.0  # least distance of the two colours in RGB
OVERLAP = 0.85  # least intersection over union with the ideal shape
SPREAD = 40.0  # largest RMS distance of a region's pixels from its mean colour

Plane = NDArray[np.float64]

# Membership of the point (u, v) in a shape whose bounding square is [-1, 1] x [-1, 1]; v grows downwards.
FIGURES: dict[str, Callable[[Plane, Plane], NDArray[np.bool_]]] = {
    "circle": lambda u, v: u * u + v * v <= 1,
    "ring": lambda u, v: (u * u + v * v <= 1) & (u * u + v * v > 0.3),
    "square": lambda u, v: np.maximum(abs(u), abs(v)) <= 1,
    "frame": lambda u, v: (np.maximum(abs(u), abs(v)) <= 1) & (np.maximum(abs(u), abs(v)) > 0.55),
    "diamond": lambda u, v: abs(u) + abs(v) <= 1,
    "triangle": lambda u, v: (abs(u) <= (1 + v) / 2) & (abs(v) <= 1),
    "plus": lambda u, v: (np.minimum(abs(u), abs(v)) <= 0.3) & (np.maximum(abs(u), abs(v)) <= 1),
    "cross": lambda u, v: (abs(abs(u) - abs(v)) <= 0.3) & (np.maximum(abs(u), abs(v)) <= 1),
    "bar": lambda u, v: (abs(v) <= 0.35) & (abs(u) <= 1),
    "pillar": lambda u, v: (abs(u) <= 0.35) & (abs(v) <= 1),
}
NAMES = tuple(FIGURES)


def draw_figure(label: int, row: float, column: float, half: float) -> NDArray[np.bool_]:
    """Mask (32, 32) of a shape by class, centre and half side in pixels."""
    rows, columns = np.mgrid[:SIDE, :SIDE].astype(np.float64)
    return FIGURES[NAMES[label]]((columns - column) / half, (rows - row) / half)


@dataclass(frozen=True)
class ShapeImages:
    """A stream of shapes; labels go round the classes."""

    seed: int
    stream: int
    count: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if not 0 <= index < self.count:
            raise IndexError(index)
        random = np.random.default_rng([self.seed, self.stream, index])
        label = index % len(NAMES)
        half = int(random.integers(6, 12))
        row, column = random.integers(half + 1, SIDE - 1 - half, size=2)
        while True:
            colours = random.integers(0, 256, size=(2, 3))
            if np.linalg.norm(colours[0] - colours[1]) >= CONTRAST:
                break
        picture = colours[draw_figure(label, row, column, half).astype(int)]
        return torch.from_numpy(picture.transpose(2, 0, 1).astype(np.uint8)), label


def is_well_formed(image: NDArray[np.uint8], label: int) -> bool:
    """Tell whether an image (3, 32, 32) shows one clean shape of class `label` on a plain background."""
    pixels = image.transpose(1, 2, 0).astype(np.float64)
    border = np.concatenate([pixels[0], pixels[-1], pixels[1:-1, 0], pixels[1:-1, -1]])
    distance = np.linalg.norm(pixels - np.median(border, axis=0), axis=-1)
    figure = distance > distance.max() / 2
    rows, columns = np.nonzero(figure)
    regions = (pixels[figure], pixels[~figure])
    if not all(map(len, regions)) or np.linalg.norm(regions[0].mean(0) - regions[1].mean(0)) < 0.7 * CONTRAST:
        return False
    if any(np.sqrt(((region - region.mean(0)) ** 2).sum(-1).mean()) > SPREAD for region in regions):
        return False
    top, bottom, left, right = rows.min(), rows.max(), columns.min(), columns.max()
    half = max(bottom - top, right - left) / 2
    if not 4 <= half <= 14:
        return False
    ideal = draw_figure(label, (top + bottom) / 2, (left + right) / 2, half)
    return bool((figure & ideal).sum() / (figure | ideal).sum() >= OVERLAP)


def well_formed(images: Tensor, labels: Tensor) -> Tensor:
    """Apply `is_well_formed` to images (B, 3, 32, 32) and labels (B,): (B,) bool."""
    pairs = zip(images.cpu().numpy(), labels.tolist(), strict=True)
    return torch.tensor([is_well_formed(image, label) for image, label in pairs])


def shapes(images: int = 10_000, seed: int = 0) -> ImageData:
    """Build the stream: the first `images` are trained on; a tenth as many (100 at least) of another are held out."""
    return ImageData(
        name="shapes",
        classes=NAMES,
        size=(SIDE, SIDE),
        crop="none",
        identity=f"shapes images={images} seed={seed}",
        train=ShapeImages(seed, 0, images),
        held_out=ShapeImages(seed, 1, max(100, images // 10)),
        well_formed=well_formed,
    )
