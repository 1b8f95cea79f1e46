"""`radar edit CHECKPOINT --task inpaint --box 0.25,0.25,0.75,0.75`: draw parts of images anew, and say how well."""

import argparse
import json
from pathlib import Path

from experiments.arguments import add_checkpoint, beside, parse_grid
from radar.editing.edits import ENCODINGS, TASKS, Edit, Editor, label_of
from radar.editing.holes import KEEPS
from radar.editing.results import edit_and_save
from radar.editing.sources import images_to_edit
from radar.errors import InputError
from radar.files import locked_or_refused, replacing
from radar.networks.features import check_features, load_features
from radar.training.checkpoints import load_generator


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
    parser.add_argument("--steps", type=int, help="steps of the hole (sample.steps); MaskGIT: of a whole image")
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
    check_features(generator.config.evaluate.features)
    label = None if args.own is None else label_of(args.own, generator.data.classes)
    images, own = images_to_edit(args.images, generator.data, args.count, label)
    editor = Editor(generator, edit, generator.config.sample)
    editor.check(images, own, range(len(images)))
    network = load_features(generator.config.evaluate.features[0], generator.data, generator.config.data.cache)
    folder = Path(args.out) if args.out else beside(args.checkpoint) / "edits"
    with locked_or_refused(folder / ".edits.lock", f"--out {folder}"):
        row = edit_and_save(editor, images, own, network, args.blend, folder)
        with replacing(folder / "edit.json") as temporary:
            temporary.write_text(json.dumps({**row, "images": args.images, "checkpoint": args.checkpoint}, indent=1))
    for name, score in row["scores"].items():
        print(f"{name:20} {score['mean']:.4g}" + ("" if score["half"] is None else f" ± {score['half']:.2g}"))
    print(folder)


def check_arguments(args: argparse.Namespace) -> None:
    """Raise InputError for numbers out of range, and for options that have no effect here."""
    for text in args.options:
        if text.startswith(("sample.images=", "train.devices=", "train.nodes=")):
            raise InputError(f"'{text}' has no effect on radar edit; --count says how many images")
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
