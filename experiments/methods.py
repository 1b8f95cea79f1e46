"""`radar methods [model.preset=B]`: table of the published methods on the shared transformer."""

import argparse
from pathlib import Path

from experiments.remembered import remembered, show
from radar.errors import InputError


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what it takes: options only."""


def main(args: argparse.Namespace) -> None:
    """Run `radar methods`."""
    if other := [text for text in args.options if not text.startswith("model.")]:
        raise InputError(f"methods takes options of the model only (example: model.preset=B), not '{other[0]}'")
    show(remembered("methods", args.options, lambda to: compute(args.options, to)))


def compute(options: list[str], folder: Path) -> str:
    """Return the table."""
    from radar.training.counts import methods_table

    return methods_table(options)
