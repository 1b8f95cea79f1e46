"""`radar import llamagen-gpt FILE [key=value ...]`: published weights as a checkpoint of this project.

A tokenizer stands by itself. A generator needs to know what it was trained on: the images (their classes and size) and
the tokenizer, as options, for example
`data.name=folder data.root=IMAGENET/train data.size=256 tokenizer.name=llamagen_vq tokenizer.checkpoint=...`.
"""

import argparse
from pathlib import Path

from radar.config.lookup import choose
from radar.errors import InputError
from radar.scoring.evaluation import check_scoring
from radar.training.imported import IMPORTS, read_published, save_checkpoint


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what it takes."""
    parser.add_argument("kind", help=f"what it is: {', '.join(IMPORTS)}")
    parser.add_argument(
        "file", help="published weights: a state dict, by itself or under ema, model, module or state_dict"
    )
    parser.add_argument("--out", help="checkpoint to write (default runs/KIND/NAME.ckpt)")


def main(args: argparse.Namespace) -> None:
    """Run `radar import`."""
    read = choose("kind of weights", args.kind, IMPORTS)
    for text in args.options:
        if text.startswith("model.") and not text.startswith("model.heads="):
            raise InputError(f"'{text}' has no effect: the file says what the model is, but for model.heads")
    state = read_published(args.file)
    try:
        module = read(state, args.file, args.options)
    except InputError:
        raise
    except (ValueError, IndexError) as error:  # names and shapes that none of these files has
        raise InputError(f"{args.file} holds no weights of kind {args.kind} ({error})") from error
    check_scoring(module.config.evaluate)
    path = Path(args.out or f"runs/{args.kind}/{Path(args.file).stem}.ckpt")
    save_checkpoint(module, path, args.file)
    print(path)
