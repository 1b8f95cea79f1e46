"""`radar evaluate CHECKPOINT [sample.guidance=...]`: one JSON row of steps, NLL, quality, cost and provenance."""

import argparse
import sys
from pathlib import Path

from experiments.arguments import add_checkpoint
from radar.errors import InputError
from radar.files import check_writable
from radar.scoring.evaluation import cautions, check_scoring, evaluate, open_references, save_row
from radar.timing.rounds import measure_speed
from radar.training.checkpoints import load_generator

arguments = add_checkpoint
NOT_SHOWN = ("step_map", "options", "gaps", "group_sizes")
OF_FEATURES = ("fid", "fid_matched", "kid", "rfid", "fid_floor")


def main(args: argparse.Namespace) -> None:
    """Run `radar evaluate`."""
    for text in args.options:
        if text.startswith("sample.images="):
            raise InputError(f"'{text}' has no effect on radar evaluate; it scores evaluate.images")
    generator, folder = load_generator(args.checkpoint, args.options), Path(args.out or Path(args.checkpoint).parent)
    check_scoring(generator.config.evaluate)
    check_writable(folder, folder=True)
    references = open_references(generator)
    row, _ = evaluate(generator, references)
    row |= measure_speed(generator)
    path = folder / "evaluation.json"
    save_row(row, path)
    for warning in cautions(row):
        print(f"radar: {warning}", file=sys.stderr)
    for key, value in row.items():
        if key not in NOT_SHOWN:
            title = f"{key}[{references[0].network.label}]" if key in OF_FEATURES else key
            print(f"{title:28} {value:.4g}" if isinstance(value, float) else f"{title:28} {value}")
    print(path)
