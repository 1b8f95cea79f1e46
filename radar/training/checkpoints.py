"""Reading checkpoints back: configuration, averaged weights, and what must match."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from radar.config.load import merge_options, stored_config, to_config
from radar.config.options import Config, ModelConfig, TokenizerConfig
from radar.config.plugins import plugins_digest
from radar.config.renamed import refuse_old_name, upgrade
from radar.data import ImageData, load_data
from radar.decoding.decoding_order import DecodingOrder
from radar.errors import InputError, naming
from radar.hub import is_remote, local
from radar.model.blocks import model_shape
from radar.sampling.guidance import guidance
from radar.tokenizers import Latents, Learned, Tokenizer, build_tokenizer, tokenizer_hash
from radar.training.callbacks import TrainingClock, WeightAverage
from radar.training.devices import pick_device
from radar.training.exported import described, is_exported, read_exported
from radar.training.generative import GenerativeModule
from radar.training.generators import generator_builder
from radar.training.other_grid import on_sampled_grid
from radar.training.tokenizer import TokenizerModule
from radar.training.trained import TrainedModule

# Options of a checkpoint that may be set anew.
MAY_CHANGE = (
    "sample.", "evaluate.", "data.cache=", "data.root=", "data.workers=", "tokenizer.checkpoint=",
    "tokenizer.encoder=", "order.covariance=", "plugins=",
    "order.path=", "train.device=", "train.devices=", "train.nodes=", "model.compile=",
)  # fmt: skip


OF_TRAINING = ("dropout", "label_dropout", "backend", "checkpoint_activations", "compile")  # options of a model


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint of this project with the safe loader; raises InputError if missing, damaged or foreign."""
    path = local(path)
    if is_exported(path):
        checkpoint: dict[str, Any] = read_exported(path)
        upgrade(checkpoint)
        return checkpoint
    if not path.is_file():
        there = "is a folder: name the file in it, last.ckpt" if path.is_dir() else "does not exist"
        raise InputError(f"checkpoint {path} {there}")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        raise InputError(f"checkpoint {path} is damaged or not a checkpoint ({type(error).__name__})") from error
    if not isinstance(checkpoint, dict) or "radar" not in checkpoint:
        raise InputError(f"checkpoint {path} was not written by this project")
    upgrade(checkpoint)
    return checkpoint


def has_ended(checkpoint: dict[str, Any]) -> bool:
    """Whether a training has made all of its steps, or was ended for getting no better."""
    train = checkpoint["radar"]["config"]["train"]
    if "imported" in checkpoint["radar"]:
        return True
    if train.get("patience") is not None:
        return "trained_steps" in checkpoint["radar"]
    return bool(checkpoint["global_step"] >= train["max_steps"])


def restore_weights(module: TrainedModule, checkpoint: dict[str, Any], path: str | Path) -> None:
    """Load the weights, then the average over them if there is one; raises InputError on any mismatch."""
    try:
        module.load_state_dict(checkpoint["state_dict"])
        average = checkpoint["callbacks"].get(WeightAverage.__name__, {}).get("average", [])
        for weight, value in zip(WeightAverage.parameters(module), average, strict=bool(average)):
            weight.copy_(value)
    except (RuntimeError, ValueError, KeyError) as error:
        reason = " ".join(line.strip() for line in str(error).strip().splitlines()[:2])
        raise InputError(f"checkpoint {path} does not fit this model: {reason[:200]}") from error
    module.eval()


def load_tokenizer(config: TokenizerConfig) -> Tokenizer:
    """Build a tokenizer, with the weights of `checkpoint` if it is a learned one.

    Options that are not given are those of the checkpoint; raises InputError where given ones are others.
    """
    there = config.checkpoint is not None and (is_remote(config.checkpoint) or Path(config.checkpoint).exists())
    checkpoint = read_checkpoint(config.checkpoint) if config.checkpoint is not None and there else None
    trained = None if checkpoint is None else stored_config(checkpoint)
    if trained is None or trained.tokenizer.name != config.name:
        tokenizer = build_tokenizer(config)
        if not isinstance(tokenizer, Learned):
            return tokenizer.eval()
    how = "train it first by `radar tokenizer CONFIG`, CONFIG being a YAML file or a ready-made name, or `radar import`"
    if config.checkpoint is None:
        raise InputError(
            f"tokenizer '{config.name}' must be trained or imported: {how} one, then set tokenizer.checkpoint"
        )
    if checkpoint is None or trained is None:
        raise InputError(f"tokenizer.checkpoint={config.checkpoint} does not exist: {how} it")
    for name, given in vars(replace(config, checkpoint=None, encoder=None)).items():
        if given is not None and given != (found := getattr(trained.tokenizer, name)):
            raise InputError(
                f"checkpoint {config.checkpoint} holds another tokenizer: {name} is {found}, tokenizer.{name}={given}"
            )
    tokenizer = build_tokenizer(replace(trained.tokenizer, encoder=config.encoder or trained.tokenizer.encoder))
    assert isinstance(tokenizer, Learned)
    weights = {name: value for name, value in checkpoint["state_dict"].items() if name.startswith("tokenizer.")}
    restore_weights(TokenizerModule(trained, tokenizer), checkpoint | {"state_dict": weights}, config.checkpoint)
    return tokenizer.eval().requires_grad_(False)


