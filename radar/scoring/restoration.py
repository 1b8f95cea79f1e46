"""What a learned tokenizer alone loses: the real images against themselves, through its tokens and back.

Legend: M real images, F features, V codes.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from radar.data import load_data
from radar.networks.features import check_features
from radar.provenance import git_commit, hardware
from radar.scoring.metrics import frechet_distance, thinned
from radar.scoring.reference import Reference, build_references, kept_features
from radar.tokenizers import Tokenizer, codebook_use, tokenizer_hash
from radar.training.checkpoints import (
    config_of,
    load_tokenizer,
    read_checkpoint,
)
from radar.training.devices import pick_device

Columns = dict[str, Any]


def restored_images(tokenizer: Tokenizer, images: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Images (M, 3, H, W) uint8 through a tokenizer that is on `device`, and the counts (V,) of its codes."""
    grid = tokenizer.grid((images.shape[2], images.shape[3]))
    tokens = [tokenizer.encode(part.to(device)) for part in images.split(64)]
    counts = torch.bincount(torch.cat(tokens).flatten().cpu(), minlength=tokenizer.vocabulary)
    return torch.cat([tokenizer.decode(part, grid).cpu() for part in tokens]), counts


def restored_distances(
    tokenizer: Tokenizer,
    references: Sequence[Reference],
    device: torch.device,
    count: int,
    kept: str | None = None,
    images: Tensor | None = None,
) -> Columns:
    """By every network: rfid, of the held-out images to themselves, restored; and fid_restored, to the train images.

    The latter is of at most `count` images, and what perfect samples of tokens would read. The features are kept in
    `kept`; without them the images are restored here, where `images` are not they.
    """
    first = references[0]

    @cache
    def restored(split: str) -> Tensor:
        return restored_images(tokenizer, first.held_out, device)[0] if images is None else images

    identity = f"{first.data.identity} {tokenizer_hash(tokenizer)} {len(first.held_out)}"
    columns: Columns = {"rfid_reference": first.held_out_title}
    for reference in references:
        title = f"restored-{first.data.name}"
        features = kept_features(reference.network, title, identity, restored, ["held_out"], kept)["held_out"]
        columns[named("rfid", reference, first)] = frechet_distance(reference.held_out_features, features)
        columns[named("fid_restored", reference, first)] = frechet_distance(
            reference.features, thinned(features, count)
        )
    return columns


def named(key: str, reference: Reference, first: Reference) -> str:
    """Column of a figure by this network: fid, or fid[label] where it is not the first."""
    return key if reference is first else f"{key}[{reference.network.label}]"


def psnr(images: Tensor, restored: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of images (M, 3, H, W) uint8, by the mean squared error over all of them."""
    pairs = zip(images.split(1000), restored.split(1000), strict=True)
    error = sum(float((a.double() - b.double()).square().sum()) for a, b in pairs) / images.numel()
    return 10 * math.log10(255**2 / error) if error else math.inf


def judge_tokenizer(path: str | Path, overrides: Sequence[str] = ()) -> Columns:
    """Score the tokenizer of a checkpoint: PSNR and use of codes on held-out images, and what every network sees.

    Raises InputError for a bad checkpoint, and for an override that would change what was trained.
    """
    config = config_of(read_checkpoint(path), list(overrides))
    check_features(config.evaluate.features)
    data, device = load_data(config.data), pick_device(config.train.device)
    tokenizer = load_tokenizer(replace(config.tokenizer, checkpoint=str(path))).to(device)
    references = build_references(config, data, device)
    first = references[0]
    restored, counts = restored_images(tokenizer, first.held_out, device)
    count = min(config.evaluate.images, len(first.held_out))
    row: Columns = {"tokenizer": tokenizer_hash(tokenizer), "codes": tokenizer.vocabulary}
    row |= {"grid": list(tokenizer.grid(data.size)), "psnr": psnr(first.held_out, restored), **codebook_use(counts)}
    row |= restored_distances(tokenizer, references, device, count, config.data.cache, restored)
    for reference in references:
        floor = frechet_distance(reference.features, thinned(reference.held_out_features, count))
        row[named("fid_floor", reference, first)] = floor
    return row | {
        "floor_images": count,
        "reference": first.title,
        "fid_feature": first.network.title,
        "further_features": [one.network.title for one in references[1:]],
        "hardware": hardware(device),
        "commit": git_commit(),
    }
