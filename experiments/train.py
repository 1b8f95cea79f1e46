"""`radar train CONFIG [key=value ...]`: train a generator, or go on where it was stopped."""

import argparse

from experiments.arguments import add_config
from experiments.configs import find_config
from radar.config.load import load_config
from radar.scoring.curve import curve_callbacks
from radar.scoring.evaluation import check_scoring
from radar.training.devices import is_first
from radar.training.fit import check_kept
from radar.training.runs import train_generator

arguments = add_config


def main(args: argparse.Namespace) -> None:
    """Run `radar train`."""
    config = load_config(find_config(args.config), args.options)
    check_scoring(config.evaluate)
    check_kept(config)
    checkpoint = train_generator(config, more=curve_callbacks)
    if is_first(config.train):
        print(checkpoint)
