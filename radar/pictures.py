"""Figures of orders and masks. Colours are told apart by the colour-blind (viridis, Okabe-Ito)."""

import math
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from radar.attention import NONE, Slots
from radar.sheets import REVISED, WRITTEN, save_image


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure whole or not at all, as a PNG with a palette, and close it."""
    drawn = BytesIO()
    figure.savefig(drawn, format="png", dpi=120, bbox_inches="tight")
    plt.close(figure)
    save_image(np.asarray(Image.open(drawn).convert("RGB")), path)


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
    """Draw who (row) sees whom (column): tokens in blue, queries in orange, unseen white; lines between steps."""
    kinds = slots.mask().int() * (1 + (~slots.is_token).int())[None]
    figure, axis = plt.subplots(figsize=(7, 7))
    colours = ListedColormap([(r / 255, g / 255, b / 255) for r, g, b in ((255, 255, 255), WRITTEN, REVISED)])
    axis.imshow(kinds, cmap=colours, vmin=0, vmax=2, interpolation="nearest")
    edges = torch.nonzero((slots.step[1:] != slots.step[:-1]) | (slots.is_token[1:] != slots.is_token[:-1])).flatten()
    for edge in edges.tolist() if len(edges) <= 64 else []:
        axis.axhline(edge + 0.5, color="0.8", linewidth=0.4)
        axis.axvline(edge + 0.5, color="0.8", linewidth=0.4)
    targets = int((slots.target != NONE).sum())
    axis.set_title(f"{title}: {len(slots)} slots, {targets} targets; row sees blue tokens, orange queries", fontsize=10)
    axis.set_xlabel("seen slot (class token first, then by step)")
    axis.set_ylabel("asking slot")
    save_figure(figure, path)
