"""`radar tokenizer CONFIG [key=value ...]`: train a learned tokenizer, or go on where it was stopped."""

import argparse
from pathlib import Path

from lightning.pytorch import seed_everything

from experiments.configs import find_config
from experiments.train import LAST, fit
from radar.config.load import load_config
from radar.config.options import Config, check_training
from radar.data import load_data
from radar.data.tokens import image_batches
from radar.errors import InputError
from radar.tokenizers import Convolutional, build_tokenizer
from radar.training.tokenizer import TokenizerModule


def train_tokenizer(config: Config, title: str = "tokenizer") -> Path:
    """Train a learned tokenizer; return its checkpoint; raises InputError for one without weights."""
    check_training(config.train)
    seed_everything(config.seed, verbose=False)
    data, tokenizer = load_data(config.data), build_tokenizer(config.tokenizer)
    if not isinstance(tokenizer, Convolutional):
        raise InputError(f"tokenizer '{config.tokenizer.name}' is not trained here; choose vq or fsq")
    tokenizer.grid(data.size)
    module = TokenizerModule(config, tokenizer, {"images": data.identity})
    return fit(config, module, image_batches(config, data), title, average=False)


def tokenizer_folder(checkpoint: Path) -> Path:
    """Folder to train a tokenizer in, for its checkpoint to be this file; raises InputError for another name."""
    if checkpoint.name != LAST:
        raise InputError(f"tokenizer.checkpoint={checkpoint} cannot be trained: its file name must be {LAST}")
    return checkpoint.parent


def main(args: argparse.Namespace) -> None:
    """Run `radar tokenizer`: into the folder where the configuration looks for its tokenizer, if it names one."""
    config = load_config(find_config(args.config), args.options)
    if config.tokenizer.checkpoint is not None:
        config.run = str(tokenizer_folder(Path(config.tokenizer.checkpoint)))
        if any(text.startswith("run=") for text in args.options):
            raise InputError(f"run= has no effect: tokenizer.checkpoint={config.tokenizer.checkpoint} is written")
    print(train_tokenizer(config))
