"""`radar sample CHECKPOINT [sample.images=...]`: images as grid PNG, film strip, GIF and ADM-format .npz."""

import argparse
from pathlib import Path

from experiments.arguments import add_checkpoint, beside
from radar.errors import InputError
from radar.scoring.sample_pictures import save_pictures
from radar.scoring.sample_store import alone_in, draw_store, save_npz
from radar.training.checkpoints import load_generator
from radar.training.devices import is_first, must_launch

arguments = add_checkpoint


def main(args: argparse.Namespace) -> None:
    """Run `radar sample`."""
    for text in args.options:
        if text.startswith("evaluate."):
            raise InputError(f"'{text}' has no effect on radar sample")
    generator = load_generator(args.checkpoint, args.options)
    settings, folder = generator.config.sample, Path(args.out) if args.out else beside(args.checkpoint) / "samples"
    must_launch(generator.config.train)  # fails here, before anything is written
    with alone_in(folder, generator.config.train):
        store = draw_store(generator, settings, "balanced", folder)
        if is_first(generator.config.train):
            save_pictures(generator, store.first(), settings, folder)
            save_npz(store, folder / "samples.npz")
            store.remove()
            print(folder)
