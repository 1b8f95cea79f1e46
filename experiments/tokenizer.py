"""`radar tokenizer CONFIG [key=value ...]`: train a learned tokenizer, or go on where it was stopped."""

import argparse
from pathlib import Path

from experiments.arguments import add_config
from experiments.configs import find_config
from radar.config.load import load_config, tokenizer_config
from radar.errors import InputError
from radar.training.devices import is_first
from radar.training.runs import tokenizer_folder, train_tokenizer

arguments = add_config


def main(args: argparse.Namespace) -> None:
    """Run `radar tokenizer`: into the folder where the configuration looks for its tokenizer, if it names one."""
    config = load_config(find_config(args.config, args.options), args.options)
    config = tokenizer_config(config, [text for text in args.options if not text.startswith("tokenizer_training.")])
    if config.tokenizer.checkpoint is not None:
        config.run = str(tokenizer_folder(Path(config.tokenizer.checkpoint)))
        if any(text.startswith("run=") for text in args.options):
            raise InputError(f"run= has no effect: tokenizer.checkpoint={config.tokenizer.checkpoint} is written")
    checkpoint = train_tokenizer(config)
    if is_first(config.train):
        print(checkpoint)
