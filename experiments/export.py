"""`radar export CHECKPOINT FOLDER`: safetensors, config.json, a model card and samples, for others to load."""

import argparse
from pathlib import Path

from radar.sharing.export import export


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what it takes."""
    parser.add_argument("checkpoint", help="written by `radar train`, `radar tokenizer` or `radar import`")
    parser.add_argument("folder", help="to be made")
    parser.add_argument("--licence", help="of the weights, by its short name (apache-2.0), for the card")
    parser.add_argument(
        "--scores", help="row of `radar evaluate` (default: evaluation.json beside it, or its row in a study)"
    )


def main(args: argparse.Namespace) -> None:
    """Run `radar export`."""
    scores = None if args.scores is None else Path(args.scores)
    export(args.checkpoint, Path(args.folder), args.licence, scores, args.options)
    print(args.folder)
