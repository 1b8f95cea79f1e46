"""`radar push FOLDER user/name`: send an exported folder to the Hugging Face hub, where `hf://user/name` finds it."""

import argparse
from pathlib import Path

from radar.errors import InputError
from radar.hub import push
from radar.training.exported import is_exported


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what it takes."""
    parser.add_argument("folder", help="written by `radar export`")
    parser.add_argument("name", help="user/name of the repository; made if it is not there")
    parser.add_argument("--private", action="store_true", help="make it for its owner alone")


def main(args: argparse.Namespace) -> None:
    """Run `radar push`."""
    if not is_exported(Path(args.folder)):
        raise InputError(f"{args.folder} was not written by `radar export`")
    print(push(Path(args.folder), args.name, args.private))
