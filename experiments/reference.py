"""`radar reference CONFIG [key=value ...]`: statistics of the real images by every feature network, as files.

In ADM's layout; `evaluate.reference` takes them, and so does whatever reads ADM's.
"""

import argparse
from pathlib import Path

from experiments.arguments import add_config
from experiments.configs import find_config
from radar.config.load import load_config
from radar.data import load_data
from radar.data.batches import in_order
from radar.errors import InputError
from radar.provenance import git_commit, hardware
from radar.scoring.evaluation import check_scoring
from radar.scoring.reference import build_references
from radar.scoring.reference_file import write_reference
from radar.training.devices import pick_device


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what it takes."""
    add_config(parser)
    parser.add_argument("--out", default="runs/references", help="folder for the files (default runs/references)")
    parser.add_argument("--images", type=int, default=0, help="real images to put along, as arr_0 (default 0)")


def main(args: argparse.Namespace) -> None:
    """Run `radar reference`."""
    config = load_config(find_config(args.config, args.options), args.options)
    if args.images < 0:
        raise InputError(f"--images {args.images} is not possible: it must be at least 0")
    if config.evaluate.reference:
        raise InputError("evaluate.reference has no effect on radar reference, which makes such files")
    check_scoring(config.evaluate)
    data, device = load_data(config.data), pick_device(config.train.device)
    for found in build_references(config, data, device):
        path = Path(args.out) / f"{data.name}-{found.network.label}.npz"
        provenance = {
            "network": found.network.title,
            "images": f"{data.name}-train",
            "identity": data.identity,
            "count": found.real.features.count,
            "hardware": hardware(device),
            "commit": git_commit(),
        }
        count = min(args.images, len(data.train))
        images = (batch.inputs for batch in in_order(data.train, count)) if count else ()
        write_reference(path, found.real, provenance, images, count)
        print(path)