def as_drawn(tokenizer: Tokenizer, config: Config) -> Tokenizer:
    """The tokenizer, or its vectors before they are rounded to codes if a diffusion is to draw these."""
    return Latents(tokenizer).eval() if config.diffusion.latents and not tokenizer.continuous else tokenizer


def generator_tokenizer(config: Config) -> Tokenizer:
    """That of a generator; see `load_tokenizer` and `as_drawn`."""
    return as_drawn(load_tokenizer(config.tokenizer), config)


@dataclass(frozen=True)
class Generator:
    """A trained generator with all that it needs to make and judge images, on one device.

    Attributes:
        kept_step, trained_steps: optimizer steps that its weights have seen, and those of its whole training.
        path, overrides: what it was opened by.
        as_trained: the module on the grid that it was trained on; `sample.grid` may ask for another.
    """

    config: Config
    module: GenerativeModule
    data: ImageData
    tokenizer: Tokenizer
    commit: str
    train_seconds: float
    kept_step: int = 0
    trained_steps: int = 0
    path: str = ""
    overrides: Sequence[str] = ()
    as_trained: GenerativeModule | None = None

    @property
    def grid(self) -> tuple[int, int]:
        """Cells (h, w)."""
        return self.module.grid


def build_generator(
    config: Config,
    step: Tensor | None = None,
    planned: bool = False,
    data: ImageData | None = None,
    tokenizer: Tokenizer | None = None,
) -> tuple[GenerativeModule, ImageData, Tokenizer]:
    """Build all parts of a run, untrained, in the order of the options or in `step`, that of a checkpoint.

    `data` and `tokenizer` are those of the options, or opened before. If only `planned`, its weights take neither time
    nor memory, and hold nothing. Raises InputError if the parts do not fit together.
    """
    guidance(config.sample.guidance_schedule, config.sample.guidance_power)
    data = load_data(config.data) if data is None else data
    tokenizer = generator_tokenizer(config) if tokenizer is None else tokenizer
    grid = tokenizer.grid(data.size)
    origin = {"tokenizer": tokenizer_hash(tokenizer), "images": data.identity}
    if config.plugins:
        origin["plugins"] = plugins_digest(config.plugins)
    module = generator_builder(config)(config, tokenizer, len(data.classes), grid, origin, step, planned)
    return module, data, tokenizer


def adopt(config: Config) -> Config:
    """Take over the model options of the checkpoint `init`, if there is one, but for how it is trained and computed.

    Raises InputError if it is no generator of this project, or if another size than its own is asked for.
    """
    if config.init is None:
        return config
    theirs = stored_config(read_checkpoint(config.init)).model
    asked, there = model_shape(config.model), model_shape(theirs)
    if asked not in (model_shape(ModelConfig()), there):
        raise InputError(f"init={config.init} is a model of another size: {there}; the options model.* give {asked}")
    return replace(config, model=replace(theirs, **{name: getattr(config.model, name) for name in OF_TRAINING}))


def begin_with(module: GenerativeModule, path: str | Path) -> None:
    """Load the weights to begin a training with; raises InputError if model, tokens or images are others."""
    checkpoint = read_checkpoint(path)
    check_origin(module, checkpoint, path)
    restore_weights(module, checkpoint, path)
    module.train()


def check_origin(module: TrainedModule, checkpoint: dict[str, Any], path: str | Path) -> None:
    """Refuse a generator that was trained on other tokens than these images give here; tell of other plugins."""
    for what, mine in module.origin.items():
        if (theirs := checkpoint["radar"]["origin"].get(what)) == mine:
            continue
        said = f"{path} was trained with other {what} ({theirs}, here {mine})"
        if what != "plugins":
            raise InputError(f"checkpoint {said}")
        print(f"radar: {said}", file=sys.stderr)  # what is in them may still be the same


