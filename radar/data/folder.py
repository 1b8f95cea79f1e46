"""folder: images in the ImageNet layout, one sub-folder per class, any size, read with Pillow."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from radar.config.lookup import choose
from radar.data.files import BACKGROUNDS, examine_all, list_images, open_image, readable, suffixes, tell
from radar.data.images import ImageData, center_crop, stratified_split, to_tensor
from radar.errors import InputError


@dataclass(frozen=True)
class FolderImages:
    """A split: paths, labels, the side to crop to, what is under transparent pixels."""

    paths: tuple[Path, ...]
    labels: tuple[int, ...]
    size: int
    background: str = "white"

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.cropped(index, self.size), self.labels[index]

    def cropped(self, index: int, side: int) -> Tensor:
        """Image (3, side, side) uint8."""
        return to_tensor(center_crop(open_image(self.paths[index], self.background), side))


def folder(
    root: str = "",
    size: int = 256,
    held_out: float = 0.1,
    skip_unreadable: bool = False,
    seed: int = 0,
    background: str = "white",
    cache: str = "runs/cache",
) -> ImageData:
    """Open a folder of class folders; or of images, which are one class then.

    Every file is read once, and again when its size or time has changed; what was found is kept in `cache`. The
    identity of the data set is that of its images' content and names. Raises InputError if the folder or its images
    are missing, or if images are unreadable and `skip_unreadable` is off.
    """
    base = Path(root)
    if not root or not base.is_dir():
        raise InputError(f"data.root='{root}' is not a folder; it must hold images, or one sub-folder per class")
    choose("background", background, BACKGROUNDS)
    classes = class_folders(base)
    listed = list_images(classes, base)
    if not any(listed.values()):
        raise InputError(
            f"data.root='{root}' holds no images ({', '.join(sorted(suffixes()))}), nor do its sub-folders"
        )
    if empty := [path.name for path, images in listed.items() if not images]:
        raise InputError(f"data.root='{root}' has classes without images: {', '.join(empty)}")
    label_of = {path: label for label, images in enumerate(listed.values()) for path in images}
    memory = Path(cache) / f"files-{hashlib.sha256(str(base.resolve()).encode()).hexdigest()[:12]}.json"
    found = examine_all(label_of, base, memory)
    paths = readable(found, base, skip_unreadable)
    content = "\n".join(f"{path.relative_to(base)} {found[path][0]}" for path in paths)
    labels = np.array([label_of[path] for path in paths])
    train, test = (
        FolderImages(tuple(paths[i] for i in part), tuple(labels[part].tolist()), size, background)
        for part in stratified_split(labels, held_out, seed)
    )
    digest = hashlib.sha256(content.encode()).hexdigest()[:16]
    return ImageData(
        name=f"folder-{base.resolve().name}",
        classes=tuple(path.name for path in classes),
        size=(size, size),
        crop=f"adm center {size}",
        identity=f"{digest} size={size} background={background} held_out={held_out} seed={seed}",
        train=train,
        held_out=test,
        larger=train.cropped,
    )


def class_folders(base: Path) -> list[Path]:
    """Sub-folders of a folder, one per class; where it has none, the folder itself. Says what is left out."""
    inner = sorted(path for path in base.iterdir() if path.is_dir() and not path.name.startswith("."))
    beside = sum(path.suffix.lower() in suffixes() for path in base.iterdir() if path.is_file())
    if inner and beside:
        tell(f"{base}: left out what lies beside the folders of classes (images: {beside})")
    return inner or [base]
