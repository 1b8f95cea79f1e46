"""A tokenizer that is not trained yet is trained before its generator, as `tokenizer_training` says."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from torch import distributed

from radar.config.load import DEVICE, OF_TOKENIZER, flatten, stored_config, tokenizer_config, training_options
from radar.config.options import Config
from radar.errors import InputError, naming
from radar.files import locked
from radar.hub import is_remote
from radar.tokenizers import Convolutional, build_tokenizer
from radar.training.checkpoints import adopt, as_drawn, build_generator, has_ended, read_checkpoint
from radar.training.devices import must_start, started
from radar.training.other_grid import on_sampled_grid
from radar.training.runs import check_generator_training, tokenizer_folder, train_tokenizer


def is_trained_here(config: Config) -> bool:
    """Whether the tokenizer of a generator has weights that can be trained."""
    tokenizer = build_tokenizer(config.tokenizer)
    return isinstance(tokenizer, Convolutional) and tokenizer.trained_here


def untrained(config: Config) -> Path | None:
    """File of a tokenizer that can be trained and has not made all of its steps yet; None where there is none.

    Raises InputError for a damaged file.
    """
    name = config.tokenizer.checkpoint
    if name is None or is_remote(name) or not is_trained_here(config):
        return None
    path = Path(name)
    return None if path.exists() and has_ended(read_checkpoint(path)) else path


def check_untrained(config: Config) -> None:
    """Build a generator on a tokenizer that is still to be trained, so that a wrong option ends all before that.

    Raises InputError.
    """
    config = adopt(config)
    tokenizer_config(config)
    if (path := untrained(config)) is None:
        return
    if not config.tokenizer_training:
        raise InputError(
            f"tokenizer.checkpoint={path} is not trained: do so by `radar tokenizer`, or say how, under "
            "tokenizer_training"
        )
    check_generator_training(config.train)
    must_start(config.train)
    tokenizer_folder(path)
    tokenizer = as_drawn(build_tokenizer(config.tokenizer), config)
    on_sampled_grid(config, build_generator(config, planned=True, tokenizer=tokenizer)[0], planned=True)


def trained_otherwise(config: Config) -> str | None:
    """Say that a tokenizer is there which `tokenizer_training` would train otherwise; None where there is none."""
    path = config.tokenizer.checkpoint
    if path is None or is_remote(path) or not is_trained_here(config):
        return None
    if not config.tokenizer_training or untrained(config):
        return None
    mine, theirs = (
        flatten({name: training_options(each)[name] for name in OF_TOKENIZER})
        for each in (tokenizer_config(config), stored_config(read_checkpoint(path)))
    )
    names = [name for name in mine if mine[name] != theirs.get(name) and name != DEVICE]
    differ = ", ".join(f"{name}: {theirs.get(name)}, not {mine[name]}" for name in names)
    return f"{path} is trained already, and otherwise ({differ}); it stays as it is" if differ else None


def train_untrained(config: Config, title: str = "tokenizer") -> None:
    """Train the tokenizer of a generator, or go on, if that has not ended; raises InputError.

    Where another command trains it now, its end is waited for.
    """
    if (path := untrained(config)) is None:
        return
    together = config.train.devices * config.train.nodes > 1 and started() is not None
    with nullcontext() if together else locked(path.parent / "lock"), naming("tokenizer"):
        if untrained(config) is not None:
            train_tokenizer(replace(tokenizer_config(config), run=str(path.parent)), title)
    if distributed.is_initialized():
        distributed.barrier()  # the first process may still put the best weights in place of the last
