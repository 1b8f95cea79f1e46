"""A trained generator in Python: `radar.load("runs/digits/last.ckpt").sample(labels=[3, 5], steps=7)`.

Legend: B images, N cells.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from radar.config.load import structured
from radar.config.options import Config
from radar.config.sampling import SampleConfig
from radar.data.images import load_images
from radar.editing.edits import Edit, Edited, Editor, label_of
from radar.errors import InputError
from radar.scoring.sample_pictures import samples_sheet
from radar.scoring.samples import Samples, draw_samples, label_rule
from radar.training.checkpoints import Generator, configured, load_generator

Labels = Sequence[int | str]


class LoadedGenerator:
    """A trained generator, to draw, edit and judge images with.

    Attributes:
        generator: all of its parts: module, tokenizer, data.
    """

    def __init__(self, generator: Generator) -> None:
        self.generator = generator

    @property
    def config(self) -> Config:
        """All options, those of sampling as they are by default here."""
        return self.generator.config

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; a label is an index into them."""
        return self.generator.data.classes

    @property
    def grid(self) -> tuple[int, int]:
        """Cells (h, w)."""
        return self.generator.grid

    def __repr__(self) -> str:
        """What it is, in a line."""
        c, (h, w) = self.config, self.grid
        return f"<{c.generator} generator of {c.data.name}: {h}x{w} cells, order {c.order.name}, {c.attention}>"

    def sample(self, labels: Labels | None = None, images: int | None = None, **options: Any) -> Samples:
        """Draw images (B, 3, H, W) uint8, with their tokens and labels; image i depends on (seed, i) and its label.

        Args:
            labels: class of each image, by number or name.
            images: or how many, with the classes in turn; by default as many as `radar sample` draws.
            options: of `radar options sample`, in place of the checkpoint's: steps, seed, guidance, order, ...

        Raises InputError for an unknown class or option, and for what this generator cannot do.
        """
        if labels is not None and images is not None:
            raise InputError("labels and images both say how many are drawn; give one of them")
        chosen = None if labels is None else self._numbers(labels)
        if chosen is not None:
            options["images"] = len(chosen)
        elif images is not None:
            options["images"] = images
        own = self._with(options)
        rule = label_rule(own, "balanced") if chosen is None else lambda images: chosen[list(images)]
        return draw_samples(own, own.config.sample, rule)

    def edit(
        self, images: Tensor, labels: Labels, hidden: Sequence[float] | str = "border:0.25", **options: Any
    ) -> Edited:
        """Draw a part of images (B, 3, H, W) uint8 anew, the rest given: `after` of what is returned.

        Args:
            images: of the data's size.
            labels: class of each, by number or name.
            hidden: left, top, right, bottom of the hole as fractions, or what is kept (`radar edit --keep`).
            options: of `radar options sample`; `steps` are those of the hole.

        Raises InputError as `sample`, and where nothing is hidden.
        """
        if not isinstance(hidden, str) and not (len(hidden) == 4 and all(isinstance(one, Real) for one in hidden)):
            raise InputError("hidden is not possible: a word of what is kept, or four numbers expected")
        edit = Edit(keep=hidden) if isinstance(hidden, str) else Edit(box=tuple(hidden))
        own, classes = self._with(options), self._checked(images, labels)
        editor, numbers = Editor(own, edit, own.config.sample), range(len(images))
        editor.check(images, classes, numbers)
        return editor(images, classes, numbers)

    @torch.no_grad()
    def nll(self, images: Tensor, labels: Labels) -> Tensor:
        """Teacher-forced NLL (B,) in nats of images (B, 3, H, W) uint8 of the data's size.

        Raises InputError where decoding has no order that is known before.
        """
        module, tokenizer, classes = self.generator.module, self.generator.tokenizer, self._checked(images, labels)
        if not module.is_ordered(self.config.sample):
            raise InputError("this generator has no NLL: its sampler finds the order, or it has none")
        tokens = tokenizer.encode(images.to(module.device))
        return module.nll(tokens, classes.to(module.device), self.config.sample).cpu()

    def held_out(self, count: int) -> tuple[Tensor, Tensor]:
        """First images (B, 3, H, W) uint8 that no training has seen, and their labels (B,).

        Raises InputError where they are not here.
        """
        split = self.generator.data.held_out
        if count < 1:
            raise InputError(f"{count} held-out images are not possible: at least 1")
        if not len(split):
            raise InputError("the images are not here: radar.load(..., 'data.root=FOLDER') opens them")
        return load_images(split, range(min(count, len(split))))

    def sheet(self, samples: Samples) -> Image.Image:
        """Picture of up to 100 samples, by class where there are ten at most; raises InputError for anything else."""
        if not isinstance(samples, Samples):
            raise InputError(f"sheet({type(samples).__name__}) is not possible: what `sample` returns is expected")
        return Image.fromarray(samples_sheet(self.generator, samples))

    def _with(self, options: dict[str, Any]) -> Generator:
        settings = structured(SampleConfig, asdict(self.config.sample) | options, "sample")
        own = configured(self.generator, replace(self.config, sample=settings))
        own.module.check_sampling(settings)
        return own

    def _checked(self, images: Tensor, labels: Labels) -> Tensor:
        """Labels (B,) of images; raises InputError where the images are none of this data's kind."""
        shape = (3, *self.generator.data.size)
        if not isinstance(images, Tensor):
            raise InputError(f"images of type {type(images).__name__} are not possible: a tensor expected")
        if images.dtype != torch.uint8 or images.ndim != 4 or tuple(images.shape[1:]) != shape:
            raise InputError(
                f"images of shape {tuple(images.shape)}, {images.dtype} are not possible: (B, 3, {shape[1]}, "
                f"{shape[2]}) of torch.uint8 expected"
            )
        found = self._numbers(labels)
        if len(found) != len(images) or not len(found):
            raise InputError(f"{len(found)} labels of {len(images)} images: one of each, and at least one, expected")
        return found

    def _numbers(self, labels: Labels) -> Tensor:
        if not isinstance(labels, Iterable) or isinstance(labels, str) or not all(map(_is_label, labels)):
            raise InputError(f"labels={labels} is not possible: a list of numbers or names expected")
        found = [label_of(one, self.classes) if isinstance(one, str) else int(one) for one in labels]
        most = len(self.classes)
        for one in found:
            if not 0 <= one <= most:
                raise InputError(f"label {one} is not possible: 0..{most - 1}, or {most} for none")
        return torch.tensor(found, dtype=torch.long)


def _is_label(one: object) -> bool:
    """A name, or a whole number of any kind."""
    if isinstance(one, Tensor):
        return one.ndim == 0 and not one.is_floating_point()
    return isinstance(one, str | Integral) and not isinstance(one, bool)


def load(checkpoint: str | Path, *options: str) -> LoadedGenerator:
    """Open a checkpoint, or a folder of `radar export`.

    `options` are `key=value` of what may differ from it: `"train.device=cpu"`, `"sample.steps=7"`, `"data.root=..."`.
    Raises InputError for what is no checkpoint, and for an option that would change what was trained.
    """
    if not isinstance(checkpoint, str | Path) or not all(isinstance(text, str) for text in options):
        raise InputError(f"radar.load({checkpoint!r}, ...) is not possible: a path, and options 'key=value', expected")
    return LoadedGenerator(load_generator(str(checkpoint), list(options)))
