"""`radar evaluate CHECKPOINT [sample.guidance=...]`: one JSON row of steps, NLL, quality, cost and provenance.

Of a tokenizer: PSNR, use of codes and what feature networks see of its loss.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.arguments import add_checkpoint
from radar.errors import InputError
from radar.files import check_writable
from radar.scoring.evaluation import cautions, check_scoring, evaluate, open_references, save_row
from radar.scoring.restoration import judge_tokenizer
from radar.scoring.sample_store import SampleStore, draw_store
from radar.timing.rounds import measure_speed
from radar.training.checkpoints import Generator, holds_tokenizer, load_generator
from radar.training.devices import is_first, must_launch

arguments = add_checkpoint
NOT_SHOWN = ("step_map", "options", "gaps", "group_sizes")
OF_FEATURES = ("fid", "fid_matched", "sfid", "inception_score", "kid", "rfid", "fid_floor", "fid_restored")


def main(args: argparse.Namespace) -> None:
    """Run `radar evaluate`."""
    for text in args.options:
        if text.startswith("sample.images="):
            raise InputError(f"'{text}' has no effect on radar evaluate; it scores evaluate.images")
    folder, store = Path(args.out or Path(args.checkpoint).parent), None
    if holds_tokenizer(args.checkpoint):
        check_writable(folder, folder=True)
        row = judge_tokenizer(args.checkpoint, args.options)
    else:
        generator = open_generator(args.checkpoint, args.options, folder)
        if not is_first(generator.config.train):
            settings = replace(generator.config.sample, images=generator.config.evaluate.images)
            draw_store(generator, settings, generator.config.evaluate.labels, folder)
            return
        row, store = judge_generator(generator, folder)
    path = folder / "evaluation.json"
    save_row(row, path)
    if store is not None:
        store.remove()
    label = row["fid_feature"].partition(":")[0]
    for key, value in row.items():
        if key not in NOT_SHOWN:
            title = f"{key}[{label}]" if key in OF_FEATURES else key
            print(f"{title:28} {value:.4g}" if isinstance(value, float) else f"{title:28} {value}")
    print(path)


def open_generator(checkpoint: str, options: list[str], folder: Path) -> Generator:
    """Open a checkpoint; raises InputError for what could not be scored: before any work."""
    generator = load_generator(checkpoint, options)
    check_scoring(generator.config.evaluate)
    check_writable(folder, folder=True)
    must_launch(generator.config.train)
    return generator


def judge_generator(generator: Generator, folder: Path) -> tuple[dict[str, Any], SampleStore]:
    """Score and time a generator; say what makes its figures hard to trust."""
    row, store = evaluate(generator, open_references(generator), folder)
    for warning in cautions(row):
        print(f"radar: {warning}", file=sys.stderr)
    return row | measure_speed(generator), store
