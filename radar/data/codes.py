"""codes: images that were encoded elsewhere. LlamaGen's folders of one file per image, or one array.

LlamaGen's layout (autoregressive/train/extract_codes_c2i.py): NAME_codes/I.npy of (1, V, N) and NAME_labels/I.npy of
(1,), or with further dimensions of 1. Legend: M images, V views of each, N cells.
"""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from radar.data.images import ImageData, NoImages, stratified_split
from radar.data.token_arrays import (
    Cells,
    Integers,
    Rows,
    TokenSplit,
    read_meta,
    read_tokens,
    token_type,
    write_tokens,
)
from radar.errors import InputError
from radar.files import DAMAGED

LOOKED_AT = 1000  # rows by which an array is known
ARRAYS = ("codes.npy", "labels.npy")


def codes(
    root: str = "", size: int = 256, held_out: float = 0.1, seed: int = 0, cache: str = "runs/cache"
) -> ImageData:
    """Open codes: `root` holds codes.npy (M, V, N) or (M, N) and labels.npy (M,), or is LlamaGen's.

    Of LlamaGen's many files one array is made, once, in `cache`. Raises InputError with the name of the file that is
    missing or does not fit.
    """
    base = Path(root)
    if not root or not base.is_dir():
        raise InputError(f"data.root='{root}' is not a folder; it must hold {' and '.join(ARRAYS)}, or *_codes/*.npy")
    if (base / ARRAYS[0]).exists():
        tokens, labels, views = open_arrays(base)
    else:
        tokens, labels, views = convert(base, Path(cache))
    rows = np.linspace(0, len(tokens) - 1, min(len(tokens), LOOKED_AT)).round().astype(int)
    digest = hashlib.sha256(tokens[rows].astype(np.int64).tobytes() + labels.tobytes()).hexdigest()[:16]
    train, test = stratified_split(labels, held_out, seed)
    return ImageData(
        name=f"codes-{base.resolve().name}",
        classes=tuple(str(label) for label in range(int(labels.max()) + 1)),
        size=(size, size),
        crop="encoded elsewhere",
        identity=f"{digest} size={size} held_out={held_out} seed={seed}",
        train=NoImages(),
        held_out=NoImages(),
        codes={
            "train": TokenSplit(tokens, labels[train], train, views),
            "held_out": TokenSplit(tokens, labels[test], test, views),
        },
    )


