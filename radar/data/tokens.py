"""Tokens of a data set, encoded once and cached on disk.

Legend: B images of a batch, M images of a split, N cells.
"""

from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch

from radar.config.load import config_hash
from radar.config.options import Config
from radar.data import AugmentedImages, ImageData, ImageSet
from radar.data.batches import BatchDataModule, in_order
from radar.data.images import Section
from radar.data.token_arrays import Cells, Integers, Rows, TokenSplit, read_meta, read_tokens, token_type, write_tokens
from radar.errors import InputError
from radar.tokenizers import Tokenizer, tokenizer_hash

CHUNK = 64  # images that are encoded at once


def cache_description(data: ImageData, tokenizer: Tokenizer) -> dict[str, Any]:
    """Describe what a cache must match to be used."""
    return {
        "data": data.name,
        "images": data.identity,
        "crop": data.crop,
        "augment": data.augment,
        "classes": list(data.classes),
        "grid": list(tokenizer.grid(data.size)),
        "vocabulary": tokenizer.vocabulary,
        "tokenizer": tokenizer_hash(tokenizer),
    }


def cached_tokens(data: ImageData, tokenizer: Tokenizer, cache: str, workers: int = 0) -> dict[str, TokenSplit]:
    """Encode both splits once, the training images in all views, or open what was encoded before.

    Encoding runs where the tokenizer is, fed by `workers` processes; processes that ask at once share the work, and
    what was encoded before a stop is not encoded again. `cache` is a folder of caches, or itself one (it holds
    meta.json). Where the data are codes already, these. Raises InputError for a cache that was made by another
    tokenizer, or of other images, and for codes that do not fit the tokenizer.
    """
    if data.counts is not None:
        raise InputError(f"the images of data '{data.name}' are not here: give data.root, where they lie")
    if data.codes is not None:
        _check_codes(data, data.codes, tokenizer)
        return data.codes
    wanted, path = cache_description(data, tokenizer), cache_path(data, tokenizer, cache)
    if not path.exists():
        splits = {"train": (AugmentedImages(data), len(data.train)), "held_out": (data.held_out, len(data.held_out))}
        rows = {
            name: Rows(len(split), images, partial(_encode, split, tokenizer, workers))
            for name, (split, images) in splits.items()
        }
        cells, continuous = prod(tokenizer.grid(data.size)), tokenizer.continuous
        shape = (cells, tokenizer.channels) if continuous else (cells,)
        dtype = np.dtype(np.float32) if continuous else token_type(tokenizer.vocabulary)
        write_tokens(path, rows, shape, dtype, wanted, "encode")
    _check(path, wanted)
    return {name: read_tokens(path, name) for name in ("train", "held_out")}


def cache_path(data: ImageData, tokenizer: Tokenizer, cache: str) -> Path:
    """Folder of the tokens of a data set."""
    root = Path(cache)
    if (root / "meta.json").exists():
        return root
    return root / f"tokens-{data.name}-{config_hash(cache_description(data, tokenizer))}"


def _encode(split: ImageSet, tokenizer: Tokenizer, workers: int, numbers: range) -> tuple[Cells, Integers]:
    """Tokens and labels of images of a split."""
    device = next((p.device for p in tokenizer.parameters()), torch.device("cpu"))
    tokens, labels = [], []
    for batch in in_order(Section(split, numbers.start, numbers.stop), batch=CHUNK, workers=workers):
        tokens.append(tokenizer.encode(batch.inputs.to(device)).cpu().numpy())
        labels.append(batch.labels.numpy())
    return np.concatenate(tokens), np.concatenate(labels)


def _check(path: Path, wanted: dict[str, Any]) -> None:
    found = read_meta(path)
    for key, value in wanted.items():
        if found.get(key) != value:
            raise InputError(
                f"token cache {path} was made with another {key} ({found.get(key)}, this run has {value}); "
                "delete it or set data.cache to another folder"
            )


def _check_codes(data: ImageData, codes: dict[str, TokenSplit], tokenizer: Tokenizer) -> None:
    """Compare codes with a tokenizer, by their number per image and by a look at some."""
    tokens, grid = codes["train"].tokens, tokenizer.grid(data.size)
    if tokenizer.continuous:
        raise InputError(f"data '{data.name}' has codes, and tokenizer '{tokenizer.kind}' gives vectors")
    if (cells := tokens.shape[1]) != prod(grid):
        raise InputError(
            f"data '{data.name}' has {cells} codes per image, and the tokenizer gives "
            f"{grid[0]}x{grid[1]} for data.size={data.size[0]}"
        )
    if (largest := int(tokens[:: max(1, len(tokens) // 1000)].max())) >= tokenizer.vocabulary:
        raise InputError(
            f"data '{data.name}' has code {largest}, and tokenizer '{tokenizer.kind}' {tokenizer.vocabulary} codes, "
            "from 0 on: tokenizer.checkpoint must be of the one that made them"
        )


def token_batches(config: Config, splits: dict[str, TokenSplit], others: bool = False) -> BatchDataModule:
    """Build batches of cached tokens."""
    train, held_out = splits["train"], splits["held_out"]
    return BatchDataModule(config, (train.gather, len(train)), (held_out.gather, len(held_out)), train.views, others)
