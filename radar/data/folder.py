"""folder: images in the ImageNet layout, one sub-folder per class, any size, read with Pillow."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from tqdm import tqdm

from radar.data.images import ImageData, stratified_split
from radar.errors import InputError
from radar.files import replacing

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


def as_rgb(image: Image.Image) -> Image.Image:
    """Eight bits per channel; greys of 16 bits are scaled, which Pillow by itself would clip to white."""
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8))
    return image.convert("RGB")


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
            image = center_crop(as_rgb(source), self.size)
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
    root: str = "",
    size: int = 256,
    held_out: float = 0.1,
    skip_unreadable: bool = False,
    seed: int = 0,
    cache: str = "runs/cache",
) -> ImageData:
    """Open a folder of class folders.

    Every file is decoded once, when the listing is seen for the first time; the result is kept in `cache`.
    Raises InputError if the folder or its images are missing, or if images are unreadable and `skip_unreadable` is off.
    """
    base = Path(root)
    if not root or not base.is_dir():
        raise InputError(f"data.root='{root}' is not a folder; it must hold one sub-folder per class")
    classes = sorted(path for path in base.iterdir() if path.is_dir() and not path.name.startswith("."))
    files = [(path, label) for label, name in enumerate(classes) for path in list_images(name)]
    if not files:
        raise InputError(f"data.root='{root}' holds no images ({', '.join(sorted(SUFFIXES))}) in class folders")
    if empty := [path.name for path in classes if not list_images(path)]:
        raise InputError(f"data.root='{root}' has classes without images: {', '.join(empty)}")
    listed = [path for path, _ in files]
    bad = set(find_unreadable(listed, base, Path(cache) / f"unreadable-{hash_listing(listed, base, times=True)}.json"))
    if bad and not skip_unreadable:
        raise InputError(
            f"{len(bad)} unreadable images in {base}: {', '.join(sorted(bad))}; "
            "remove them or set data.skip_unreadable=true"
        )
    if len(bad) == len(files):
        raise InputError(f"data.root='{root}' holds no readable image")
    paths, labels = zip(*((p, label) for p, label in files if str(p.relative_to(base)) not in bad), strict=True)
    splits = stratified_split(np.array(labels), held_out, seed)
    train, test = (FolderImages(tuple(paths[i] for i in part), tuple(labels[i] for i in part), size) for part in splits)
    return ImageData(
        name=f"folder-{base.resolve().name}",
        classes=tuple(path.name for path in classes),
        size=(size, size),
        crop=f"adm center {size}",
        identity=f"{hash_listing(list(paths), base)} size={size} held_out={held_out} seed={seed}",
        train=train,
        held_out=test,
    )


def list_images(base: Path) -> list[Path]:
    """List the image files below a folder, sorted."""
    return [path for path in sorted(base.rglob("*")) if path.suffix.lower() in SUFFIXES]


def hash_listing(paths: list[Path], base: Path, times: bool = False) -> str:
    """Name a list of files by 16 hex digits of their names and sizes, and times of change (which a copy loses)."""
    states = [(str(path.relative_to(base)), path.stat()) for path in paths]
    text = "\n".join(f"{name} {state.st_size} {state.st_mtime_ns if times else ''}" for name, state in states)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def find_unreadable(paths: list[Path], base: Path, memory: Path) -> list[str]:
    """List the files that cannot be decoded, by their names under `base`; remembered in the file `memory`."""
    if memory.exists():
        return list(json.loads(memory.read_text()))
    with ThreadPoolExecutor() as pool:
        good = list(tqdm(pool.map(is_readable, paths), "check images", len(paths), disable=None, leave=False))
    bad = [str(path.relative_to(base)) for path, readable in zip(paths, good, strict=True) if not readable]
    with replacing(memory) as temporary:
        temporary.write_text(json.dumps(bad))
    return bad
