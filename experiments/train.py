"""`radar train CONFIG [key=value ...]`, or `radar.train` in Python: train a generator, or go on where it stopped.

A tokenizer that is not trained yet is trained first.
"""

import argparse
import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from experiments.arguments import add_config
from experiments.configs import find_config
from radar.config.load import load_config, merge_options, parse_order, read_yaml, to_config
from radar.config.options import Config
from radar.errors import InputError
from radar.files import replacing
from radar.loading import LoadedGenerator, load
from radar.scoring.curve import curve_callbacks
from radar.scoring.evaluation import check_scoring
from radar.training.devices import is_first
from radar.training.fit import check_kept
from radar.training.logs import LAST
from radar.training.runs import train_generator
from radar.training.untrained import check_untrained, is_trained_here, train_untrained, trained_otherwise

arguments = add_config


def main(args: argparse.Namespace) -> None:
    """Run `radar train`."""
    config = load_config(find_config(args.config, args.options), args.options)
    if any(text.startswith("tokenizer_training.") for text in args.options) and not is_trained_here(config):
        raise InputError(f"tokenizer_training has no effect: tokenizer '{config.tokenizer.name}' is not trained here")
    checkpoint = run(config)
    if is_first(config.train):
        print(checkpoint)


def run(config: Config) -> Path:
    """Check all options, train, the tokenizer first if it is not trained, and return the checkpoint.

    Raises InputError.
    """
    check_scoring(config.evaluate)
    check_kept(config)
    if config.tokenizer_training and not (Path(config.run) / LAST).exists():  # else it has been trained on one
        check_untrained(config)
        if (said := trained_otherwise(config)) and is_first(config.train):
            print(said)
        train_untrained(config)
    return train_generator(config, more=curve_callbacks)


def train(config: str | Path | Mapping[str, Any], *options: str, **groups: Any) -> LoadedGenerator:
    """Train a generator, or go on where it was stopped, and open it.

    Args:
        config: YAML file, name of a ready-made configuration, or nested options.
        options: `key=value`, as on the command line.
        groups: options in its place: `order="halton:steps=7"`, or the step of every cell as an array,
            `attention="nested"`, `train={"max_steps": 500}`, `method="maskgit"`, `run="runs/mine"`.

    An array (N,) is written into the run's folder. Raises InputError for bad options.
    """
    if not isinstance(config, str | Path | Mapping) or not all(isinstance(text, str) for text in options):
        raise InputError(
            "radar.train is not possible: a configuration, options 'key=value' and groups by name expected"
        )
    for name, value in groups.items():
        if callable(value):
            raise InputError(f"{name}={value!r} is not possible: a name expected; plugins=[FILE] adds your own to them")
    named = [*options, f"method={groups['method']}"] if "method" in groups else options
    values = dict(config) if isinstance(config, Mapping) else read_yaml(find_config(str(config), named))
    if isinstance(order := groups.get("order"), str):  # another order, and not only another name for the options of one
        values["order"], groups = {}, groups | {"order": given(parse_order(order))}
    elif order is not None and not isinstance(order, Mapping):
        return _in_own_order(values, options, groups | {"order": {}}, order)
    return load(run(to_config(merge_options(values, groups), options)))


def _in_own_order(
    values: dict[str, Any], options: Sequence[str], groups: dict[str, Any], order: Any
) -> LoadedGenerator:
    """Train in the order of an array, which is written beside the checkpoint; raises InputError for what is none."""
    try:
        steps = np.asarray(order.tolist() if hasattr(order, "tolist") else order)
    except (TypeError, ValueError) as error:
        raise InputError(f"order={type(order).__name__} is no array ({error})") from error
    if steps.dtype.kind not in "iu" or not steps.ndim:
        kind = type(order).__name__
        raise InputError(f"order={kind} is not possible: a name, or an array of whole numbers (N,), expected")
    values["order"] = {}
    folder = Path(to_config(merge_options(values, groups), options).run)
    path = folder / f"steps-{hashlib.sha256(steps.astype(np.int64).tobytes()).hexdigest()[:8]}.npy"
    new = not path.exists()
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, steps)
    try:
        return load(
            run(to_config(merge_options(values, groups | {"order": {"name": "file", "path": str(path)}}), options))
        )
    except InputError:
        if new:  # nothing half-written
            path.unlink()
            with suppress(OSError):
                folder.rmdir()
        raise


def given(options: Any) -> dict[str, Any]:
    """Options of a group (a dataclass) that are set."""
    return {key: value for key, value in vars(options).items() if value is not None}
