"""Arguments that several verbs take."""

import argparse
from pathlib import Path

from radar.errors import InputError
from radar.hub import PREFIX, is_remote

LARGEST_GRID = 64 * 64  # the gap factorises an N x N matrix


def add_config(parser: argparse.ArgumentParser) -> None:
    """Declare a configuration to train."""
    parser.add_argument("config", help="YAML file, or the name of a ready-made configuration")


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """Declare a checkpoint to use, and where results go."""
    parser.add_argument("checkpoint", help="written by `radar train`; or a folder of `radar export`, or hf://user/name")
    parser.add_argument("--out", help="folder for the results (default: beside the checkpoint)")


def beside(checkpoint: str) -> Path:
    """Folder for the results of a checkpoint: its own; of one on the hub, a folder here of its name."""
    if is_remote(checkpoint):
        return Path("runs", *checkpoint.removeprefix(PREFIX).split("/"))
    return Path(checkpoint) if Path(checkpoint).is_dir() else Path(checkpoint).parent


def add_plugins(parser: argparse.ArgumentParser) -> None:
    """Declare Python files of a user's own; `ablations/cli.py` imports them."""
    parser.add_argument("--plugins", nargs="+", default=[], help="Python files that add orders or attentions")


def parse_grid(text: str, option: str = "--grid") -> tuple[int, int]:
    """Read `16x16`; raises InputError."""
    try:
        h, w = (int(side) for side in text.split("x"))
    except ValueError as error:
        raise InputError(f"{option} {text} is not of the form ROWSxCOLUMNS (example: 16x16)") from error
    if min(h, w) < 1 or h * w > LARGEST_GRID:
        raise InputError(f"{option} {text} is not possible: sides of at least 1, at most {LARGEST_GRID} cells")
    return h, w
