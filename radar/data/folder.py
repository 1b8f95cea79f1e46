"""folder: images in the ImageNet layout, one sub-folder per class, any size, read with Pillow."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from radar.data.images import ImageData, stratified_split
from radar.errors import InputError

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}


def center_crop(image: Image.Image, size: int) -> Image.Image:
    """Crop as ADM (guided-diffusion) does: halve by box filter while twice too large, then bicubic, then the middle."""
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    shape = (max(size, round(image.width * scale)), max(size, round(image.height * scale)))
    image = image.resize(shape, Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


@dataclass(frozen=True)
class FolderImages:
    """A split: paths, labels and the side to crop to."""

    paths: tuple[Path, ...]
    labels: tuple[int, ...]
    size: int

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        with Image.open(self.paths[index]) as source:
            image = center_crop(source.convert("RGB"), self.size)
        return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1), self.labels[index]


def is_readable(path: Path) -> bool:
    """Decode the whole file and tell whether that worked."""
    try:
        with Image.open(path) as image:
            image.load()
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False
    return True


def folder(
    root: str = "", size: int = 256, held_out: float = 0.1, skip_unreadable: bool = False, seed: int = 0
) -> ImageData:
    """Open a folder of class folders; every file is decoded once.

    Raises InputError if the folder or a class is missing, or if images are unreadable and `skip_unreadable` is off.
    """
    base = Path(root)
    if not root or not base.is_dir():
        raise InputError(f"data.root='{root}' is not a folder; it must hold one sub-folder per class")
    classes = sorted(path for path in base.iterdir() if path.is_dir() and not path.name.startswith("."))
    files = [
        (p, label) for label, c in enumerate(classes) for p in sorted(c.rglob("*")) if p.suffix.lower() in SUFFIXES
    ]
    if not files:
        raise InputError(f"data.root='{root}' holds no images ({', '.join(sorted(SUFFIXES))}) in class folders")
    files = _readable(files, base, skip_unreadable)
    paths, labels = zip(*files, strict=True)
    splits = stratified_split(np.array(labels), held_out, seed)
    train, test = (FolderImages(tuple(paths[i] for i in part), tuple(labels[i] for i in part), size) for part in splits)
    listing = "\n".join(f"{p.relative_to(base)} {p.stat().st_size}" for p in paths)
    return ImageData(
        name=base.resolve().name,
        classes=tuple(path.name for path in classes),
        size=(size, size),
        crop=f"adm center {size}",
        identity=f"{hashlib.sha256(listing.encode()).hexdigest()[:16]} size={size} held_out={held_out} seed={seed}",
        train=train,
        held_out=test,
    )


def _readable(files: list[tuple[Path, int]], base: Path, skip: bool) -> list[tuple[Path, int]]:
    with ThreadPoolExecutor() as pool:
        good = list(pool.map(is_readable, (path for path, _ in files)))
    bad = [str(path.relative_to(base)) for (path, _), readable in zip(files, good, strict=True) if not readable]
    if bad and not skip:
        raise InputError(
            f"{len(bad)} unreadable images in {base}: {', '.join(bad)}; remove them or set data.skip_unreadable=true"
        )
    return [entry for entry, readable in zip(files, good, strict=True) if readable]
