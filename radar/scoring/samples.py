"""Images drawn from a generator: image i depends on (seed, i) and its label alone.

Legend: B images, N cells, C classes.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from radar.config.lookup import choose
from radar.config.sampling import SampleConfig
from radar.data.tokens import cached_tokens
from radar.progress import Bar
from radar.scoring.labels import LABELS
from radar.training.checkpoints import Generator
from radar.training.generative import Drawer

LabelRule = Callable[[Sequence[int]], Tensor]  # numbers of images (B,) -> labels (B,)


@dataclass(frozen=True)
class Samples:
    """Images (B, 3, H, W) uint8, their tokens (B, N), or vectors (B, N, C) float32, and labels (B,)."""

    images: Tensor
    tokens: Tensor
    labels: Tensor

    def __repr__(self) -> str:
        """How many, in a line."""
        return f"<{len(self.images)} samples of {self.images.shape[2]}x{self.images.shape[3]} pixels>"


def label_rule(generator: Generator, name: str) -> LabelRule:
    """Which label an image of a number has, by a rule of LABELS; raises InputError for an unknown one."""
    rule, counts = choose("labels", name, LABELS), class_counts(generator)
    return lambda images: rule(images, counts)


def class_counts(generator: Generator) -> Tensor:
    """Training images of each class, (C,)."""
    if (known := generator.data.counts) is not None:
        return torch.tensor(known)
    labels = cached_tokens(generator.data, generator.tokenizer, generator.config.data.cache)["train"].labels
    return torch.bincount(torch.from_numpy(labels), minlength=len(generator.data.classes))


@contextmanager
def drawing(
    generator: Generator, settings: SampleConfig, labels: str | LabelRule
) -> Iterator[Callable[[Sequence[int]], Samples]]:
    """Give a function that draws the images of any numbers, in batches of `batch_size`, which does not change them."""
    module, rule = generator.module, label_rule(generator, labels) if isinstance(labels, str) else labels

    @torch.no_grad()  # sample_tokens knows where inference mode is possible
    def draw(draw_tokens: Drawer, numbers: Sequence[int]) -> Samples:
        parts = []
        for start in range(0, len(numbers), settings.batch_size):
            some = numbers[start : start + settings.batch_size]
            own = rule(some).to(module.device)
            tokens = draw_tokens(own, some)
            parts.append((generator.tokenizer.decode(tokens, generator.grid).cpu(), tokens.cpu(), own.cpu()))
        images, tokens, found = (torch.cat(column) for column in zip(*parts, strict=True))
        return Samples(images, tokens, found)

    with module.ready_to_draw(settings) as draw_tokens:
        yield partial(draw, draw_tokens)


def draw_samples(generator: Generator, settings: SampleConfig, labels: str | LabelRule = "balanced") -> Samples:
    """Draw `settings.images` images into memory."""
    with drawing(generator, settings, labels) as draw:
        starts = range(0, settings.images, settings.batch_size)
        ends = (min(start + settings.batch_size, settings.images) for start in starts)
        bar = Bar(zip(starts, ends, strict=True), "sample", len(starts))
        return joined([draw(range(start, end)) for start, end in bar])


def joined(parts: Sequence[Samples]) -> Samples:
    """Samples behind each other."""
    columns = ((part.images, part.tokens, part.labels) for part in parts)
    images, tokens, labels = (torch.cat(column) for column in zip(*columns, strict=True))
    return Samples(images, tokens, labels)
