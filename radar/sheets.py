"""Sheets of images: grids, film strips and animations, with captions. Colours as Okabe and Ito chose them."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from radar.files import replacing

Pixels = NDArray[np.uint8]
WRITTEN, REVISED, UNKNOWN = (0, 114, 178), (230, 159, 0), (200, 200, 200)  # blue, orange, grey
LEGEND = (("written", WRITTEN), ("changed", REVISED), ("unknown", UNKNOWN))
KEPT = (*(colour for _, colour in LEGEND), (0, 0, 0), (255, 255, 255))  # exactly, whatever else a picture holds
PLACES = np.array([1 << 16, 1 << 8, 1], dtype=np.int32)  # make one number of a colour
LINE = 14  # pixels of a line of text


def with_palette(pixels: Pixels) -> Image.Image:
    """Picture of (H, W, 3) uint8 pixels in 256 colours: exact where there are no more, else KEPT and the nearest."""
    shown = Image.fromarray(pixels)
    if (counted := shown.getcolors(256)) is not None:
        colours = np.array(sorted(colour for _, colour in counted))
        index = np.searchsorted(colours @ PLACES, pixels.astype(np.int32) @ PLACES)
    else:
        nearest = shown.quantize(256 - len(KEPT), dither=Image.Dither.NONE)
        found = nearest.getpalette() or []
        colours = np.concatenate([np.array(KEPT), np.array(found).reshape(-1, 3)])
        index = np.asarray(nearest) + len(KEPT)
        for number, colour in enumerate(KEPT):
            index = np.where((pixels == colour).all(-1), number, index)
    picture = Image.fromarray(index.astype(np.uint8))
    picture.putpalette(colours.astype(np.uint8).tobytes())
    return picture


def save_image(pixels: Pixels, path: Path) -> None:
    """Write (H, W, 3) uint8 pixels as a PNG with a palette."""
    with replacing(path) as temporary:
        with_palette(pixels).save(temporary, format="PNG", optimize=True)


def tile(images: Tensor, columns: int, scale: int, gap: int = 1) -> NDArray[np.uint8]:
    """Lay images (B, 3, H, W) uint8 out in a grid: (rows, columns, 3) uint8, enlarged by whole pixels."""
    count, _, h, w = images.shape
    rows = math.ceil(count / columns)
    sheet = np.full((rows * (h * scale + gap) + gap, columns * (w * scale + gap) + gap, 3), 255, dtype=np.uint8)
    for i, image in enumerate(images.numpy()):
        top, left = (i // columns) * (h * scale + gap) + gap, (i % columns) * (w * scale + gap) + gap
        large = image.transpose(1, 2, 0).repeat(scale, 0).repeat(scale, 1)
        sheet[top : top + h * scale, left : left + w * scale] = large
    return sheet


def pixel_scale(width: int, wanted: int = 64) -> int:
    """Whole factor that shows an image at about `wanted` pixels."""
    return max(1, wanted // width)


def overlay(images: Tensor, written: Tensor, revised: Tensor, known: Tensor, grid: tuple[int, int]) -> Tensor:
    """Mark cells in images (B, 3, H, W): written blue, revised orange, unknown grey; masks are (B, N) bool."""
    h, w = images.shape[2] // grid[0], images.shape[3] // grid[1]

    def spread(cells: Tensor) -> Tensor:
        return cells.view(-1, 1, *grid).repeat_interleave(h, 2).repeat_interleave(w, 3)

    marked = torch.where(spread(known), images, 200).float()
    for cells, colour in ((written, WRITTEN), (revised, REVISED)):
        tint = torch.tensor(colour).view(1, 3, 1, 1).float()
        marked = torch.where(spread(cells), 0.55 * marked + 0.45 * tint, marked)
    return marked.round().to(torch.uint8)


def captioned(
    sheet: Pixels, columns: Sequence[str] = (), rows: Sequence[str] = (), legend: bool = False, title: str = ""
) -> Pixels:
    """Write names over the columns and before the rows of a sheet, a title above, what the colours mean below."""
    font = ImageFont.load_default(LINE - 3)
    left = max((math.ceil(font.getlength(name)) for name in rows), default=-6) + 6
    top, bottom = LINE * (bool(columns) + bool(title)), LINE * legend
    wide = max(sheet.shape[1], 200) if legend or title else sheet.shape[1]
    picture = Image.new("RGB", (wide + left, sheet.shape[0] + top + bottom), "white")
    picture.paste(Image.fromarray(sheet), (left, top))
    pen = ImageDraw.Draw(picture)
    pen.text((left, 0), title, "black", font)
    width, height = sheet.shape[1] / max(1, len(columns)), sheet.shape[0] / max(1, len(rows))
    for number, name in enumerate(columns):
        while font.getlength(name) > width - 2 and len(name) > 1:
            name = name[:-1]
        pen.text((left + (number + 0.5) * width, top - LINE), name, "black", font, anchor="ma")
    for number, name in enumerate(rows):
        pen.text((left - 4, top + (number + 0.5) * height), name, "black", font, anchor="rm")
    at = left
    for name, colour in LEGEND if legend else ():
        pen.rectangle((at, top + sheet.shape[0] + 3, at + 8, top + sheet.shape[0] + 11), colour)
        pen.text((at + 11, top + sheet.shape[0] + 1), name, "black", font)
        at += 20 + math.ceil(font.getlength(name))
    return np.asarray(picture)


def save_gif(frames: Sequence[Pixels], path: Path, milliseconds: int = 250) -> None:
    """Write an animation that rests on its last frame."""
    pictures = [with_palette(frame) for frame in frames]
    durations = [milliseconds] * (len(frames) - 1) + [6 * milliseconds]
    with replacing(path) as temporary:
        pictures[0].save(temporary, save_all=True, append_images=pictures[1:], duration=durations, loop=0)
