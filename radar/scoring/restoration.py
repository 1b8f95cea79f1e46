"""What a learned tokenizer alone loses: the real images against themselves, through its tokens and back.

Legend: M real images, F features, V codes.
"""

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from radar.data import load_data
from radar.errors import InputError
from radar.networks.features import check_features
from radar.provenance import git_commit, hardware
from radar.scoring.distances import frechet_distance
from radar.scoring.reference import Reference, build_references
from radar.scoring.similarity import structural_similarity
from radar.scoring.statistics import MOST_KEPT, Looked, kept_statistics
from radar.tokenizers import Tokenizer, code_counts, codebook_use, tokenizer_hash
from radar.training.checkpoints import (
    config_of,
    load_tokenizer,
    read_checkpoint,
)
from radar.training.devices import pick_device

Columns = dict[str, Any]


@dataclass
class Restoration:
    """What goes through a tokenizer and back, counted on the way.

    Attributes:
        counts: how often each code was used, (V,).
        squared, pixels: sum of squared errors of pixel values, and their number.
        similarity, images: sum of the images' SSIM, and their number.
    """

    counts: Tensor
    squared: float = 0.0
    pixels: int = 0
    similarity: float = 0.0
    images: int = 0

    @property
    def psnr(self) -> float:
        """Peak signal-to-noise ratio in dB, by the mean squared error over all images."""
        return 10 * math.log10(255**2 * self.pixels / self.squared) if self.squared else math.inf

    @property
    def ssim(self) -> float | None:
        """Mean structural similarity of the images to themselves, restored; none where they are too small for it."""
        return None if math.isnan(self.similarity) else self.similarity / self.images


def restore(
    tokenizer: Tokenizer, images: Iterable[Tensor], device: torch.device, told: Restoration
) -> Iterator[Tensor]:
    """Batches of images (B, 3, H, W) uint8 through a tokenizer that is on `device`; `told` counts."""
    for batch in images:
        grid, back = tokenizer.grid((batch.shape[2], batch.shape[3])), []
        for part in batch.split(64):
            tokens = tokenizer.encode(part.to(device))
            told.counts += code_counts(tokens.cpu(), tokenizer.vocabulary)
            back.append(tokenizer.decode(tokens, grid).cpu())
        restored = torch.cat(back)
        told.squared += float((batch.double() - restored.double()).square().sum())
        told.pixels += batch.numel()
        told.similarity += float(structural_similarity(restored, batch).sum())
        told.images += len(batch)
        yield restored


def restored_distances(
    tokenizer: Tokenizer, references: Sequence[Reference], device: torch.device, count: int, kept: str | None = None
) -> Columns:
    """By every network: rfid, of the held-out images to themselves, restored; and fid_restored, to the real images.

    The latter is of at most `count` images, and what perfect samples of tokens would read. What is seen of them is kept
    in `kept`. Nothing where there are no held-out images.
    """
    first = references[0]
    identity = f"{first.data.identity} {tokenizer_hash(tokenizer)}"

    def look() -> Iterator[Looked]:
        told = Restoration(torch.zeros(tokenizer.vocabulary))
        return ((batch, None) for batch in restore(tokenizer, first.held_out_batches(), device, told))

    columns: Columns = {"rfid_reference": first.held_out_title}
    for reference in references:
        if reference.held_out is None:
            return {}
        title, images = f"restored-{first.data.name}", first.held_out_images
        found = kept_statistics(reference.network, title, identity, look, images, kept)
        columns[named("rfid", reference, first)] = frechet_distance(reference.held_out.features, found.features)
        some = found.some(min(count, MOST_KEPT))
        columns[named("fid_restored", reference, first)] = frechet_distance(reference.real.features, some)
    return columns


def named(key: str, reference: Reference, first: Reference) -> str:
    """Column of a figure by this network: fid, or fid[label] where it is not the first."""
    return key if reference is first else f"{key}[{reference.network.label}]"


def judge_tokenizer(path: str | Path, overrides: Sequence[str] = ()) -> Columns:
    """Score the tokenizer of a checkpoint: PSNR, SSIM and use of codes on held-out images, and what every network sees.

    Raises InputError for a bad checkpoint, and for an override that would change what was trained.
    """
    config = config_of(read_checkpoint(path), list(overrides))
    check_features(config.evaluate.features)
    data, device = load_data(config.data), pick_device(config.train.device)
    tokenizer = load_tokenizer(replace(config.tokenizer, checkpoint=str(path))).to(device)
    references = build_references(config, data, device)
    first = references[0]
    if first.held_out is None:
        raise InputError(f"data '{data.name}' has no images, which a tokenizer is judged by")
    told = Restoration(torch.zeros(tokenizer.vocabulary))
    deque(restore(tokenizer, first.held_out_batches(), device, told), 0)
    count = min(config.evaluate.images, first.held_out_images, MOST_KEPT)
    row: Columns = {"tokenizer": tokenizer_hash(tokenizer), "codes": tokenizer.vocabulary}
    row |= {"grid": list(tokenizer.grid(data.size)), "psnr": told.psnr, "ssim": told.ssim, **codebook_use(told.counts)}
    row |= restored_distances(tokenizer, references, device, count, config.data.cache)
    for reference in references:
        assert reference.held_out is not None
        floor = frechet_distance(reference.real.features, reference.held_out.some(count))
        row[named("fid_floor", reference, first)] = floor
    return row | {
        "floor_images": count,
        "reference": first.title,
        "fid_feature": first.network.title,
        "further_features": [one.network.title for one in references[1:]],
        "hardware": hardware(device),
        "commit": git_commit(),
    }
