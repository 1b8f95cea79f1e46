"""Pictures of samples: a sheet below real images, film strips and animations of how they were decoded."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from radar.config.sampling import SampleConfig
from radar.data.images import split_images
from radar.scoring.samples import Samples
from radar.sheets import Pixels, captioned, overlay, pixel_scale, save_gif, save_image, tile
from radar.training.checkpoints import Generator

LOOKED_THROUGH = 500  # held-out images, among which those to show are looked for


@torch.no_grad()  # sample_tokens knows where inference mode is possible
def draw_film(generator: Generator, settings: SampleConfig, labels: Tensor) -> tuple[list[Tensor], list[int]]:
    """Follow the first images, of labels (B,): frames (B, 3, H, W), cells marked as written or revised; whose pass."""
    module = generator.module
    trace = module.drawn(settings, labels.to(module.device))
    known = torch.zeros_like(trace.written[0])
    frames = []
    for tokens, written, revised in zip(trace.tokens, trace.written, trace.revised, strict=True):
        known = known | written
        shown = generator.tokenizer.decode_known(
            tokens.to(module.device), known.to(module.device), generator.grid
        ).cpu()
        flat = generator.tokenizer.flat
        frames.append(overlay(shown, written, revised, known, generator.grid) if flat else shown)
    return frames, trace.numbers


def by_class(labels: Tensor, classes: int) -> Tensor:
    """Numbers of 100 samples at most to show, row by row: with a column per class where there are ten at most.

    Otherwise, and where a class has no sample, the first as they come.
    """
    each = [torch.nonzero(labels == label).flatten() for label in range(classes)]
    rows = min(10, *map(len, each)) if 1 < classes <= 10 else 0
    return torch.stack([part[:rows] for part in each], 1).flatten() if rows else torch.arange(min(100, len(labels)))


def samples_sheet(generator: Generator, samples: Samples) -> Pixels:
    """Lay out up to 100 samples below held-out images, with a column per class where there are ten classes at most."""
    scale, classes = pixel_scale(samples.images.shape[3]), generator.data.classes
    few = 1 < len(classes) <= 10
    columns, shown = len(classes) if few else 10, by_class(samples.labels, len(classes))
    held_out, alike = generator.data.held_out, tuple(samples.images.shape[2:]) == generator.data.size
    images, labels = (
        split_images(held_out, LOOKED_THROUGH) if len(held_out) and alike else (samples.images[:0], samples.labels[:0])
    )
    real = by_class(labels, len(classes))[:columns]
    fits = torch.equal(labels[real], torch.arange(columns)) if few else len(real) == columns
    real = real if fits else real[:0]  # a row of them, in the columns of the samples, or none
    both = torch.cat([labels[real], samples.labels[shown]])
    in_columns = few and torch.equal(both, torch.arange(len(both)) % columns)
    names = [*["real"] * bool(len(real)), "drawn", *[""] * (math.ceil(len(shown) / columns) - 1)]
    return captioned(
        tile(torch.cat([images[real], samples.images[shown]]), columns, scale), classes if in_columns else (), names
    )


def save_pictures(generator: Generator, samples: Samples, settings: SampleConfig, folder: Path) -> None:
    """Write samples.png (a column per class), film.png (a row per pass, the last the result) and film.gif."""
    scale, classes = pixel_scale(samples.images.shape[3]), generator.data.classes
    save_image(samples_sheet(generator, samples), folder / "samples.png")
    frames, numbers = draw_film(generator, settings, samples.labels[:10])
    count, result = len(frames[0]), samples.images[: len(frames[0])]
    names = [*(f"pass {number}" for number in numbers), "result"]
    labels = [classes[label] for label in samples.labels[:count].tolist()]
    strip, marked = tile(torch.cat([*frames, result]), count, scale), generator.tokenizer.flat
    save_image(captioned(strip, labels, names, legend=marked), folder / "film.png")
    titles = [f"{name} of {numbers[-1]}" for name in names[:-1]] + ["result"]
    film = [
        film_frame(frame, labels, scale, title, marked) for frame, title in zip([*frames, result], titles, strict=True)
    ]
    save_gif(film, folder / "film.gif")


def film_frame(
    images: Tensor, labels: Sequence[str], scale: int, title: str, marked: bool = True, columns: int = 5
) -> Pixels:
    """Lay out images (B, 3, H, W) in rows, each image below its class, with a title and what the colours mean."""
    starts = range(0, len(images), columns)
    names = [[*labels[start : start + columns], *[""] * columns][:columns] for start in starts]
    rows = [captioned(tile(images[n : n + columns], columns, scale), row) for n, row in zip(starts, names, strict=True)]
    return captioned(np.concatenate(rows), title=title, legend=marked)
