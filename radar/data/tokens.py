"""Tokens of a data set, encoded once and cached on disk, and training batches as pure functions of (seed, i).

Legend: B images of a batch, M images of a split, N cells.
"""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from radar.config.load import config_hash
from radar.config.options import Config
from radar.data import AugmentedImages, ImageData, ImageSet
from radar.data.images import load_images, spread
from radar.errors import InputError
from radar.files import locked, replacing_folder
from radar.parts import Part, cut
from radar.seeding import Stream, derive
from radar.tokenizers import Tokenizer, tokenizer_hash

CHUNK = 64  # images that are encoded at once


@dataclass(frozen=True)
class TokenSplit:
    """Memory-mapped tokens (M * V, N) of one split, V views of an image behind each other, and labels (M,)."""

    tokens: NDArray[np.integer[Any]]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def views(self) -> int:
        """V."""
        return len(self.tokens) // len(self.labels)

    def gather(self, index: NDArray[np.int64], view: NDArray[np.int64] | int = 0) -> tuple[Tensor, Tensor]:
        """Tokens (B, N) int64 and labels (B,) at `index`, by default of the first views."""
        rows = index * self.views + view
        return torch.from_numpy(self.tokens[rows].astype(np.int64)), torch.from_numpy(self.labels[index])


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

    Encoding runs where the tokenizer is, fed by `workers` processes. `cache` is a folder of caches, or itself one (it
    holds meta.json). Raises InputError for a cache that was made by another tokenizer, or of other images.
    """
    wanted, root = cache_description(data, tokenizer), Path(cache)
    path = root if (root / "meta.json").exists() else root / f"tokens-{data.name}-{config_hash(wanted)}"
    if not path.exists():
        with locked(path.with_name(f".{path.name}.lock")):  # the processes of several devices ask at once
            if not path.exists():
                _encode_both(data, tokenizer, workers, path, wanted)
    _check(path, wanted)
    return {name: _open(path, name) for name in ("train", "held_out")}


def _reserved(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.memmap[Any, Any]:
    """Make an .npy file as a memory map whose space is reserved: writing to it cannot fail for a full disk.

    Raises OSError where there is no space for it.
    """
    array: np.memmap[Any, Any] = np.lib.format.open_memmap(path, "w+", dtype, shape)
    with path.open("rb+") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def _encode_both(data: ImageData, tokenizer: Tokenizer, workers: int, path: Path, wanted: dict[str, Any]) -> None:
    with replacing_folder(path) as temporary:
        h, w = tokenizer.grid(data.size)
        _encode(AugmentedImages(data), len(data.train), h * w, tokenizer, workers, temporary / "train")
        _encode(data.held_out, len(data.held_out), h * w, tokenizer, workers, temporary / "held_out")
        (temporary / "meta.json").write_text(json.dumps(wanted, indent=1))


def _encode(split: ImageSet, images: int, cells: int, tokenizer: Tokenizer, workers: int, folder: Path) -> None:
    """Write the tokens of all of a split, which has `images` with their views, and the labels of the images."""
    dtype = np.dtype(np.uint16 if tokenizer.vocabulary <= 2**16 else np.int32)
    device = next((p.device for p in tokenizer.parameters()), torch.device("cpu"))
    tokens = _reserved(Path(f"{folder}-tokens.npy"), dtype, (len(split), cells))
    labels = np.empty(len(split), np.int64)
    batches = DataLoader(OrderedBatches(partial(_gather, split, 1), len(split), CHUNK), None, num_workers=workers)
    for batch in tqdm(batches, f"encode {folder.name}", disable=None, leave=False):
        part = slice(batch.number * CHUNK, batch.number * CHUNK + len(batch.labels))
        tokens[part] = tokenizer.encode(batch.inputs.to(device)).cpu().numpy()
        labels[part] = batch.labels.numpy()
    tokens.flush()
    np.save(f"{folder}-labels.npy", labels[:: len(split) // images])


def _check(path: Path, wanted: dict[str, Any]) -> None:
    try:
        found = json.loads((path / "meta.json").read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"token cache {path} is damaged ({error}); delete it") from error
    for key, value in wanted.items():
        if found.get(key) != value:
            raise InputError(
                f"token cache {path} was made with another {key} ({found.get(key)}, this run has {value}); "
                "delete it or set data.cache to another folder"
            )


def _open(path: Path, name: str) -> TokenSplit:
    try:
        tokens = np.load(path / f"{name}-tokens.npy", mmap_mode="r")
        return TokenSplit(tokens, np.load(path / f"{name}-labels.npy"))
    except (OSError, ValueError) as error:
        raise InputError(f"token cache {path} is damaged ({error}); delete it") from error


@lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(count)


def batch_indices(seed: int, number: int, batch: int, count: int) -> NDArray[np.int64]:
    """Indices (B,) of training batch `number`: epochs are permutations laid end to end, batches may straddle them."""
    position = np.arange(number * batch, (number + 1) * batch)
    return np.array([_permutation(seed, int(p) // count, count)[int(p) % count] for p in position])


# Indices (B,) of images, and of their views, -> tokens or images, labels.
Gather = Callable[[NDArray[np.int64], NDArray[np.int64]], tuple[Tensor, Tensor]]


class Batch(NamedTuple):
    """Number of the batch, its tokens (B, N) or images (B, 3, H, W), labels (B,), and numbers in the split (B,).

    Of a training batch they may be a part; `others` (B, N) are then tokens of other images of the whole.
    """

    number: int
    inputs: Tensor
    labels: Tensor
    images: Tensor
    part: Part | None = None
    others: Tensor | None = None

    @property
    def place(self) -> Part:
        """Which part it is, by default all."""
        return self.part or Part.all(len(self.labels))


@dataclass
class BatchDataset(Dataset[Batch]):
    """Parts of training batches, batch i a pure function of (seed, i), from number `start` on: resume is exact.

    Of every image it takes one of its `views`, by (seed, i, place in the batch).

    Args:
        batch: images of a whole batch.
        parts: those that this device goes through, by default all at once.
        others: whether the inputs of other images of the batch come along.
    """

    gather: Gather
    count: int
    batch: int
    seed: int
    total: int
    start: int = 0
    views: int = 1
    parts: Sequence[Part] = ()
    others: bool = False

    def __post_init__(self) -> None:
        self.parts = self.parts or [Part.all(self.batch)]

    def __len__(self) -> int:
        return self.total * len(self.parts)

    def __getitem__(self, index: int) -> Batch:
        if not 0 <= index < len(self):
            raise IndexError(index)
        number, part = self.start + index // len(self.parts), self.parts[index % len(self.parts)]
        images = batch_indices(self.seed, number, self.batch, self.count)
        random = np.random.default_rng(derive(Stream.AUGMENT, self.seed, number))
        views = random.integers(self.views, size=self.batch)
        mine = np.arange(part.first, part.first + part.images)
        inputs, labels = self.gather(images[mine], views[mine])
        theirs = random.permutation(self.batch)[mine] if self.others else None
        others = None if theirs is None else self.gather(images[theirs], views[theirs])[0]
        return Batch(number, inputs, labels, torch.from_numpy(images[mine]), part, others)


@dataclass
class OrderedBatches(Dataset[Batch]):
    """A split once, in order, the first view of every image; or `most` of its images, evenly spread.

    Of several `devices` each takes every so many-th batch. All take as many: what is one too much has weight 0.
    """

    gather: Gather
    count: int
    batch: int
    most: int | None = None
    device: int = 0
    devices: int = 1

    @cached_property
    def images(self) -> NDArray[np.int64]:
        """Numbers of the images."""
        return np.asarray(spread(self.count, self.count if self.most is None else self.most))

    def __len__(self) -> int:
        return -(-len(self.images) // (self.batch * self.devices))

    def __getitem__(self, index: int) -> Batch:
        if not 0 <= index < len(self):
            raise IndexError(index)
        first = (index * self.devices + self.device) * self.batch
        images = self.images[first : first + self.batch]
        surplus = not len(images)
        images = self.images[: self.batch] if surplus else images
        part = Part(0, 0, len(images)) if surplus else Part.all(len(images))
        return Batch(index, *self.gather(images, np.zeros_like(images)), torch.from_numpy(images), part)


class BatchDataModule(LightningDataModule):
    """One long epoch of pure-function training batches, and the held-out split in order.

    Args:
        config: seed, batch size, steps, workers.
        train, held_out: functions from indices to (inputs, labels), each with the number of images.
        views: of every training image.
        others: whether the inputs of other images of a training batch come along.
    """

    def __init__(
        self,
        config: Config,
        train: tuple[Gather, int],
        held_out: tuple[Gather, int],
        views: int = 1,
        others: bool = False,
    ) -> None:
        super().__init__()
        self.config, self.train, self.held_out, self.views, self.others = config, train, held_out, views, others

    def train_dataloader(self) -> DataLoader[Batch]:
        """Continue behind the batches that the restored optimizer steps have used."""
        t, step = self.config.train, self.trainer.global_step if self.trainer else 0
        # One batch more than needed: training ends by max_steps and never at the end of an epoch.
        seed, total = derive(Stream.DATA, self.config.seed), t.max_steps + 1
        device, devices = self._device()
        parts = cut(t.batch_size, devices, t.micro_batch)[device]
        batches = BatchDataset(*self.train, t.batch_size, seed, total, step, self.views, parts, self.others)
        return DataLoader(batches, batch_size=None, num_workers=self.config.data.workers)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Held-out images in order."""
        t, (device, devices) = self.config.train, self._device()
        size = max(part.images for part in cut(t.batch_size, t.devices * t.nodes, t.micro_batch)[0])
        batches = OrderedBatches(*self.held_out, size, t.val_images, device, devices)
        return DataLoader(batches, batch_size=None, num_workers=self.config.data.workers)

    def _device(self) -> tuple[int, int]:
        """Number of this device, and of all."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)


def token_batches(config: Config, splits: dict[str, TokenSplit], others: bool = False) -> BatchDataModule:
    """Build batches of cached tokens."""
    train, held_out = splits["train"], splits["held_out"]
    return BatchDataModule(config, (train.gather, len(train)), (held_out.gather, len(held_out)), train.views, others)


def image_batches(config: Config, data: ImageData) -> BatchDataModule:
    """Build batches of images, for a tokenizer to learn from."""

    train, held_out = AugmentedImages(data), data.held_out
    count = train.augment.views
    return BatchDataModule(
        config,
        (partial(_gather, train, count), len(data.train)),
        (partial(_gather, held_out, 1), len(held_out)),
        count,
    )


def _gather(split: ImageSet, views: int, index: NDArray[np.int64], view: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    return load_images(split, (index * views + view).tolist())
