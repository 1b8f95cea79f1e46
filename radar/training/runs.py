"""Training a generator or a tokenizer by its configuration, from the images to the last checkpoint."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from lightning.pytorch import Callback, seed_everything
from torch import Tensor

from radar.config.options import Config
from radar.config.training import OF_TOKENIZERS, TrainConfig, check_training
from radar.data import ImageData, load_data
from radar.data.batches import image_batches
from radar.data.tokens import cache_path, cached_tokens, token_batches
from radar.decoding.decoding_order import DecodingOrder
from radar.errors import InputError
from radar.networks.features import check_features, load_features
from radar.tokenizers import Convolutional, Tokenizer, build_tokenizer
from radar.training.adversary import build_adversary
from radar.training.alignment import Teacher
from radar.training.checkpoints import (
    adopt,
    begin_with,
    build_generator,
    generator_tokenizer,
    read_checkpoint,
    tell_if_changed,
)
from radar.training.devices import must_launch, must_start, on_devices, pick_device
from radar.training.fit import check_same, fit
from radar.training.generative import GenerativeModule
from radar.training.loggers import check_loggers
from radar.training.logs import LAST
from radar.training.other_grid import on_sampled_grid
from radar.training.tokenizer import TokenizerModule
from radar.training.trained import parts_of_a_step

Callbacks = Callable[[Config], Sequence[Callback]]  # can be pickled where there are several devices


def train_tokenizer(config: Config, title: str = "tokenizer") -> Path:
    """Train a learned tokenizer; return its checkpoint; raises InputError for one without weights."""
    check_training(config.train)
    check_loggers(config.train.loggers)
    if config.train.strategy == "fsdp":
        raise InputError("train.strategy=fsdp is not possible: a tokenizer is whole on every device; choose ddp")
    starts = must_start(config.train)
    seed_everything(config.seed, verbose=False)
    data, tokenizer = load_data(config.data), build_tokenizer(config.tokenizer)
    if not isinstance(tokenizer, Convolutional) or not tokenizer.trained_here:
        raise InputError(
            f"tokenizer '{config.tokenizer.name}' is not trained here; choose vq, fsq, multiscale, frozen, autoencoder"
        )
    if tokenizer.averages and config.train.devices * config.train.nodes * parts_of_a_step(config.train) > 1:
        raise InputError(
            f"train.devices={config.train.devices}, train.micro_batch={config.train.micro_batch} is not possible with "
            f"tokenizer.name={config.tokenizer.name}, whose codes are averages of whole batches that one device keeps; "
            "choose fsq, or one device that takes a batch at once"
        )
    if config.train.adversarial_weight and parts_of_a_step(config.train) > 1:
        raise InputError(
            f"train.micro_batch={config.train.micro_batch} is not possible with train.adversarial_weight, which "
            "adapts to a whole batch; leave out train.micro_batch"
        )
    tokenizer.grid(data.size)
    if not len(data.train):
        raise InputError(f"data '{data.name}' has no images, which a tokenizer learns from")
    build_adversary(config.train, min(data.size))  # fails here, before any work
    networks = [load_features(name, data, config.data.cache) for name in config.train.perceptual]
    for network in networks:
        network.maps(torch.zeros(2, 3, *data.size))  # fails here where it has none
    if starts:
        return on_devices(config.train.devices, train_tokenizer, config, title)
    origin = {"images": data.identity} | tokenizer.origin
    if networks:
        origin["networks"] = ", ".join(network.title for network in networks)
    module = TokenizerModule(config, tokenizer, origin, networks, min(data.size))
    return fit(config, module, image_batches(config, data), title, average=False)


def tokenizer_folder(checkpoint: Path) -> Path:
    """Folder to train a tokenizer in, for its checkpoint to be this file; raises InputError for another name."""
    if checkpoint.name != LAST:
        raise InputError(
            f"tokenizer.checkpoint={checkpoint} is not trained, and cannot be: its file name must be {LAST}"
        )
    return checkpoint.parent


def no_callbacks(config: Config) -> Sequence[Callback]:
    """None."""
    return ()


def encode_images(config: Config) -> Path:
    """Encode the images of a data set, on all of `train.devices`; return the folder of their tokens.

    Raises InputError for bad options.
    """
    data, tokenizer = load_data(config.data), generator_tokenizer(config)
    if data.codes is not None:
        raise InputError("data.name=codes is encoded already: there is nothing to do")
    path = cache_path(data, tokenizer, config.data.cache)
    if must_launch(config.train) and not path.exists():
        return on_devices(config.train.devices, encode_images, config)
    cached_tokens(data, tokenizer.to(pick_device(config.train.device)), config.data.cache, config.data.workers)
    return path


def train_generator(config: Config, title: str = "train", more: Callbacks = no_callbacks) -> Path:
    """Train a generator, with the callbacks that `more` makes on each device; return its checkpoint.

    Raises InputError for bad options.
    """
    check_generator_training(config.train)
    starts = must_start(config.train)
    seed_everything(config.seed, verbose=False)
    config = adopt(config)
    stored = order_to_go_on(config)
    module, data, tokenizer = build_generator(config, stored, planned=starts)
    on_sampled_grid(config, module, planned=True)  # fails here, not after training
    if stored is not None:
        check_order(module.order, Path(config.run) / LAST)
    if starts:
        if data.codes is None:
            encode_images(config)
        return on_devices(config.train.devices, train_generator, config, title, more)
    tokenizer.to(pick_device(config.train.device))
    splits = cached_tokens(data, tokenizer, config.data.cache, config.data.workers)
    module.learn_from(splits)
    if config.init is not None and not (Path(config.run) / LAST).exists():
        begin_with(module, config.init)
    teach(module, config, data, tokenizer)
    batches = token_batches(config, splits, module.takes_others)
    return fit(config, module, batches, title, more=more(config))


def check_generator_training(train: TrainConfig) -> None:
    """Check how a generator is to be trained; raises InputError."""
    check_training(train)
    check_loggers(train.loggers)
    if train.align is not None:
        check_features([train.align])
    for name in OF_TOKENIZERS:
        if (given := getattr(train, name)) != getattr(TrainConfig(), name):
            raise InputError(f"train.{name}={given} has no effect: only tokenizers restore images")


def teach(module: GenerativeModule, config: Config, data: ImageData, tokenizer: Tokenizer) -> None:
    """Give a module the encoder that it is aligned with, if any; raises InputError for one that shows no maps."""
    if module.alignment is not None and config.train.align is not None:
        network = load_features(config.train.align, data, config.data.cache).eval().requires_grad_(False)
        network.cells(torch.zeros(2, 3, *data.size), module.grid)  # fails here, not in the first step
        module.origin["teacher"] = network.title
        module.alignment.learn_from(Teacher(network, tokenizer, module.grid, module.model.shape.dim))  # type: ignore[arg-type]


def order_to_go_on(config: Config) -> Tensor | None:
    """Order of the checkpoint that a training goes on from, if there is one; raises InputError for another run's."""
    last = Path(config.run) / LAST
    if not last.exists():
        return None
    found = read_checkpoint(last)["radar"]
    check_same(config, found["config"], last)
    order: Tensor | None = found.get("order")
    return order


def check_order(order: DecodingOrder, path: Path) -> None:
    """Refuse to go on where a file gives another order now; say so in one line where the code does."""
    file = order.config.order.path or order.config.order.covariance
    if file and Path(file).exists() and not order.is_current():
        raise InputError(f"{path} was trained in another order than {file} gives now; choose another run=")
    tell_if_changed(order, path)