def open_arrays(base: Path) -> tuple[Cells, NDArray[np.int64], int]:
    """One array of codes, by memory map as (M * V, N), its labels, and V; raises InputError."""
    codes, labels = (read_array(base / name, "r" if name == ARRAYS[0] else None) for name in ARRAYS)
    if codes.ndim not in (2, 3) or not len(codes):
        raise InputError(
            f"{base / ARRAYS[0]} has shape {codes.shape}: (images, views, cells), or without views, expected"
        )
    labels = labels.reshape(-1)
    if len(labels) != len(codes):
        raise InputError(f"{base / ARRAYS[1]} has {len(labels)} labels, and {ARRAYS[0]} {len(codes)} images")
    check_counts(labels, base / ARRAYS[1], "label")
    check_counts(codes[:: max(1, len(codes) // LOOKED_AT)], base / ARRAYS[0], "code")
    views = 1 if codes.ndim == 2 else codes.shape[1]
    return codes.reshape(-1, codes.shape[-1]), labels.astype(np.int64), views


def convert(base: Path, cache: Path) -> tuple[Cells, NDArray[np.int64], int]:
    """Make one array of LlamaGen's files, or open what was made of them before."""
    folders = [find_folder(base, kind) for kind in ("codes", "labels")]
    found = (path.name for path in folders[0].iterdir() if path.suffix == ".npy")
    names = sorted(found, key=lambda name: (len(name), name))  # 2 before 10
    if not names:
        raise InputError(f"{folders[0]} holds no .npy files")
    first = read_array(folders[0] / names[0])
    shape = first.reshape(-1, first.shape[-1]).shape if first.ndim else (0, 0)
    listed = "\n".join([str(base.resolve()), *names, *states(folders, names)])
    path = cache / f"codes-{base.resolve().name}-{hashlib.sha256(listed.encode()).hexdigest()[:12]}"
    if not path.exists():
        there = {entry.name for entry in folders[1].iterdir() if entry.suffix == ".npy"}
        if missing := [name for name in names if name not in there]:
            raise InputError(
                f"{folders[1] / missing[0]} is missing: {len(missing)} of {len(names)} codes have no label"
            )
        if missing := sorted(there - set(names)):
            raise InputError(
                f"{folders[0] / missing[0]} is missing: {len(missing)} of {len(there)} labels have no code"
            )
        make = partial(read_files, folders, names, shape)
        rows = Rows(len(names) * shape[0], len(names), make)
        some = names[:: max(1, len(names) // LOOKED_AT)]
        largest = max(int(read_array(folders[0] / name).max()) for name in some)
        write_tokens(path, {"all": rows}, (shape[1],), token_type(2 * largest), {"views": shape[0]}, "convert")
    split = read_tokens(path, "all")
    return split.tokens, split.labels, int(read_meta(path)["views"])


def states(folders: Sequence[Path], names: Sequence[str]) -> list[str]:
    """Sizes and times of the folders and of LOOKED_AT of their files, by which a change is noticed."""
    some = names[:: max(1, len(names) // LOOKED_AT)]
    paths = [path for folder in folders for path in (folder, *(folder / name for name in some))]
    found = (path.stat() for path in paths if path.exists())
    return [f"{state.st_size} {state.st_mtime_ns}" for state in found]


def find_folder(base: Path, kind: str) -> Path:
    """The one folder of LlamaGen's codes or labels; raises InputError."""
    found = sorted(path for path in base.iterdir() if path.is_dir() and path.name.endswith(f"_{kind}"))
    if len(found) != 1:
        raise InputError(
            f"data.root='{base}' has {len(found)} folders *_{kind}: one expected (LlamaGen's layout), or "
            f"{' and '.join(ARRAYS)}"
        )
    return found[0]


def read_files(
    folders: Sequence[Path], names: Sequence[str], shape: tuple[int, int], rows: range
) -> tuple[Integers, Integers]:
    """Codes (rows, N) and labels (rows,) of some rows: V of them for an image; raises InputError with a file's name."""
    views = shape[0]
    images = range(rows.start // views, -(-rows.stop // views))

    def read(name: str) -> tuple[Integers, int]:
        codes, label = (read_array(folder / name) for folder in folders)
        if not codes.ndim or codes.reshape(-1, codes.shape[-1]).shape != shape:
            raise InputError(f"{folders[0] / name} has shape {codes.shape}, and the first (1, {views}, {shape[1]})")
        if label.size != 1:
            raise InputError(f"{folders[1] / name} has {label.size} labels: one expected")
        check_counts(label, folders[1] / name, "label")
        check_counts(codes, folders[0] / name, "code")
        return codes.reshape(shape), int(label.reshape(()))

    with ThreadPoolExecutor() as pool:
        codes, labels = zip(*pool.map(read, [names[i] for i in images]), strict=True)
    mine = slice(rows.start - images.start * views, rows.stop - images.start * views)
    return np.concatenate(codes)[mine], np.repeat(labels, views)[mine]


def read_array(path: Path, mmap: str | None = None) -> Integers:
    """Integers of an .npy file; raises InputError with its name."""
    try:
        found: Integers = np.load(path, mmap_mode=mmap)  # type: ignore[arg-type]
    except DAMAGED as error:
        said = "no array" if "pickle" in str(error) else str(error).splitlines()[0] or type(error).__name__
        raise InputError(f"{path} cannot be read: {said}") from error
    if not isinstance(found, np.ndarray) or not found.size:
        raise InputError(f"{path} holds no array of numbers")
    whole = mmap is None and found.dtype.kind == "f" and (found == found.round()).all()
    if found.dtype.kind not in "iu" and not whole:
        fractions = " with fractions" if mmap is None and found.dtype.kind == "f" else ""
        raise InputError(f"{path} holds {found.dtype}{fractions}: integers expected")
    return found


def check_counts(found: Integers, path: Path, what: str) -> None:
    """Raise InputError for labels or codes below 0."""
    if found.min() < 0:
        raise InputError(f"{path} has {what} {found.min()}: 0 or more expected")
