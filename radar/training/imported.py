"""Published weights as checkpoints of this project."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from radar.config.load import to_config
from radar.data import load_data
from radar.errors import InputError
from radar.files import replacing
from radar.hub import local
from radar.model.llamagen import llamagen_gpt, llamagen_vq
from radar.tokenizers import Learned, build_tokenizer
from radar.training.checkpoints import build_generator, load_tokenizer
from radar.training.tokenizer import TokenizerModule
from radar.training.trained import TrainedModule

WRAPPERS = ("model", "module", "state_dict")  # under which published files keep their tensors


def read_published(path: str) -> dict[str, Tensor]:
    """Read the tensors of a published file with the safe loader; raises InputError for anything else."""
    path = str(local(path))
    if not Path(path).is_file():
        raise InputError(f"file {path} does not exist")
    try:
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        raise InputError(f"{path} is damaged or holds more than tensors ({type(error).__name__})") from error
    for key in WRAPPERS:
        found = found.get(key, found) if isinstance(found, dict) else found
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise InputError(f"{path} holds no state dict")
    return {name: value.float() for name, value in found.items()}


def import_gpt(state: dict[str, Tensor], source: str, options: list[str]) -> TrainedModule:
    """LlamaGen's class-conditional GPT; raises InputError where it does not fit the images and the tokenizer."""
    config = to_config({"method": "llamagen"}, options)
    tokenizer, data = load_tokenizer(config.tokenizer), load_data(config.data)
    model, weights = llamagen_gpt(state, tokenizer.grid(data.size), config.model.heads)
    module = build_generator(replace(config, model=model))[0]
    fill(module.model, weights, source)
    return module


def import_vq(state: dict[str, Tensor], source: str, options: list[str]) -> TrainedModule:
    """LlamaGen's tokenizers."""
    config, weights = llamagen_vq(state)
    tokenizer = build_tokenizer(config)
    assert isinstance(tokenizer, Learned)
    fill(tokenizer, weights, source)
    return TokenizerModule(replace(to_config({}, options), tokenizer=config), tokenizer)


def fill(module: torch.nn.Module, weights: dict[str, Tensor], source: str) -> None:
    """Load every tensor, strictly; raises InputError."""
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        lines = str(error).strip().splitlines()
        raise InputError(f"{source} does not fit these images and this tokenizer: {lines[-1].strip()}") from error


IMPORTS: dict[str, Callable[[dict[str, Tensor], str, list[str]], TrainedModule]] = {
    "llamagen-gpt": import_gpt,
    "llamagen-vq": import_vq,
}


def save_checkpoint(module: TrainedModule, path: Path, source: str) -> None:
    """Write a checkpoint as `radar train` does, of zero steps, with the name and hash of its source."""
    checkpoint: dict[str, Any] = {"state_dict": module.state_dict(), "callbacks": {}, "global_step": 0}
    module.on_save_checkpoint(checkpoint)
    with local(source).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    checkpoint["radar"]["imported"] = {"file": Path(source).name, "sha256": digest}
    with replacing(path) as temporary:
        torch.save(checkpoint, temporary)
