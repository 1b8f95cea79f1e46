"""Published weights as checkpoints of this project."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from radar.config.load import to_config
from radar.config.options import Config, TokenizerConfig
from radar.data import load_data
from radar.errors import InputError
from radar.files import replacing
from radar.hub import local
from radar.model.autoencoders import kl_autoencoder, var_tokenizer
from radar.model.dit import dit_denoiser
from radar.model.llamagen import llamagen_gpt, llamagen_vq
from radar.model.var import var_transformer
from radar.tokenizers import Learned, build_tokenizer
from radar.tokenizers.multiscale import Pyramid
from radar.training.checkpoints import build_generator, generator_tokenizer, load_tokenizer
from radar.training.tokenizer import TokenizerModule
from radar.training.trained import TrainedModule

WRAPPERS = ("ema", "model", "module", "state_dict")  # under which published files keep their tensors


def read_published(path: str) -> dict[str, Tensor]:
    """Read the tensors of a published file with the safe loader; raises InputError for anything else."""
    path = str(local(path))
    if not Path(path).is_file():
        raise InputError(f"file {path} does not exist")
    try:
        named = path.endswith(".safetensors")
        found: Any = load_file(path) if named else torch.load(path, map_location="cpu", weights_only=True)
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
    return _filled(config, weights, source, to_config({}, options))


def import_var_vae(state: dict[str, Tensor], source: str, options: list[str]) -> TrainedModule:
    """VAR's tokenizer, with `tokenizer.sides` for other images than of 256x256 pixels."""
    given = to_config({}, options)
    config, weights = var_tokenizer(state, given.tokenizer.sides)
    return _filled(config, weights, source, given)


def import_kl_vae(state: dict[str, Tensor], source: str, options: list[str]) -> TrainedModule:
    """The autoencoder of latent diffusion, with `tokenizer.downsample` for cells of several latent pixels."""
    given = to_config({}, options)
    wide = given.tokenizer.downsample or 8
    if wide < 8 or wide % 8:
        raise InputError(f"tokenizer.downsample={wide} is not possible with kl-vae: a multiple of 8 expected")
    config, weights = kl_autoencoder(state, wide // 8)
    return _filled(config, weights, source, given)


def import_var(state: dict[str, Tensor], source: str, options: list[str]) -> TrainedModule:
    """VAR's transformer; raises InputError where it does not fit the images and the tokenizer."""
    config = to_config({"method": "var"}, options)
    reader = load_tokenizer(config.tokenizer).reader
    if not isinstance(reader, Pyramid):
        raise InputError(f"VAR draws tokens of several scales; tokenizer '{config.tokenizer.name}' has none")
    model, weights = var_transformer(state, reader.sides)
    module = build_generator(replace(config, model=model))[0]
    fill(module.model, weights, source)
    return module


def import_dit(state: dict[str, Tensor], source: str, options: list[str]) -> TrainedModule:
    """DiT's network; raises InputError where it does not fit the images and the tokenizer."""
    config = to_config({"method": "dit"}, options)
    tokenizer = generator_tokenizer(config)
    if not tokenizer.continuous:
        raise InputError(f"DiT draws vectors; tokenizer '{config.tokenizer.name}' gives tokens")
    model, weights = dit_denoiser(state, tokenizer.channels, config.model.heads)
    two = weights["head.bias"].shape[0] > tokenizer.channels
    diffusion = replace(config.diffusion, learned_variance=two)
    module = build_generator(replace(config, model=model, diffusion=diffusion))[0]
    fill(module.model, weights, source)
    return module


def _filled(config: TokenizerConfig, weights: dict[str, Tensor], source: str, given: Config) -> TrainedModule:
    for name, value in vars(given.tokenizer).items():
        found = getattr(config, name)
        if value != getattr(TokenizerConfig(), name) and value != found:
            raise InputError(f"tokenizer.{name}={value} is not possible: {source} holds one of {name}={found}")
    tokenizer = build_tokenizer(config)
    assert isinstance(tokenizer, Learned)
    fill(tokenizer, weights, source)
    return TokenizerModule(replace(given, tokenizer=config), tokenizer)


LABELS = "labels.weight"  # a row per class, and one for none


def fill(module: torch.nn.Module, weights: dict[str, Tensor], source: str) -> None:
    """Load every tensor, strictly; raises InputError."""
    both = [tensors[LABELS] for tensors in (weights, module.state_dict()) if LABELS in tensors]
    known, wanted = (len(tensor) - 1 for tensor in both) if len(both) == 2 else (0, 0)
    if known != wanted:
        raise InputError(f"{source} knows {known} classes, and the data has {wanted}: both must have as many")
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        lines = str(error).strip().splitlines()
        raise InputError(f"{source} does not fit these images and this tokenizer: {lines[-1].strip()}") from error


IMPORTS: dict[str, Callable[[dict[str, Tensor], str, list[str]], TrainedModule]] = {
    "llamagen-gpt": import_gpt,
    "llamagen-vq": import_vq,
    "var": import_var,
    "var-vae": import_var_vae,
    "kl-vae": import_kl_vae,
    "dit": import_dit,
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
