"""Tokens of a data set, encoded once and cached on disk, and training batches as pure functions of (seed, i).

Legend: B images of a batch, M images of a split, N cells.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from radar.config import config_hash
from radar.data import ImageData, ImageSet
from radar.data.images import load_images
from radar.errors import InputError
from radar.files import replacing_folder
from radar.options import Config
from radar.seeding import Stream, derive
from radar.tokenizers import Tokenizer, tokenizer_hash

CHUNK = 64  # images that are encoded at once


@dataclass(frozen=True)
class TokenSplit:
    """Memory-mapped tokens (M, N) and labels (M,) of one split."""

    tokens: NDArray[np.integer[Any]]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def gather(self, index: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Tokens (B, N) int64 and labels (B,) at `index`."""
        return torch.from_numpy(self.tokens[index].astype(np.int64)), torch.from_numpy(self.labels[index])


def cache_description(data: ImageData, tokenizer: Tokenizer) -> dict[str, Any]:
    """Describe what a cache must match to be used."""
    return {
        "data": data.name,
        "images": data.identity,
        "crop": data.crop,
        "classes": list(data.classes),
        "grid": list(tokenizer.grid(data.size)),
        "vocabulary": tokenizer.vocabulary,
        "tokenizer": tokenizer_hash(tokenizer),
    }


def cached_tokens(data: ImageData, tokenizer: Tokenizer, cache: str, workers: int = 0) -> dict[str, TokenSplit]:
    """Encode both splits once, or open what was encoded before: {"train": ..., "held_out": ...}.

    Encoding runs where the tokenizer is, fed by `workers` processes. `cache` is a folder of caches, or itself one (it
    holds meta.json). Raises InputError for a cache that was made by another tokenizer, or of other images.
    """
    wanted, root = cache_description(data, tokenizer), Path(cache)
    path = root if (root / "meta.json").exists() else root / f"tokens-{data.name}-{config_hash(wanted)}"
    if not path.exists():
        with replacing_folder(path) as temporary:
            h, w = tokenizer.grid(data.size)
            for name, split in (("train", data.train), ("held_out", data.held_out)):
                _encode(split, (len(split), h * w), tokenizer, workers, temporary / name)
            (temporary / "meta.json").write_text(json.dumps(wanted, indent=1))
    _check(path, wanted)
    return {name: _open(path, name) for name in ("train", "held_out")}


def _encode(split: ImageSet, shape: tuple[int, int], tokenizer: Tokenizer, workers: int, folder: Path) -> None:
    dtype = np.uint16 if tokenizer.vocabulary <= 2**16 else np.int32
    device = next((p.device for p in tokenizer.parameters()), torch.device("cpu"))
    tokens = np.lib.format.open_memmap(f"{folder}-tokens.npy", "w+", dtype, shape)
    labels = np.empty(len(split), np.int64)
    batches = DataLoader(OrderedBatches(partial(_gather, split), len(split), CHUNK), None, num_workers=workers)
    for number, images, classes in tqdm(batches, f"encode {folder.name}", disable=None, leave=False):
        part = slice(number * CHUNK, number * CHUNK + len(classes))
        tokens[part] = tokenizer.encode(images.to(device)).cpu().numpy()
        labels[part] = classes.numpy()
    tokens.flush()
    np.save(f"{folder}-labels.npy", labels)


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
    place = np.arange(number * batch, (number + 1) * batch)
    return np.array([_permutation(seed, int(p) // count, count)[int(p) % count] for p in place])


Gather = Callable[[NDArray[np.int64]], tuple[Tensor, Tensor]]  # indices (B,) -> tokens or images, labels
Batch = tuple[int, Tensor, Tensor]  # number, tokens or images, labels


@dataclass
class BatchDataset(Dataset[Batch]):
    """Training batch i as a pure function of (seed, i), from number `start` on; what makes resume exact."""

    gather: Gather
    count: int
    batch: int
    seed: int
    total: int
    start: int = 0

    def __len__(self) -> int:
        return self.total

    def __getitem__(self, index: int) -> Batch:
        if not 0 <= index < self.total:
            raise IndexError(index)
        number = self.start + index
        return number, *self.gather(batch_indices(self.seed, number, self.batch, self.count))


@dataclass
class OrderedBatches(Dataset[Batch]):
    """A split once, in order."""

    gather: Gather
    count: int
    batch: int

    def __len__(self) -> int:
        return -(-self.count // self.batch)

    def __getitem__(self, index: int) -> Batch:
        if not 0 <= index < len(self):
            raise IndexError(index)
        start = index * self.batch
        return index, *self.gather(np.arange(start, min(start + self.batch, self.count)))


class BatchDataModule(LightningDataModule):
    """One long epoch of pure-function training batches, and the held-out split in order.

    Args:
        config: seed, batch size, steps, workers.
        train, held_out: functions from indices to (inputs, labels), each with the number of images.
    """

    def __init__(
        self,
        config: Config,
        train: tuple[Gather, int],
        held_out: tuple[Gather, int],
    ) -> None:
        super().__init__()
        self.config, self.train, self.held_out = config, train, held_out

    def train_dataloader(self) -> DataLoader[Batch]:
        """Continue behind the batches that the restored optimizer steps have used."""
        t, step = self.config.train, self.trainer.global_step if self.trainer else 0
        # One batch more than needed: training ends by max_steps and never at the end of an epoch.
        total = t.steps * t.accumulate + 1
        batches = BatchDataset(
            *self.train, t.batch_size, derive(Stream.DATA, self.config.seed), total, start=step * t.accumulate
        )
        return DataLoader(batches, batch_size=None, num_workers=self.config.data.workers)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Held-out images in order."""
        batches = OrderedBatches(*self.held_out, self.config.train.batch_size)
        return DataLoader(batches, batch_size=None, num_workers=self.config.data.workers)


def token_batches(config: Config, splits: dict[str, TokenSplit]) -> BatchDataModule:
    """Build batches of cached tokens."""
    train, held_out = splits["train"], splits["held_out"]
    return BatchDataModule(config, (train.gather, len(train)), (held_out.gather, len(held_out)))


def image_batches(config: Config, data: ImageData) -> BatchDataModule:
    """Build batches of images, for a tokenizer to learn from."""

    train, held_out = data.train, data.held_out
    return BatchDataModule(config, (partial(_gather, train), len(train)), (partial(_gather, held_out), len(held_out)))


def _gather(split: ImageSet, index: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    return load_images(split, index.tolist())
