"""Editing images: what is hidden, what stays, and what is drawn in its place.

Legend: B images, N cells, H x W pixels.
"""

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter
from torch import Tensor

from radar.config.lookup import choose
from radar.config.sampling import SampleConfig
from radar.editing.filling import HoleFiller
from radar.editing.holes import hidden_by_box, hidden_by_keep, hidden_by_picture, pixels_of
from radar.errors import InputError
from radar.sampling.sampler import Trace, ready_to_sample
from radar.training.checkpoints import Generator
from radar.training.other_grid import Grid, origin_of


class Task(NamedTuple):
    """What an edit is for.

    Attributes:
        keep: what is kept where nothing else is said.
        relabels: whether another class is drawn than the image has.
        extends: whether the image is put on a larger grid, `sample.grid`, of which the rest is drawn.
    """

    keep: str
    relabels: bool = False
    extends: bool = False


TASKS = {
    "inpaint": Task("border:0.25"),
    "outpaint": Task("center:0.5"),
    "class-edit": Task("border:0.25", relabels=True),
    "extend": Task("", extends=True),
}


def without(images: Tensor, pixels: Tensor) -> Tensor:
    """Images (B, 3, H, W) whose hidden pixels (B, 1, H, W) have the median of the others in each channel, or are black.

    The median and not the mean, since not every tokenizer takes every value.
    """
    given = images.float().masked_fill(pixels, torch.nan).flatten(2)
    median = given.nanmedian(2).values.nan_to_num(0.0).to(torch.uint8)
    return torch.where(pixels, median[:, :, None, None], images)


def whole(images: Tensor, pixels: Tensor) -> Tensor:
    """Images as they are: what is hidden reaches the given tokens through the tokenizer's receptive field."""
    return images


ENCODINGS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"masked": without, "whole": whole}


@dataclass(frozen=True)
class Edit:
    """What is done to images.

    Attributes:
        task: a name of TASKS.
        box: left, top, right, bottom of the hole, as fractions.
        keep: or what is kept, NAME[:SHARE] (radar/editing/holes.py).
        mask: or a picture of (H, W) pixels, light where the hole is.
        encode: how the tokens that are given come about, a name of ENCODINGS.
        to_class: class to draw where the task changes it; by default each image's next one.
        revise: let variants that revise do so with given cells, too.
    """

    task: str = "inpaint"
    box: Sequence[float] | None = None
    keep: str | None = None
    mask: str | None = None
    encode: str = "masked"
    to_class: str | None = None
    revise: bool = False

    def __post_init__(self) -> None:
        """Check what needs no images; raises InputError."""
        task = choose("task", self.task, TASKS)
        choose("encoding", self.encode, ENCODINGS)
        ways = [name for name in ("box", "keep", "mask") if getattr(self, name) is not None]
        if len(ways) > 1:
            raise InputError(f"--{ways[0]} and --{ways[1]} both say what is hidden; give one of them")
        if ways and task.extends:
            raise InputError(f"--{ways[0]} has no effect with --task {self.task}: what lies beyond the image is drawn")
        if self.to_class is not None and not task.relabels:
            raise InputError(f"--to-class {self.to_class} has no effect with --task {self.task}; it needs class-edit")

    def hidden(self, size: tuple[int, int], grid: tuple[int, int], images: Sequence[int]) -> Tensor:
        """Hidden cells (B, N) of the images numbered `images`; raises InputError where none is hidden at all."""
        if self.box is not None:
            found = hidden_by_box(self.box, *grid).expand(len(images), -1)
        elif self.mask is not None:
            found = hidden_by_picture(self.mask, size, grid).expand(len(images), -1)
        else:
            found = hidden_by_keep(self.keep or TASKS[self.task].keep, *grid, images)
        if not found.any():
            raise InputError("there is no hole: nothing is hidden, so that nothing is to be drawn")
        return found

    def labels(self, own: Tensor, classes: Sequence[str]) -> Tensor:
        """Labels (B,) to draw, for images of labels `own` (B,); raises InputError where it is not clear which."""
        if not TASKS[self.task].relabels:
            return own
        if self.to_class is None:
            if len(classes) < 2 or (own >= len(classes)).any():
                raise InputError(f"--task {self.task} needs --to-class: there is no next class for every image")
            return (own + 1) % len(classes)
        return torch.full_like(own, label_of(self.to_class, classes))


def label_of(name: str, classes: Sequence[str]) -> int:
    """Label of a class; raises InputError for an unknown one."""
    if name not in classes:
        shown = ", ".join(classes[:20]) + ", ..." * (len(classes) > 20)
        raise InputError(f"class '{name}' is none of the model's: {shown}")
    return list(classes).index(name)


@dataclass(frozen=True)
class Edited:
    """Images before and after, all (B, ...).

    Attributes:
        before, after: (B, 3, H, W) uint8; after is before in all cells whose tokens are those that were given.
        drawn: (B, 3, H, W) what the tokens alone look like.
        hidden: (B, N) cells that were drawn.
        given, tokens: (B, N) before and after.
        truth, masked: (B, N) tokens of the images as they are, and of those without what is hidden.
        labels, own: (B,) that were drawn, and those that the images had.
    """

    before: Tensor
    after: Tensor
    drawn: Tensor
    hidden: Tensor
    given: Tensor
    tokens: Tensor
    truth: Tensor
    masked: Tensor
    labels: Tensor
    own: Tensor

    def __repr__(self) -> str:
        """How many, in a line."""
        hidden = self.hidden.double().mean()
        return f"<{len(self.after)} edited images, {hidden:.0%} of their cells drawn anew>"

    def take(self, rows: Tensor | slice) -> "Edited":
        """Some of the images."""
        return Edited(**{name: value[rows] for name, value in vars(self).items()})


