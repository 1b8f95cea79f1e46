"""`radar edit CHECKPOINT --task inpaint --box 0.25,0.25,0.75,0.75`: draw parts of images anew, and say how well."""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from experiments.arguments import add_checkpoint, parse_grid
from radar.editing.edits import ENCODINGS, TASKS, Edit, Edited, Editor, label_of
from radar.editing.holes import KEEPS
from radar.editing.pictures import save_film, save_sheet
from radar.editing.scores import diversity, mean_and_error, score_edits
from radar.editing.sources import images_to_edit
from radar.errors import InputError
from radar.files import locked_or_refused, replacing
from radar.networks.features import load_features
from radar.provenance import git_commit, hardware
from radar.training.checkpoints import Generator, load_generator

SEEDS = 4  # of which the diversity is measured


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what it takes."""
    add_checkpoint(parser)
    parser.add_argument("--images", default="held_out", help="a folder, an .npz file, or held_out (default)")
    parser.add_argument("--count", type=int, default=10, help="images at most (default 10)")
    parser.add_argument("--class", dest="own", metavar="NAME", help="class of the images, where it is not known")
    parser.add_argument("--task", default="inpaint", help=f"{', '.join(TASKS)} (default inpaint)")
    parser.add_argument("--box", help="the hole: left,top,right,bottom as fractions of the image")
    parser.add_argument("--keep", help=f"or what is kept, NAME:SHARE; {', '.join(KEEPS)}")
    parser.add_argument("--mask", help="or a picture as large as the images, light where the hole is")
    parser.add_argument("--to-class", metavar="NAME", help="class-edit: what to draw (default: each one's next class)")
    parser.add_argument("--encode", default="masked", help=f"what the given tokens have seen: {', '.join(ENCODINGS)}")
    parser.add_argument("--grid", help="extend: rows x columns of cells to draw, as 8x12 (sample.grid)")
    parser.add_argument("--order", help="order of the hole (sample.order)")
    parser.add_argument("--steps", type=int, help="steps of the hole (sample.steps)")
    parser.add_argument("--revise-given", action="store_true", help="let the correction change given cells, too")
    parser.add_argument("--blend", type=float, default=0.0, help="pixels over which pictures of holes fade in")


def main(args: argparse.Namespace) -> None:
    """Run `radar edit`."""
    check_arguments(args)
    edit = Edit(args.task, read_box(args.box), args.keep, args.mask, args.encode, args.to_class, args.revise_given)
    given = {"sample.order": args.order, "sample.steps": args.steps}
    if args.grid is not None:
        given["sample.grid"] = list(parse_grid(args.grid))
    options = [*args.options, *(f"{name}={value}" for name, value in given.items() if value is not None)]
    generator = load_generator(args.checkpoint, options)
    label = None if args.own is None else label_of(args.own, generator.data.classes)
    images, own = images_to_edit(args.images, generator.data, args.count, label)
    Editor(generator, edit, generator.config.sample).check(images, own, range(len(images)))
    folder = Path(args.out or Path(args.checkpoint).parent / "edits")
    with locked_or_refused(folder / ".edits.lock", f"--out {folder}"):
        row = edit_and_score(generator, edit, images, own, args.blend, folder)
        with replacing(folder / "edit.json") as temporary:
            temporary.write_text(json.dumps({**row, "images": args.images, "checkpoint": args.checkpoint}, indent=1))
    for name, value in row["scores"].items():
        print(f"{name:20} {value[0]:.4g} ± {value[1]:.2g}")
    print(folder)


def check_arguments(args: argparse.Namespace) -> None:
    """Raise InputError for numbers out of range."""
    if args.count < 1:
        raise InputError(f"--count {args.count} is not possible: at least 1")
    if not 0 <= args.blend <= 1000:
        raise InputError(f"--blend {args.blend} is not possible: 0..1000 pixels")


def read_box(text: str | None) -> list[float] | None:
    """Read `0.25,0.25,0.75,0.75`; raises InputError."""
    try:
        return None if text is None else [float(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"--box {text} is not of the form LEFT,TOP,RIGHT,BOTTOM (0.25,0.25,0.75,0.75)") from error


def edit_and_score(
    generator: Generator, edit: Edit, images: Tensor, own: Tensor, blur: float, folder: Path
) -> dict[str, Any]:
    """Edit images, write pictures and arrays, return a row; nothing is written before all of it is there."""
    numbers, settings, config = range(len(images)), generator.config.sample, generator.config
    editors = [Editor(generator, edit, replace(settings, seed=settings.seed + n)) for n in range(SEEDS)]
    drawn = [editor(images, own, numbers) for editor in editors]
    edited, editor = drawn[0], editors[0]
    network = load_features(config.evaluate.features[0], generator.data, config.data.cache)
    compared = not TASKS[edit.task].extends
    scores = score_edits(edited, numbers, editor.filler, network, compared) | {"diversity": diversity(drawn, network)}
    if settings.choice_temperature is not None:
        scores.pop("nll_per_cell", None)
    names = [[*generator.data.classes, ""][label] for label in edited.labels.tolist()]
    folder.mkdir(parents=True, exist_ok=True)
    save_sheet(edited, generator.grid, names, blur, folder / "edit.png")
    save_film(editor, images, edited, numbers, names, folder / "film.gif")
    save_arrays(edited, folder / "edited.npz")
    return {
        "scores": {name: found for name, values in scores.items() if (found := mean_and_error(values)) is not None},
        "edited": len(images),
        "task": edit.task,
        "hidden_cells": float(edited.hidden.sum(1).double().mean()),
        "passes": sorted({part.steps for part in editor.filler.alike(edited.hidden, numbers)}),
        "edit": {name: value for name, value in vars(edit).items() if value is not None},
        "sample": vars(settings),
        "feature_network": network.title,
        "hardware": hardware(generator.module.device),
        "commit": git_commit(),
    }


def save_arrays(edited: Edited, path: Path) -> None:
    """Write arr_0 images (B, H, W, 3) uint8 and arr_1 labels as ADM does; hidden (B, N), tokens (B, N)."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file,
            arr_0=edited.after.permute(0, 2, 3, 1).numpy(),
            arr_1=edited.labels.numpy(),
            hidden=edited.hidden.numpy(),
            tokens=edited.tokens.numpy(),
        )
