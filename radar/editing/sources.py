"""Images to edit: held-out ones of the data set, a folder, or an .npz file."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from radar.data import ImageData
from radar.data.files import examine, open_image, suffixes
from radar.data.images import spread, to_tensor
from radar.errors import InputError
from radar.files import DAMAGED


def images_to_edit(source: str, data: ImageData, count: int, label: int | None) -> tuple[Tensor, Tensor]:
    """Load `count` images (B, 3, H, W) uint8 at most, and their labels (B,).

    Args:
        source: held_out, for those of the data set, evenly spread over the classes; a folder; or an .npz file with
            arr_0 (M, H, W, 3) uint8 and, if it has them, labels arr_1 (M,).
        data: that the model was trained on: its size, and its classes.
        count: images at most, the first ones.
        label: of all of them. By default that of the data set or of the file, or, in a folder, the class that the
            image's own folder is called by; otherwise the number of classes, which stands for none.

    Raises InputError where there are none, or one cannot be read or has another size.
    """
    if source == "held_out":
        images, labels = held_out(data, count)
    elif Path(source).is_dir():
        images, labels = of_folder(Path(source), data, count)
    elif Path(source).suffix == ".npz":
        images, labels = of_file(Path(source), data, count)
    else:
        raise InputError(f"--images {source} is neither a folder nor an .npz file that is there, nor held_out")
    return images, labels if label is None else torch.full_like(labels, label)


def held_out(data: ImageData, count: int) -> tuple[Tensor, Tensor]:
    """Held-out images, one of each class in turn as far as a look at some of them goes; raises InputError for none."""
    if not len(data.held_out):
        raise InputError(f"data '{data.name}' has no held-out images; name others by --images")
    found: list[list[int]] = [[] for _ in data.classes]
    looked = [data.held_out[index] for index in spread(len(data.held_out), max(500, count))]
    for number, (_, label) in enumerate(looked):
        found[label].append(number)
    depth = max(map(len, found))
    turns = [part[turn] for turn in range(depth) for part in found if turn < len(part)]
    images, labels = zip(*(looked[number] for number in turns[:count]), strict=True)
    return torch.stack(images), torch.tensor(labels)


def of_folder(folder: Path, data: ImageData, count: int) -> tuple[Tensor, Tensor]:
    """Images of a folder and those below it, by name; raises InputError."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in suffixes())[:count]
    if not paths:
        raise InputError(f"--images {folder} holds no images ({', '.join(sorted(suffixes()))})")
    images, labels = [], []
    for path in paths:
        if (why := examine(path)[1]) is not None:
            raise InputError(f"image {path} cannot be read: {why}")
        images.append(to_tensor(open_image(path, "white")))
        check_size(images[-1].shape[1:], data.size, path)
        name = path.parent.name
        labels.append(data.classes.index(name) if name in data.classes else len(data.classes))
    return torch.stack(images), torch.tensor(labels)


def of_file(path: Path, data: ImageData, count: int) -> tuple[Tensor, Tensor]:
    """Images of an .npz file in ADM's layout, as `radar sample` writes it; raises InputError."""
    try:
        with np.load(path) as file:
            images = file["arr_0"][:count]
            none = np.full(len(images), len(data.classes))
            labels = file["arr_1"][:count].astype(np.int64) if "arr_1" in file else none
    except (*DAMAGED, IndexError, TypeError, AttributeError) as error:
        raise InputError(f"--images {path} cannot be read as .npz with arr_0 ({type(error).__name__})") from error
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or not len(images):
        raise InputError(f"--images {path}: arr_0 is {images.dtype} {images.shape}, and uint8 (M, H, W, 3) expected")
    check_size(images.shape[1:3], data.size, path)
    if labels.shape != (len(images),) or labels.min() < 0 or labels.max() > len(data.classes):
        raise InputError(f"--images {path}: arr_1 is not {len(images)} numbers of the model's classes")
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels)


def check_size(found: Sequence[int], size: tuple[int, int], path: Path) -> None:
    """Raise InputError for an image of another size than the model's."""
    if tuple(found) != size:
        raise InputError(f"image {path} has {found[1]}x{found[0]} pixels, the model's images {size[1]}x{size[0]}")