def tell_if_changed(order: DecodingOrder, path: str | Path, found: dict[str, Any] | None = None) -> None:
    """Print one line where the options give another order now than the checkpoint holds; its own is used.

    Another line where they give other orders to single images, as far as what a checkpoint says of itself shows it.
    """
    name, own = order.config.order.name, (found or {}).get("sampled_order")
    try:
        if not order.is_current():
            said = f"{path} was trained in another order '{name}' than this version and these files give; "
            said += "its own is used"
        elif found is not None and own and own != order.sampled_digest(stored_config({"radar": found}).sample):
            said = f"{path} was trained by a version that draws other orders for single images than this one does"
        else:
            return
    except InputError:  # a file that it was made from is gone; it is not needed any more
        return
    print(f"radar: {said}", file=sys.stderr)


def config_of(checkpoint: dict[str, Any], overrides: list[str]) -> Config:
    """Options of a checkpoint; raises InputError for an override that would change what was trained."""
    for text in overrides:
        refuse_old_name(text.partition("=")[0])
        if not text.startswith(MAY_CHANGE):
            raise InputError(f"'{text}' would change what was trained; a checkpoint takes: {', '.join(MAY_CHANGE)}")
    own = checkpoint["radar"]["config"].get("plugins") or []
    gone = [text for text in own if not Path(text).expanduser().is_file()]
    if gone and not any(text.startswith("plugins=") for text in overrides):
        raise InputError(f"it was trained with plugins={','.join(gone)}, not to be found here: give plugins=[FILE]")
    one = {"train": {"devices": 1, "nodes": 1}}  # however many have trained it
    return to_config(merge_options(checkpoint["radar"]["config"], one), overrides)


def holds_tokenizer(path: str | Path) -> bool:
    """Whether a checkpoint is one of a tokenizer; raises InputError if missing, damaged or foreign."""
    return any(name.startswith("tokenizer.") for name in read_checkpoint(path)["state_dict"])


def load_generator(path: str | Path, overrides: list[str] | None = None) -> Generator:
    """Open a checkpoint, with `key=value` overrides of how it is sampled and scored and where things lie.

    Raises InputError for a bad checkpoint, and for an override that would change what was trained.
    """
    checkpoint = read_checkpoint(path)
    if not any(name.startswith("model.") for name in checkpoint["state_dict"]):
        raise InputError(f"checkpoint {path} is that of a tokenizer; one of a generator expected")
    with naming(f"checkpoint {path}"):
        config = config_of(checkpoint, overrides or [])
    try:
        module, data, tokenizer = build_generator(
            config, checkpoint["radar"].get("order"), data=images_of(config, checkpoint)
        )
    except InputError as error:
        if config.plugins or "plugins" not in checkpoint["radar"]["origin"]:
            raise
        raise InputError(f"{error}; {path} was trained with plugins: give plugins=[FILE]") from error
    tell_if_changed(module.order, path, checkpoint["radar"])
    restore_weights(module, checkpoint, path)
    check_origin(module, checkpoint, path)
    device = pick_device(config.train.device)
    module.to(device)
    tokenizer.to(device)
    seconds = float(checkpoint["callbacks"].get(TrainingClock.__name__, {}).get("seconds", 0.0))
    found, kept = checkpoint["radar"], int(checkpoint["global_step"])
    trained = int(found.get("trained_steps", kept))
    commit, opened = found["commit"], (str(path), tuple(overrides or ()))
    return configured(Generator(config, module, data, tokenizer, commit, seconds, kept, trained, *opened), config)


def images_of(config: Config, checkpoint: dict[str, Any]) -> ImageData:
    """The data set of a checkpoint; of an exported one its description, where the images are not here."""
    try:
        return load_data(config.data)
    except InputError:
        told = checkpoint["radar"].get("data")
        if told is None or config.data.root is not None:
            raise
        return described(told)


def configured(generator: Generator, config: Config) -> Generator:
    """Give a generator other options of how it is sampled and scored; raises InputError for an impossible grid."""
    trained = generator.as_trained or generator.module
    module = on_sampled_grid(config, trained).to(trained.device)
    return replace(generator, config=config, module=module, as_trained=trained)
