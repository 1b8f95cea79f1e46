"""PNGs and GIFs of orders, masks and samples. Colours are told apart by the colour-blind (viridis, Okabe-Ito)."""

import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from radar.attention import NONE, Slots
from radar.files import replacing

WRITTEN, REVISED = (0, 114, 178), (230, 159, 0)  # blue, orange


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure whole or not at all, and close it."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120, bbox_inches="tight")
    plt.close(figure)


def save_image(pixels: NDArray[np.uint8], path: Path) -> None:
    """Write (H, W, 3) uint8 pixels as PNG."""
    with replacing(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG")


def draw_steps(maps: Sequence[tuple[str, Tensor]]) -> Figure:
    """Draw step maps (h, w), early dark, late bright; numbers in the cells of small grids."""
    columns = min(4, len(maps))
    rows = math.ceil(len(maps) / columns)
    figure, axes = plt.subplots(rows, columns, figsize=(3 * columns, 3.2 * rows), squeeze=False)
    for axis in axes.flat[len(maps) :]:
        axis.axis("off")
    for axis, (title, grid) in zip(axes.flat, maps, strict=False):
        axis.imshow(grid, cmap="viridis")
        axis.set_title(title, fontsize=9)
        axis.set_xticks([])
        axis.set_yticks([])
        if grid.numel() <= 64:
            for (r, c), step in np.ndenumerate(grid.numpy()):
                colour = "white" if step < grid.max() / 2 else "black"
                axis.text(c, r, str(step), ha="center", va="center", fontsize=7, color=colour)
    return figure


def draw_mask(slots: Slots, title: str, path: Path) -> None:
    """Draw who (row) sees whom (column): content in blue, queries in orange, unseen white; lines between steps."""
    kinds = slots.mask().int() * (1 + (~slots.is_token).int())[None]
    figure, axis = plt.subplots(figsize=(7, 7))
    colours = ListedColormap([(r / 255, g / 255, b / 255) for r, g, b in ((255, 255, 255), WRITTEN, REVISED)])
    axis.imshow(kinds, cmap=colours, vmin=0, vmax=2, interpolation="nearest")
    edges = torch.nonzero((slots.step[1:] != slots.step[:-1]) | (slots.is_token[1:] != slots.is_token[:-1])).flatten()
    for edge in edges.tolist() if len(edges) <= 64 else []:
        axis.axhline(edge + 0.5, color="0.8", linewidth=0.4)
        axis.axvline(edge + 0.5, color="0.8", linewidth=0.4)
    targets = int((slots.target != NONE).sum())
    axis.set_title(
        f"{title}: {len(slots)} slots, {targets} targets; row sees blue content, orange queries", fontsize=10
    )
    axis.set_xlabel("seen slot (class token first, then by step)")
    axis.set_ylabel("asking slot")
    save_figure(figure, path)


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


def save_gif(frames: Sequence[NDArray[np.uint8]], path: Path, milliseconds: int = 250) -> None:
    """Write an animation that rests on its last frame."""
    pictures = [Image.fromarray(frame) for frame in frames]
    durations = [milliseconds] * (len(frames) - 1) + [6 * milliseconds]
    with replacing(path) as temporary:
        pictures[0].save(temporary, save_all=True, append_images=pictures[1:], duration=durations, loop=0)
