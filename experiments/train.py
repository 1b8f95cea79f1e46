"""`radar train CONFIG [key=value ...]`, or `radar.train` in Python: train a generator, or go on where it stopped."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.arguments import add_config
from experiments.configs import find_config
from radar.config.load import load_config, merge_options, parse_order, read_yaml, to_config
from radar.config.options import Config
from radar.loading import LoadedGenerator, load
from radar.scoring.curve import curve_callbacks
from radar.scoring.evaluation import check_scoring
from radar.training.devices import is_first
from radar.training.fit import check_kept
from radar.training.runs import train_generator

arguments = add_config


def main(args: argparse.Namespace) -> None:
    """Run `radar train`."""
    config = load_config(find_config(args.config), args.options)
    checkpoint = run(config)
    if is_first(config.train):
        print(checkpoint)


def run(config: Config) -> Path:
    """Check all options, train, return the checkpoint; raises InputError."""
    check_scoring(config.evaluate)
    check_kept(config)
    return train_generator(config, more=curve_callbacks)


def train(config: str | Path | Mapping[str, Any], *options: str, **groups: Any) -> LoadedGenerator:
    """Train a generator, or go on where it was stopped, and open it.

    Args:
        config: YAML file, name of a ready-made configuration, or nested options.
        options: `key=value`, as on the command line.
        groups: options in its place: `order="halton:steps=7"`, `attention="nested"`, `train={"max_steps": 500}`,
            `method="maskgit"`, `run="runs/mine"`.

    Raises InputError for bad options.
    """
    values = dict(config) if isinstance(config, Mapping) else read_yaml(find_config(str(config)))
    if isinstance(order := groups.get("order"), str):  # another order, and not only another name for the options of one
        values["order"], groups = {}, groups | {"order": given(parse_order(order))}
    return load(run(to_config(merge_options(values, groups), options)))


def given(options: Any) -> dict[str, Any]:
    """Options of a group (a dataclass) that are set."""
    return {key: value for key, value in vars(options).items() if value is not None}
