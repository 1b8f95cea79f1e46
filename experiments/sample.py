"""`radar sample CHECKPOINT [sample.images=...]`: images as grid PNG, film strip, GIF and ADM-format .npz."""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from experiments.pictures import overlay, pixel_scale, save_gif, save_image, tile
from radar.checkpoints import Generator, load_generator
from radar.errors import InputError
from radar.files import replacing
from radar.options import SampleConfig
from radar.sampling import Trace, ready_to_sample, sample_tokens


@dataclass(frozen=True)
class Samples:
    """Images (B, 3, H, W) uint8, their tokens (B, N) and labels (B,)."""

    images: Tensor
    tokens: Tensor
    labels: Tensor


def balanced_labels(images: range, classes: int) -> Tensor:
    """Image i has label i modulo the number of classes."""
    return torch.tensor(images) % classes


@torch.no_grad()  # sample_tokens knows where inference mode is possible
def draw_samples(generator: Generator, settings: SampleConfig) -> Samples:
    """Draw `settings.images` images with balanced labels, in batches that do not matter for the result."""
    module, parts = generator.module, []
    turns, sequence = module.turns(settings), module.sampled_sequence(settings)
    starts = range(0, settings.images, settings.batch_size)
    with ready_to_sample(module.model, settings):
        for start in tqdm(starts, "sample", disable=None, leave=False):
            numbers = range(start, min(start + settings.batch_size, settings.images))
            labels = balanced_labels(numbers, module.model.classes).to(module.device)
            tokens = sample_tokens(module.model, turns, sequence, labels, settings, numbers)
            parts.append((generator.tokenizer.decode(tokens, generator.grid).cpu(), tokens.cpu(), labels.cpu()))
    images, tokens, labels = (torch.cat(column) for column in zip(*parts, strict=True))
    return Samples(images, tokens, labels)


@torch.no_grad()  # sample_tokens knows where inference mode is possible
def draw_film(generator: Generator, settings: SampleConfig, count: int) -> list[Tensor]:
    """Follow the first `count` images: one frame (count, 3, H, W) per pass, cells marked as written or revised."""
    module, trace = generator.module, Trace()
    labels = balanced_labels(range(count), module.model.classes).to(module.device)
    sequence = module.sampled_sequence(settings)
    with ready_to_sample(module.model, settings):
        sample_tokens(module.model, module.turns(settings), sequence, labels, settings, range(count), trace)
    known = torch.zeros_like(trace.written[0])
    frames = []
    for tokens, written, revised in zip(trace.tokens, trace.written, trace.revised, strict=True):
        known = known | written
        images = generator.tokenizer.decode(tokens.to(module.device), generator.grid).cpu()
        frames.append(overlay(images, written, revised, known, generator.grid))
    return frames


def save_npz(samples: Samples, path: Path) -> None:
    """Write the ADM format: arr_0 images (B, H, W, 3) uint8, arr_1 labels (B,)."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, samples.images.permute(0, 2, 3, 1).numpy(), samples.labels.numpy())


def save_pictures(generator: Generator, samples: Samples, settings: SampleConfig, folder: Path) -> None:
    """Write samples.png (a column per class), film.png (a row per pass, the last the result) and film.gif."""
    scale, classes = pixel_scale(samples.images.shape[3]), generator.module.model.classes
    columns = min(classes, 10)
    save_image(tile(samples.images[:100], columns, scale), folder / "samples.png")
    frames = draw_film(generator, settings, min(10, settings.images))
    last = [samples.images[: len(frames[0])]]
    save_image(tile(torch.cat(frames + last), len(frames[0]), scale), folder / "film.png")
    save_gif([tile(frame, 5, scale) for frame in frames + last], folder / "film.gif")


def main(args: argparse.Namespace) -> None:
    """Run `radar sample`."""
    for text in args.options:
        if text.startswith("evaluate."):
            raise InputError(f"'{text}' has no effect on radar sample")
    generator = load_generator(args.checkpoint, args.options)
    settings, folder = generator.config.sample, Path(args.out or Path(args.checkpoint).parent / "samples")
    samples = draw_samples(generator, settings)
    save_pictures(generator, samples, settings, folder)
    save_npz(samples, folder / "samples.npz")
    print(folder)
