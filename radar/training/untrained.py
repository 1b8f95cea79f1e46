"""A tokenizer that is not trained yet is trained before its generator, as `tokenizer_training` says."""

from dataclasses import replace
from pathlib import Path

from radar.config.load import tokenizer_config
from radar.config.options import Config
from radar.data import load_data
from radar.errors import InputError
from radar.hub import is_remote
from radar.tokenizers import build_tokenizer
from radar.training.checkpoints import adopt, as_drawn, has_ended, read_checkpoint
from radar.training.generators import generator_builder
from radar.training.runs import check_generator_training, tokenizer_folder, train_tokenizer


def untrained(config: Config) -> Path | None:
    """File of a tokenizer that has not made all of its steps yet; None if it has, has no weights or names no file.

    Raises InputError for a damaged file.
    """
    name = config.tokenizer.checkpoint
    if name is None or is_remote(name) or not build_tokenizer(config.tokenizer).learned:
        return None
    path = Path(name)
    return None if path.exists() and has_ended(read_checkpoint(path)) else path


def check_untrained(config: Config) -> None:
    """Build a generator on a tokenizer that is still to be trained, so that a wrong option ends all before that.

    Without the field of its order, which may come later. Raises InputError.
    """
    config = adopt(config)
    if (path := untrained(config)) is None:
        return
    if not config.tokenizer_training:
        raise InputError(
            f"tokenizer.checkpoint={path} is not trained: do so by `radar tokenizer`, or say how, under "
            "tokenizer_training"
        )
    check_generator_training(config.train)
    tokenizer_folder(path)
    if path.exists():
        return
    data, order = load_data(config.data), replace(config.order, covariance=None)
    config = replace(config, order=order, sample=replace(config.sample, order=None, order_per_image=False))
    tokenizer = as_drawn(build_tokenizer(config.tokenizer), config)
    generator_builder(config)(config, tokenizer, len(data.classes), tokenizer.grid(data.size), planned=True)


def train_untrained(config: Config, title: str = "tokenizer") -> None:
    """Train the tokenizer of a generator, or go on, if that has not ended; raises InputError."""
    if (path := untrained(config)) is not None:
        train_tokenizer(replace(tokenizer_config(config), run=str(path.parent)), title)
