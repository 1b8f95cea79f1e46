"""shards: images in tar files as WebDataset lays them out: KEY.jpg (or another image) and KEY.cls, the label as text.

The files are not unpacked: where each image lies is found out once, and it is read from there.
"""

import hashlib
import tarfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from radar.config.lookup import choose
from radar.data.files import BACKGROUNDS, open_image, suffixes
from radar.data.images import ImageData, center_crop, spread, stratified_split, to_tensor
from radar.errors import InputError
from radar.files import DAMAGED, locked_where_possible, replacing
from radar.progress import Bar

RULE = "2 "  # of what is an image of an index; to be counted up where that changes
LABEL = ".cls"
LOOKED_AT = 1000  # images whose content names the data set
COLUMNS = ("shard", "offset", "length", "label")


class Member(NamedTuple):
    """A labelled image in a tar file: where its bytes lie."""

    offset: int
    length: int
    label: int


@dataclass(frozen=True)
class ShardImages:
    """A split: rows (shard, offset, length, label) of its images, the side to crop to, what is under transparency."""

    paths: tuple[Path, ...]
    rows: NDArray[np.int64]
    size: int
    background: str

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.cropped(index, self.size), int(self.rows[index, 3])

    def cropped(self, index: int, side: int) -> Tensor:
        """Image (3, side, side) uint8; raises InputError where it cannot be read."""
        try:
            data = read_member(self.paths, self.rows[index])
            return to_tensor(center_crop(open_image(BytesIO(data), self.background), side))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            path = self.paths[self.rows[index, 0]]
            name = member_name(path, int(self.rows[index, 1]))
            raise InputError(f"{path}: image {name} cannot be read ({error})") from error


def shards(
    root: str = "",
    size: int = 256,
    held_out: float = 0.1,
    seed: int = 0,
    background: str = "white",
    cache: str = "runs/cache",
) -> ImageData:
    """Open all .tar files below a folder; where their images lie is kept in `cache`.

    The identity of the data set is that of all sizes and labels, and of what LOOKED_AT images hold. Raises
    InputError if there are no shards, or with the name of one that is damaged or has an image without a label.
    """
    base = Path(root)
    paths = tuple(sorted(base.rglob("*.tar"))) if root and base.is_dir() else ()
    if not paths:
        raise InputError(f"data.root='{root}' is no folder that holds .tar files")
    choose("background", background, BACKGROUNDS)
    states = RULE + "\n".join(f"{path.resolve()} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in paths)
    index = Path(cache) / f"shards-{hashlib.sha256(states.encode()).hexdigest()[:12]}.npy"
    if not index.exists():
        with locked_where_possible(index.with_suffix(".lock")):
            if not index.exists():  # the first of several processes makes it
                save_index(index, paths)
    try:
        rows = np.load(index)
    except DAMAGED as error:
        raise InputError(f"{index} is damaged; delete it ({type(error).__name__})") from error
    seen = hashlib.sha256(np.ascontiguousarray(rows[:, 2:]).tobytes())
    for number in spread(len(rows), LOOKED_AT):
        seen.update(read_member(paths, rows[number]))
    train, test = (
        ShardImages(paths, rows[part], size, background) for part in stratified_split(rows[:, 3], held_out, seed)
    )
    return ImageData(
        name=f"shards-{base.resolve().name}",
        classes=tuple(str(label) for label in range(int(rows[:, 3].max()) + 1)),
        size=(size, size),
        crop=f"adm center {size}",
        identity=f"{seen.hexdigest()[:16]} size={size} background={background} held_out={held_out} seed={seed}",
        train=train,
        held_out=test,
        larger=train.cropped,
    )


def read_member(paths: Sequence[Path], row: NDArray[np.int64]) -> bytes:
    """Bytes of an image."""
    shard, offset, length = (int(value) for value in row[:3])
    with paths[shard].open("rb") as file:
        file.seek(offset)
        return file.read(length)


def member_name(path: Path, offset: int) -> str:
    """Name of what lies at an offset of a tar file, if it can be found."""
    try:
        with tarfile.open(path, "r:") as archive:
            return next(member.name for member in archive if member.offset_data == offset)
    except (OSError, tarfile.TarError, StopIteration):
        return f"at byte {offset}"


def save_index(index: Path, paths: Sequence[Path]) -> None:
    """Find the images of all shards, several at once; raises InputError."""
    with ThreadPoolExecutor() as pool:
        each = Bar(pool.map(list_members, paths), "list shards", len(paths))
        rows = [(shard, *member) for shard, members in enumerate(each) for member in members]
    with replacing(index) as temporary, temporary.open("wb") as file:
        np.save(file, np.array(rows, dtype=np.int64).reshape(-1, len(COLUMNS)))


def list_members(path: Path) -> list[Member]:
    """Labelled images of a tar file; raises InputError with its name."""
    images, labels = dict[str, tuple[int, int]](), dict[str, bytes]()
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                name = PurePosixPath(member.name)
                first, _, ending = name.name.partition(".")  # of KEY.seg.png it is no image's
                key, ending = str(name.parent / first), f".{ending.lower()}"
                if member.isfile() and ending in suffixes():
                    images[key] = member.offset_data, member.size
                elif member.isfile() and ending == LABEL:
                    found = archive.extractfile(member)
                    labels[key] = b"" if found is None else found.read()
        size = path.stat().st_size
    except (tarfile.TarError, OSError) as error:
        raise InputError(f"{path} is damaged or no tar file ({error})") from error
    if size % tarfile.BLOCKSIZE or any(offset + length > size for offset, length in images.values()):
        raise InputError(f"{path} is damaged or no tar file (it has been cut off)")
    for key in images:
        if key not in labels:
            raise InputError(f"{path}: image {key} has no label {key}{LABEL}")
        if not labels[key].strip().isdigit():
            raise InputError(f"{path}: label {key}{LABEL} is {labels[key][:20]!r}: a whole number expected")
    if not images:
        raise InputError(f"{path} holds no images ({', '.join(sorted(suffixes()))})")
    return [Member(*place, int(labels[key])) for key, place in images.items()]
