"""The standard edits that a generator is scored by, all on the same held-out images with the same holes.

To add one: a line in PROTOCOL, and its name in EDITS (radar/config/sampling.py). Legend: B images, N cells.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from radar.config.options import Config
from radar.data.images import split_images
from radar.editing.edits import TASKS, Edit, Edited, Editor, beyond
from radar.editing.filling import HoleFiller
from radar.editing.pictures import SHOWN, holes
from radar.editing.results import draw_seeds
from radar.editing.scores import diversity, mean_of, score_edits
from radar.errors import naming
from radar.files import replacing
from radar.networks.features import extract
from radar.progress import Bar
from radar.sampling.cost import sampling_cost
from radar.scoring.distances import frechet_distance, kernel_distance
from radar.scoring.reference import Reference
from radar.scoring.statistics import Moments
from radar.training.checkpoints import Generator, configured
from radar.training.generative import GenerativeModule
from radar.training.other_grid import Grid, on_sampled_grid

PROTOCOL = {
    "box": Edit(keep="border:0.25"),
    "random_box": Edit(keep="all_but_box:0.5"),
    "frame": Edit(keep="border:0.125"),
    "outpaint": Edit("outpaint", keep="center:0.5"),
    "half": Edit(keep="left:0.5"),
    "cells": Edit(keep="random:0.5"),
    "class": Edit("class-edit", keep="border:0.25"),
    "wider": Edit("extend"),
}
WIDER = 1.5  # times as many columns
PICTURES = "edits.npz"  # first images of every edit: NAME/before, NAME/hole, NAME/after (B, 3, H, W) uint8
SOME = 50  # images that diversity is measured for

Columns = dict[str, float]


def protocol_columns(
    generator: Generator, references: Sequence[Reference], folder: Path
) -> dict[str, dict[str, Columns]]:
    """Column `edits`: for each of `evaluate.edits` the mean of every score over the images; pictures into `folder`."""
    found, pictures = dict[str, Columns](), dict[str, Any]()
    for name in Bar(generator.config.evaluate.edits, "edit"):
        own = on_grid_of(generator, PROTOCOL[name])
        found[name], edited = judge(own, PROTOCOL[name], references)
        shown = {"before": edited.before, "hole": holes(edited, own.grid), "after": edited.after}
        pictures |= {f"{name}/{kind}": images[:SHOWN].numpy() for kind, images in shown.items()}
    if not found:
        return {}
    with replacing(folder / PICTURES) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **pictures)
    return {"edits": found}


def on_grid_of(generator: Generator, edit: Edit) -> Generator:
    """Give the generator for the grid of the images, or a wider one; raises InputError where not possible."""
    grid = generator.tokenizer.grid(generator.data.size)
    return configured(generator, for_edit(generator.config, edit, grid))


def for_edit(config: Config, edit: Edit, grid: Grid) -> Config:
    """Options to sample on the grid of the images, or on a wider one where the edit extends them."""
    cells = [grid[0], round(WIDER * grid[1])] if TASKS[edit.task].extends else None
    return replace(config, sample=replace(config.sample, grid=cells, place="center"))


def check_protocol(config: Config, module: GenerativeModule) -> None:
    """Raise InputError where a generator, trained or planned, cannot make the edits that it is to be scored by."""
    for name in config.evaluate.edits:
        edit, grid, numbers = PROTOCOL[name], module.grid, range(2)
        at = for_edit(config, edit, grid)
        with naming(f"evaluate.edits={name}"):
            own = on_sampled_grid(at, module)
            around = TASKS[edit.task].extends
            hidden = beyond(grid, own.grid, at.sample.place)[None] if around else edit.hidden((0, 0), grid, numbers)
            for _ in HoleFiller(own, at.sample, edit.revise).alike(hidden.expand(len(numbers), -1), numbers):
                pass


def judge(generator: Generator, edit: Edit, references: Sequence[Reference]) -> tuple[Columns, Edited]:
    """Scores of one edit, and what was drawn; fid and kid are those of the edited images to the held-out ones."""
    compared = not TASKS[edit.task].extends
    images, own = split_images(generator.data.held_out, generator.config.evaluate.edit_images)
    numbers = range(len(images))
    editor = Editor(generator, edit, generator.config.sample)
    edited = editor(images, own, numbers)
    network = references[0].network
    scores = score_edits(edited, numbers, editor.filler, network, compared)
    if compared:
        scores["diversity"] = diversity(draw_seeds(editor, edited, images[:SOME], own[:SOME]), network)
    means = {name: found.mean for name, values in scores.items() if (found := mean_of(values)) is not None}
    return means | (distances(edited, references) if compared else {}) | costs(editor, edited, numbers), edited


def distances(edited: Edited, references: Sequence[Reference]) -> Columns:
    """Fréchet and kernel distance of the edited images to the held-out ones."""
    found: Columns = {}
    for number, reference in enumerate(references):
        if reference.held_out is None:
            continue
        features, label = extract(reference.network, edited.after), f"[{reference.network.label}]" if number else ""
        found[f"fid{label}"] = frechet_distance(reference.held_out.features, Moments.of(features))
        if reference.held_out.kept is not None:
            found[f"kid{label}"] = kernel_distance(reference.held_out.kept, features)
    return found


def costs(editor: Editor, edited: Edited, numbers: Sequence[int]) -> Columns:
    """Mean over images: forward passes, and operations in 10^9."""
    passes, flops, model = 0.0, 0.0, editor.filler.module.model
    rows = 1 if editor.settings.guidance == 1 else 2
    for part in editor.filler.alike(edited.hidden, numbers):
        share, planned = len(part.rows) / len(numbers), editor.filler.passes(part.slots)
        passes += share * len(planned)
        flops += share * sampling_cost(model.shape, model.vocabulary, planned, rows).flops / 1e9
    return {"hidden": float(edited.hidden.sum(1).double().mean()), "passes": passes, "gflop": flops}
