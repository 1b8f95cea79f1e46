"""Tokens, or vectors, as arrays on disk: written once, in parts that processes make together; read by memory map.

Legend: M images, V views of each, N cells, C channels of a vector, B images of a batch.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from radar.errors import InputError
from radar.files import DAMAGED, locked, replacing_folder
from radar.together import make_together

PART = 1024  # rows of a part: what a kill may cost
Integers = NDArray[np.integer[Any]]
Cells = NDArray[np.integer[Any] | np.floating[Any]]


@dataclass(frozen=True)
class TokenSplit:
    """Memory-mapped tokens (M' * V, N) of some images, V views of each behind each other, and labels (M,) of a split.

    Or vectors (M' * V, N, C).

    Attributes:
        numbers: which of the M' images the split has, (M,); by default all, in their order.
    """

    tokens: Cells
    labels: NDArray[np.int64]
    numbers: NDArray[np.int64] | None = None
    views: int = 1

    def __len__(self) -> int:
        return len(self.labels)

    def gather(self, index: NDArray[np.int64], view: NDArray[np.int64] | int = 0) -> tuple[Tensor, Tensor]:
        """Tokens (B, N) int64, or vectors (B, N, C) float32, and labels (B,) at `index`, by default of first views."""
        rows = (index if self.numbers is None else self.numbers[index]) * self.views + view
        found = self.tokens[rows]
        wide = found.astype(np.int64 if np.issubdtype(found.dtype, np.integer) else np.float32)
        return torch.from_numpy(wide), torch.from_numpy(self.labels[index])


class Rows(NamedTuple):
    """Rows that are to be written: how many, of how many images; numbers (R,) -> tokens (R, N) and labels (R,)."""

    total: int
    images: int
    make: Callable[[range], tuple[Cells, Integers]]


def token_type(vocabulary: int) -> np.dtype[Any]:
    """Smallest of the types that tokens are kept in."""
    return np.dtype(np.uint16 if vocabulary <= 2**16 else np.int32)


def write_tokens(
    path: Path,
    splits: Mapping[str, Rows],
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    meta: Mapping[str, Any],
    title: str,
) -> None:
    """Write the tokens, of a `shape` per image, and labels of named splits into the folder `path`, with meta.json.

    Together with all processes that write the same now; what was made before a stop is not made again. Raises DiskFull.
    """
    parts = path.with_name(f".{path.name}.parts")
    for name, rows in splits.items():
        make = partial(_make_part, rows, dtype)
        make_together(_parts(parts, name, rows), make, path.exists, f"{title} {name}", min(PART, rows.total))
    with locked(path.with_name(f".{path.name}.lock")):
        if path.exists():
            shutil.rmtree(parts, ignore_errors=True)
            return
        with replacing_folder(path) as temporary:
            for name, rows in splits.items():
                _join(_parts(parts, name, rows), (rows.total, *shape), dtype, rows.images, temporary / name)
            (temporary / "meta.json").write_text(json.dumps(meta, indent=1))
        shutil.rmtree(parts, ignore_errors=True)


def read_tokens(path: Path, name: str) -> TokenSplit:
    """Open a split that was written; raises InputError if it is damaged."""
    try:
        tokens, labels = np.load(path / f"{name}-tokens.npy", mmap_mode="r"), np.load(path / f"{name}-labels.npy")
        return TokenSplit(tokens, labels, None, len(tokens) // max(1, len(labels)))
    except DAMAGED as error:
        raise InputError(f"token cache {path} is damaged ({error}); delete it") from error


def read_meta(path: Path) -> dict[str, Any]:
    """What is said of tokens that were written; raises InputError if it is damaged."""
    try:
        return dict(json.loads((path / "meta.json").read_text()))
    except (OSError, ValueError) as error:
        raise InputError(f"token cache {path} is damaged ({error}); delete it") from error


def _parts(folder: Path, name: str, rows: Rows) -> list[Path]:
    return [folder / f"{name}-{number:06d}.npz" for number in range(-(-rows.total // PART))]


def _make_part(rows: Rows, dtype: np.dtype[Any], number: int, path: Path) -> None:
    tokens, labels = rows.make(range(number * PART, min(rows.total, (number + 1) * PART)))
    with path.open("wb") as file:
        np.savez(file, tokens=tokens.astype(dtype), labels=labels)


def _join(paths: Sequence[Path], shape: tuple[int, ...], dtype: np.dtype[Any], images: int, folder: Path) -> None:
    """Write the parts as one array (M * V, N), and the labels of the images (M,)."""
    tokens, labels = _reserved(Path(f"{folder}-tokens.npy"), dtype, shape), [np.empty(0, np.int64)]
    for number, path in enumerate(paths):
        try:
            with np.load(path) as part:
                tokens[number * PART : (number + 1) * PART] = part["tokens"]
                labels.append(part["labels"])
        except DAMAGED as error:
            raise InputError(f"{path} is damaged ({error}); delete it") from error
    tokens.flush()
    np.save(f"{folder}-labels.npy", np.concatenate(labels)[:: max(1, shape[0] // max(1, images))])


def _reserved(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.memmap[Any, Any]:
    """Make an .npy file as a memory map whose space is reserved: writing to it cannot fail for a full disk.

    Raises OSError where there is no space for it.
    """
    array: np.memmap[Any, Any] = np.lib.format.open_memmap(path, "w+", dtype, shape)
    with path.open("rb+") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array
