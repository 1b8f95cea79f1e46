"""`radar sample CHECKPOINT [sample.images=...]`: images as grid PNG, film strip, GIF and ADM-format .npz."""

import argparse
from pathlib import Path

from experiments.arguments import add_checkpoint
from radar.errors import InputError
from radar.scoring.samples import draw_samples, save_npz, save_pictures
from radar.training.checkpoints import load_generator

arguments = add_checkpoint


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
