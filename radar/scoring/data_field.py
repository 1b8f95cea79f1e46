"""The field of the data: estimated from the tokens of a configuration, and kept in a file for `order.covariance`.

Legend: N cells.
"""

from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from torch import Tensor

from radar.config.lookup import choose
from radar.config.options import Config
from radar.data import load_data
from radar.data.tokens import cached_tokens
from radar.decoding.fields import ESTIMATORS, IMAGES, token_field
from radar.errors import InputError
from radar.files import replacing
from radar.training.checkpoints import (
    load_tokenizer,
)
from radar.training.devices import pick_device


def estimate_field(
    config: Config, estimate: str, pooled: bool = False, most: int = IMAGES
) -> tuple[Tensor, tuple[int, int], str]:
    """Field (N, N) of the training tokens of a configuration's data, its grid, and what it is called.

    Raises InputError for an unknown estimator, or fewer than 2 images.
    """
    choose("estimator", estimate, ESTIMATORS)  # before the images are encoded
    if most < 2:
        raise InputError(f"a field cannot be estimated from {most} images: at least 2")
    data, tokenizer = load_data(config.data), load_tokenizer(config.tokenizer)
    if not tokenizer.flat or tokenizer.continuous:
        raise InputError(
            f"tokenizer '{config.tokenizer.name}' has no field: its cells hold no tokens, or are no places of the image"
        )
    tokenizer.to(pick_device(config.train.device))
    split = cached_tokens(data, tokenizer, config.data.cache, config.data.workers)["train"]
    grid, images = tokenizer.grid(data.size), min(len(split), most)
    field = token_field(split, tokenizer, grid, estimate, pooled, images)
    given = "pooled" if pooled else "given the class"
    return field, grid, f"{estimate} of {images} images of {data.name}, {given}"


def save_field(field: Tensor, path: Path, origin: str) -> None:
    """Write a field for `order.covariance`, and where it comes from."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, covariance=field.numpy(), origin=origin)


def field_origin(path: Path) -> str:
    """Say where a field comes from; raises InputError for a file that is none."""
    try:
        return str(np.load(path)["origin"])
    except (OSError, EOFError, ValueError, LookupError, BadZipFile) as error:
        raise InputError(f"{path} does not say where its field comes from ({error})") from error
