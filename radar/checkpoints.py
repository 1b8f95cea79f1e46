"""Reading checkpoints back: configuration, averaged weights, and what must match."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from radar.blocks import model_shape
from radar.callbacks import TrainingClock, WeightAverage
from radar.config import to_config
from radar.data import ImageData, load_data
from radar.errors import InputError
from radar.features import FEATURES
from radar.metrics import check_metrics
from radar.modules import GeneratorModule, TokenizerModule, TrainedModule
from radar.optimised import field_hash
from radar.options import Config, ModelConfig, TokenizerConfig
from radar.sampling import GUIDANCE_SCHEDULES
from radar.tokenizers import Learned, Tokenizer, build_tokenizer, tokenizer_hash
from radar.variants import choose

# Options of a checkpoint that may be set anew.
FREE = (
    "sample.", "evaluate.", "data.cache=", "data.root=", "data.workers=", "tokenizer.checkpoint=", "train.device=",
    "model.compile=",
)  # fmt: skip


OF_TRAINING = ("dropout", "label_dropout", "backend", "checkpoint_activations", "compile")  # options of a model


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint of this project with the safe loader; raises InputError if missing, damaged or foreign."""
    if not Path(path).is_file():
        raise InputError(f"checkpoint {path} does not exist")
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        raise InputError(f"checkpoint {path} is damaged or not a checkpoint ({type(error).__name__})") from error
    if not isinstance(checkpoint, dict) or "radar" not in checkpoint:
        raise InputError(f"checkpoint {path} was not written by this project")
    return checkpoint


def restore_weights(module: TrainedModule, checkpoint: dict[str, Any], path: str | Path) -> None:
    """Load the weights, then the average over them if there is one; raises InputError on any mismatch."""
    try:
        module.load_state_dict(checkpoint["state_dict"])
        average = checkpoint["callbacks"].get(WeightAverage.__name__, {}).get("average", [])
        for weight, value in zip(WeightAverage.parameters(module), average, strict=bool(average)):
            weight.copy_(value)
    except (RuntimeError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"checkpoint {path} does not fit this model: {reason}") from error
    module.eval()


def load_tokenizer(config: TokenizerConfig) -> Tokenizer:
    """Build a tokenizer, with the weights of `checkpoint` if it is a learned one; raises InputError."""
    tokenizer = build_tokenizer(config)
    if not isinstance(tokenizer, Learned):
        return tokenizer.eval()
    if config.checkpoint is None:
        raise InputError(
            f"tokenizer '{config.name}' must be trained or imported first: run `radar tokenizer` or `radar import`, "
            "then set tokenizer.checkpoint"
        )
    checkpoint = read_checkpoint(config.checkpoint)
    trained = to_config(checkpoint["radar"]["config"])
    if replace(trained.tokenizer, checkpoint=None) != replace(config, checkpoint=None):
        raise InputError(f"checkpoint {config.checkpoint} holds another tokenizer: {trained.tokenizer}")
    module = TokenizerModule(trained, tokenizer)
    restore_weights(module, checkpoint, config.checkpoint)
    return tokenizer.eval().requires_grad_(False)


@dataclass(frozen=True)
class Generator:
    """A trained generator with all that it needs to make and judge images, on one device."""

    config: Config
    module: GeneratorModule
    data: ImageData
    tokenizer: Tokenizer
    commit: str
    train_seconds: float

    @property
    def grid(self) -> tuple[int, int]:
        """Cells (h, w)."""
        return self.module.model.grid


def build_generator(config: Config) -> tuple[GeneratorModule, ImageData, Tokenizer]:
    """Build all parts of a run, untrained; raises InputError if they do not fit together."""
    check_metrics(config.evaluate.metrics)
    choose("feature network", config.evaluate.features, FEATURES)
    choose("guidance schedule", config.sample.guidance_schedule, GUIDANCE_SCHEDULES)
    data = load_data(config.data)
    tokenizer = load_tokenizer(config.tokenizer)
    grid = tokenizer.grid(data.size)
    origin = {"tokenizer": tokenizer_hash(tokenizer), "images": data.identity}
    if config.order.covariance is not None:  # another field behind the same path would be another order
        origin["field"] = field_hash(config.order.covariance, *grid)
    return GeneratorModule(config, tokenizer.vocabulary, len(data.classes), grid, origin), data, tokenizer


def adopt(config: Config) -> Config:
    """Take over the model options of the checkpoint `init`, if there is one, but for how it is trained and computed.

    Raises InputError if it is no generator of this project, or if another size than its own is asked for.
    """
    if config.init is None:
        return config
    theirs = to_config(read_checkpoint(config.init)["radar"]["config"]).model
    asked, there = model_shape(config.model), model_shape(theirs)
    if asked not in (model_shape(ModelConfig()), there):
        raise InputError(f"init={config.init} is a model of another size: {there}; the options model.* give {asked}")
    return replace(config, model=replace(theirs, **{name: getattr(config.model, name) for name in OF_TRAINING}))


def begin_with(module: GeneratorModule, path: str | Path) -> None:
    """Load the weights to begin a training with; raises InputError if model, tokens or images are others."""
    checkpoint = read_checkpoint(path)
    check_origin(module, checkpoint, path, ("tokenizer", "images"))  # and not the order's field
    restore_weights(module, checkpoint, path)
    module.train()


def check_origin(
    module: TrainedModule, checkpoint: dict[str, Any], path: str | Path, parts: Sequence[str] | None = None
) -> None:
    """Refuse a generator that was trained on other tokens than these images give here, or for another field."""
    for what in module.origin if parts is None else parts:
        mine = module.origin.get(what)
        if (theirs := checkpoint["radar"]["origin"].get(what)) != mine:
            raise InputError(f"checkpoint {path} was trained with other {what} ({theirs}, here {mine})")


def pick_device(name: str) -> torch.device:
    """Resolve `train.device`; raises InputError if it is not there."""
    best = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.zeros(0, device=best if name == "auto" else name).device
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"train.device={name} cannot be used here: {str(error).splitlines()[0]}") from error


def load_generator(path: str | Path, overrides: list[str] | None = None) -> Generator:
    """Open a checkpoint, with `key=value` overrides of how it is sampled and scored and where things lie.

    Raises InputError for a bad checkpoint, and for an override that would change what was trained.
    """
    checkpoint = read_checkpoint(path)
    for text in overrides or []:
        if not text.startswith(FREE):
            raise InputError(f"'{text}' would change what was trained; a checkpoint takes: {', '.join(FREE)}")
    config = to_config(checkpoint["radar"]["config"], overrides or [])
    module, data, tokenizer = build_generator(config)
    restore_weights(module, checkpoint, path)
    check_origin(module, checkpoint, path)
    device = pick_device(config.train.device)
    module.to(device)
    tokenizer.to(device)
    seconds = float(checkpoint["callbacks"].get(TrainingClock.__name__, {}).get("seconds", 0.0))
    return Generator(config, module, data, tokenizer, checkpoint["radar"]["commit"], seconds)
