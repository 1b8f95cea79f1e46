"""`radar evaluate CHECKPOINT [sample.guidance=...]`: one JSON row of steps, NLL, quality, cost and provenance.

Of a tokenizer: PSNR, use of codes and what feature networks see of its loss.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.arguments import add_checkpoint, beside
from radar.editing.protocol import check_protocol, protocol_columns
from radar.errors import InputError
from radar.files import check_writable
from radar.scoring.evaluation import cautions, check_scoring, evaluate, open_references, save_row
from radar.scoring.probe import check_probe
from radar.scoring.restoration import judge_tokenizer
from radar.scoring.sample_store import alone_in, draw_store
from radar.timing.rounds import measure_speed
from radar.training.checkpoints import Generator, holds_tokenizer, load_generator
from radar.training.devices import is_first, must_launch
from radar.training.other_grid import check_scored

arguments = add_checkpoint
ROW = "evaluation.json"
NOT_SHOWN = ("step_map", "options", "gaps", "group_sizes")
OF_FEATURES = ("fid", "fid_matched", "sfid", "inception_score", "kid", "rfid", "fid_floor", "fid_restored")


def main(args: argparse.Namespace) -> None:
    """Run `radar evaluate`."""
    for text in args.options:
        if text.startswith("sample.images="):
            raise InputError(f"'{text}' has no effect on radar evaluate; it scores evaluate.images")
    folder = Path(args.out) if args.out else beside(args.checkpoint)
    if holds_tokenizer(args.checkpoint):
        show(evaluate_tokenizer(args.checkpoint, args.options, folder), folder)
    elif (row := evaluate_generator(args.checkpoint, args.options, folder)) is not None:
        show(row, folder)


def show(row: dict[str, Any], folder: Path) -> None:
    """Print the figures of a row, those that a feature network sees with its name, and where it lies."""
    label = row["fid_feature"].partition(":")[0]
    for key, value in row.items():
        if key not in NOT_SHOWN:
            title = f"{key}[{label}]" if key in OF_FEATURES else key
            shown = "-" if value is None else f"{value:.4g}" if isinstance(value, float) else value
            print(f"{title:28} {shown}")
    print(folder / ROW)


def evaluate_tokenizer(checkpoint: str, options: list[str], folder: Path) -> dict[str, Any]:
    """Score a tokenizer; save and return the row."""
    check_writable(folder, folder=True)
    row = judge_tokenizer(checkpoint, options)
    save_row(row, folder / ROW)
    return row


def evaluate_generator(checkpoint: str, options: list[str], folder: Path) -> dict[str, Any] | None:
    """Score and time a generator, and say what makes that hard to trust; save and return the row.

    None where this process only draws along.
    """
    generator = open_generator(checkpoint, options, folder)
    config = generator.config
    with alone_in(folder, config.train):
        if not is_first(config.train):
            settings = replace(config.sample, images=config.evaluate.images)
            draw_store(generator, settings, config.evaluate.labels, folder)
            return None
        references = open_references(generator)
        row, store = evaluate(generator, references, folder)
        for warning in cautions(row):
            print(f"radar: {warning}", file=sys.stderr)
        row |= protocol_columns(generator, references, folder) | measure_speed(generator)
        save_row(row, folder / ROW)
        store.remove()
        return row


def open_generator(checkpoint: str, options: list[str], folder: Path) -> Generator:
    """Open a checkpoint; raises InputError for what could not be scored: before any work."""
    generator = load_generator(checkpoint, options)
    check_scoring(generator.config.evaluate)
    check_scored(generator.config, (generator.as_trained or generator.module).grid)
    check_protocol(generator.config, generator.as_trained or generator.module)
    check_probe(generator.config, generator.as_trained or generator.module)
    check_writable(folder, folder=True)
    must_launch(generator.config.train)
    return generator
