"""Which cells of an image are hidden: a box, what is kept, or a picture of a mask.

To add a way to keep: a function and a line in KEEPS. Legend: B images, N cells, h x w cells, H x W pixels.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from radar.config.lookup import choose, takes
from radar.data.files import examine, open_image
from radar.errors import InputError
from radar.seeding import Stream, generator

Box = Sequence[float]  # left, top, right, bottom as fractions of the sides


def inside(h: int, w: int, box: Box) -> Tensor:
    """(h, w) True in cells that a box covers, in whole or in part.

    >>> inside(2, 4, (0.5, 0.0, 0.8, 0.5)).int().tolist()
    [[0, 0, 1, 1], [0, 0, 0, 0]]
    """
    left, top, right, bottom = box
    rows, columns = (_touched(count, *ends) for count, ends in ((h, (top, bottom)), (w, (left, right))))
    return rows[:, None] & columns


def _touched(count: int, low: float, high: float) -> Tensor:
    edges = torch.arange(count + 1, dtype=torch.float64) / count
    return (edges[:-1] < high - 1e-9) & (edges[1:] > low + 1e-9)


def left(h: int, w: int, share: float = 0.5) -> Tensor:
    """Keep the left part."""
    return ~inside(h, w, (share, 0, 1, 1))


def right(h: int, w: int, share: float = 0.5) -> Tensor:
    """Keep the right part."""
    return ~inside(h, w, (0, 0, 1 - share, 1))


def top(h: int, w: int, share: float = 0.5) -> Tensor:
    """Keep the upper part."""
    return ~inside(h, w, (0, share, 1, 1))


def bottom(h: int, w: int, share: float = 0.5) -> Tensor:
    """Keep the lower part."""
    return ~inside(h, w, (0, 0, 1, 1 - share))


def center(h: int, w: int, share: float = 0.5) -> Tensor:
    """Keep a box in the middle whose sides are that share of the image's."""
    low, high = (1 - share) / 2, (1 + share) / 2
    sides = ((0, 0, low, 1), (high, 0, 1, 1), (0, 0, 1, low), (0, high, 1, 1))
    return ~torch.stack([inside(h, w, side) for side in sides]).any(0)


def border(h: int, w: int, share: float = 0.25) -> Tensor:
    """Keep a frame as wide as that share of the image's sides."""
    return ~inside(h, w, (share, share, 1 - share, 1 - share))


def random(h: int, w: int, share: float = 0.5, *, image: int) -> Tensor:
    """Keep that share of the cells, others in each image."""
    drawn = torch.rand(h * w, generator=generator(Stream.HOLE, image)).argsort().argsort()
    return (drawn < round(share * h * w)).view(h, w)


def all_but_box(h: int, w: int, share: float = 0.5, *, image: int) -> Tensor:
    """Keep all but a box whose sides are that share of the image's, elsewhere in each image."""
    place = torch.rand(2, generator=generator(Stream.HOLE, image)).tolist()
    high, wide = max(1, round(share * h)), max(1, round(share * w))
    row, column = (int(at * (count - size + 1)) for at, count, size in zip(place, (h, w), (high, wide), strict=True))
    kept = torch.ones(h, w, dtype=torch.bool)
    kept[row : row + high, column : column + wide] = False
    return kept


KEEPS: dict[str, Callable[..., Tensor]] = {
    function.__name__: function for function in (left, right, top, bottom, center, border, random, all_but_box)
}


def hidden_by_keep(text: str, h: int, w: int, images: Sequence[int]) -> Tensor:
    """Hidden cells (B, N) of images, of which `text` says what is kept: NAME or NAME:SHARE.

    Raises InputError for an unknown name, or a share that is not between 0 and 1.
    """
    name, _, number = text.partition(":")
    function = choose("part to keep", name, KEEPS)
    try:
        share = [float(number)] if number else []
    except ValueError:
        share = [-1.0]
    if not all(0 <= value <= 1 for value in share):
        raise InputError(f"--keep {text} is not possible: NAME:SHARE with a share from 0 to 1 expected")
    if takes(name, KEEPS, "image"):
        return torch.stack([~function(h, w, *share, image=image).flatten() for image in images])
    return (~function(h, w, *share)).flatten().expand(len(images), -1)


def hidden_by_box(box: Box, h: int, w: int) -> Tensor:
    """Hidden cells (N,) of a box; raises InputError where it is none, or outside the image."""
    if len(box) != 4 or not (0 <= box[0] < box[2] <= 1 and 0 <= box[1] < box[3] <= 1):
        given = ",".join(f"{part:g}" for part in box)
        raise InputError(
            f"--box {given} is not possible: left, top, right, bottom expected, as fractions of the image from 0 to 1, "
            "the first two smaller"
        )
    return inside(h, w, box).flatten()


def hidden_by_picture(path: str, size: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Hidden cells (N,): those where any pixel of a picture of (H, W) pixels is white, or light.

    Raises InputError for a file that is no picture, or of another size.
    """
    if not Path(path).is_file():
        raise InputError(f"--mask {path} does not exist")
    if (why := examine(Path(path))[1]) is not None:
        raise InputError(f"--mask {path} is no picture that can be read: {why}")
    light = np.asarray(open_image(Path(path), "black").convert("L")) >= 128
    if light.shape != size:
        raise InputError(f"--mask {path} has {light.shape[1]}x{light.shape[0]} pixels, the images {size[1]}x{size[0]}")
    cells = light.reshape(grid[0], size[0] // grid[0], grid[1], size[1] // grid[1]).any((1, 3))
    return torch.from_numpy(cells.flatten())


def pixels_of(hidden: Tensor, images: Tensor, grid: tuple[int, int]) -> Tensor:
    """Hidden pixels (B, 1, H, W) of images (B, 3, H, W), from their hidden cells (B, N)."""
    size = images.shape[2:]
    cells = hidden.view(-1, 1, *grid)
    return cells.repeat_interleave(size[0] // grid[0], 2).repeat_interleave(size[1] // grid[1], 3)