class Editor:
    """Edits images with one generator; image i depends on its number, its hole and its label alone.

    Args:
        generator: opened.
        edit: what to do.
        settings: how to sample; `steps` and `schedule` are those of the hole.
    """

    def __init__(self, generator: Generator, edit: Edit, settings: SampleConfig) -> None:
        self.generator, self.edit, self.settings = generator, edit, settings
        self.filler = HoleFiller(generator.module, settings, edit.revise)

    def seeded(self, seed: int) -> "Editor":
        """Edit the same with other random numbers; what is planned is shared."""
        other = copy(self)
        other.settings, other.filler = replace(self.settings, seed=seed), self.filler.seeded(seed)
        return other

    def check(self, images: Tensor, own: Tensor, numbers: Sequence[int]) -> None:
        """Raise InputError for what cannot be done with these images, before any work."""
        self.edit.labels(own, self.generator.data.classes)
        canvas, hidden = self.canvas(images, numbers)
        for part in self.filler.alike(hidden, numbers):
            if self.edit.revise and not (self.settings.correction and part.slots.revises.any()):
                raise InputError("--revise-given has no effect without sample.correction and an attention that revises")
        self.generator.tokenizer.encode(canvas[:1].to(self.generator.module.device))

    def canvas(self, images: Tensor, numbers: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Images (B, 3, H, W) on the grid that is sampled, and their hidden cells (B, N).

        Raises InputError where grid and task do not go together.
        """
        generator, (task, config) = self.generator, (self.edit.task, self.generator.config.sample)
        trained, grid = generator.tokenizer.grid(generator.data.size), generator.grid
        if TASKS[task].extends:
            if grid == trained or grid[0] < trained[0] or grid[1] < trained[1]:
                raise InputError(
                    f"--task {task} needs a larger grid than the {trained[0]}x{trained[1]} cells of the images "
                    f"(--grid ROWSxCOLUMNS), not {grid[0]}x{grid[1]}"
                )
            hidden = beyond(trained, grid, config.place).expand(len(images), -1)
            return on_canvas(images, trained, grid, config.place), hidden
        if grid != trained:
            raise InputError(f"sample.grid={config.grid} has no effect with --task {task}; it needs extend")
        return images, self.edit.hidden((images.shape[2], images.shape[3]), grid, numbers)

    @torch.no_grad()  # sample_tokens knows where inference mode is possible
    def __call__(self, images: Tensor, own: Tensor, numbers: Sequence[int], trace: Trace | None = None) -> Edited:
        """Edit images (B, 3, H, W) uint8 of labels `own` (B,), in batches of `batch_size`, which does not change them.

        A label of the number of classes stands for none. A trace is that of images with holes of equal sizes.
        """
        size = self.settings.batch_size
        with ready_to_sample(self.filler.module.model, self.settings):
            parts = [
                self._edit(images[n : n + size], own[n : n + size], numbers[n : n + size], trace)
                for n in range(0, len(images), size)
            ]
        return Edited(**{name: torch.cat([getattr(part, name) for part in parts]) for name in vars(parts[0])})

    def _edit(self, images: Tensor, own: Tensor, numbers: Sequence[int], trace: Trace | None) -> Edited:
        generator, device = self.generator, self.generator.module.device
        grid, tokenizer = generator.grid, generator.tokenizer
        before, hidden = self.canvas(images, numbers)
        pixels = pixels_of(hidden, before, grid)
        encoded = {name: tokenizer.encode(how(before, pixels).to(device)) for name, how in ENCODINGS.items()}
        given, labels = encoded[self.edit.encode], self.edit.labels(own, generator.data.classes)
        tokens = self.filler.fill(given, hidden, labels.to(device), numbers, trace)
        drawn = tokenizer.decode(tokens, grid).cpu()
        changed = pixels_of(hidden | (tokens != given).cpu(), before, grid)  # given cells may have been revised
        after = torch.where(changed, drawn, before)
        truth, masked = encoded["whole"].cpu(), encoded["masked"].cpu()
        return Edited(before, after, drawn, hidden, given.cpu(), tokens.cpu(), truth, masked, labels, own)


def on_canvas(images: Tensor, old: Grid, grid: Grid, place: str) -> Tensor:
    """Put images (B, 3, H, W) on a larger, black canvas."""
    pixels = images.shape[2] // old[0]
    return F.pad(images, [pixels * cells for cells in margins(old, grid, place)])


def beyond(old: Grid, grid: Grid, place: str) -> Tensor:
    """Hidden cells (N,) of a larger grid: those around the old one."""
    return F.pad(torch.zeros(old, dtype=torch.bool), margins(old, grid, place), value=True).flatten()


def margins(old: Grid, grid: Grid, place: str) -> list[int]:
    """Cells to the left, to the right, above and below of the old grid in a larger one."""
    row, column = origin_of(old, grid, place)
    return [column, grid[1] - old[1] - column, row, grid[0] - old[0] - row]


def blended(edited: Edited, grid: tuple[int, int], blur: float) -> Tensor:
    """Images (B, 3, H, W) uint8 after, whose holes fade into what is around over about `blur` pixels: for pictures."""
    masks = pixels_of(edited.hidden, edited.before, grid)[:, 0].numpy().astype(np.uint8) * 255
    soft = [np.asarray(Image.fromarray(mask).filter(ImageFilter.GaussianBlur(blur))) for mask in masks]
    share = torch.from_numpy(np.maximum(np.stack(soft), masks)).float()[:, None] / 255  # what was there stays hidden
    mixed = share * edited.drawn.float() + (1 - share) * edited.before.float()
    return mixed.round().to(torch.uint8)
