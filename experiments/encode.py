"""`radar encode CONFIG [key=value ...]`: the images of a data set as tokens, once, on any number of devices."""

import argparse

import numpy as np

from experiments.arguments import add_config
from experiments.configs import find_config
from radar.config.load import load_config
from radar.training.devices import is_first
from radar.training.runs import encode_images

arguments = add_config


def main(args: argparse.Namespace) -> None:
    """Run `radar encode`."""
    config = load_config(find_config(args.config, args.options), args.options)
    path = encode_images(config)
    if is_first(config.train):
        for name in ("train", "held_out"):
            views, cells = np.load(path / f"{name}-tokens.npy", mmap_mode="r").shape[:2]
            images = len(np.load(path / f"{name}-labels.npy", mmap_mode="r"))
            print(f"{name}: {images:,} images, {views // max(1, images)} views of each, {cells} cells of each view")
        print(path)
