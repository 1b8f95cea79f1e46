"""fashion: Fashion-MNIST (arXiv 1708.07747), 60,000 + 10,000 grey images of 28x28, padded with black to 32x32."""

import gzip
import hashlib
import urllib.request
import zlib
from functools import cache as remembered
from http.client import HTTPException
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from radar.data.files import tell
from radar.data.images import GreyImages, ImageData
from radar.errors import InputError
from radar.files import replacing

SYSTEM = Path("/usr/share/datasets/fashion-mnist")  # of the Debian package dataset-fashion-mnist
PUBLISHER = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
PADDING = 2  # pixels on every side
# SHA-256 of what the files hold: packages compress them anew.
CONTENT = {
    "train-images-idx3-ubyte.gz": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte.gz": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte.gz": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte.gz": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
CLASSES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")


@remembered  # planning a study asks for them once per trial
def fashion(root: str = "", cache: str = "runs/cache") -> ImageData:
    """Read the four .gz files from `root`, else from the system's package, else from the publisher, kept in `cache`.

    The publisher's 10,000 test images are held out. Raises InputError if files are missing or hold something else.
    """
    folder = Path(root) if root else find_files(Path(cache) / "fashion-mnist")
    held = {name: read_file(folder / name, digest) for name, digest in CONTENT.items()}
    splits = [parse_split(held[f"{name}-images-idx3-ubyte.gz"], held[f"{name}-labels-idx1-ubyte.gz"])
              for name in ("train", "t10k")]  # fmt: skip
    return ImageData(
        name="fashion",
        classes=CLASSES,
        size=(32, 32),
        crop=f"padded by {PADDING}",
        identity="fashion-mnist 32x32",
        train=splits[0],
        held_out=splits[1],
    )


def find_files(cached: Path) -> Path:
    """Folder of the files: the system's, or `cached`, where those that are missing are downloaded to."""
    if all((SYSTEM / name).exists() for name in CONTENT):
        return SYSTEM
    for name, digest in CONTENT.items():
        if not (cached / name).exists():
            download(f"{PUBLISHER}/{name}", cached / name, digest)
    return cached


def download(url: str, path: Path, digest: str) -> None:
    """Download a file and check what it holds; raises InputError, with the three ways to have the images."""
    tell(f"downloading {url}")
    try:
        with replacing(path) as temporary:
            with urllib.request.urlopen(url, timeout=30) as source:
                temporary.write_bytes(source.read())
            read_file(temporary, digest, url)
    except (OSError, HTTPException) as error:
        raise InputError(
            f"data.name=fashion has no images here: {url} cannot be read ({error}). Set data.root to a folder with "
            f"{', '.join(CONTENT)}, or install them (apt-get install dataset-fashion-mnist), or be on a network"
        ) from error


def read_file(path: Path, digest: str, name: object = None) -> bytes:
    """What a .gz file holds; raises InputError if it is missing, damaged, or not what `digest` names.

    It is called `name` there, by default its path.
    """
    name = name or path
    try:
        held = gzip.decompress(path.read_bytes())
    except FileNotFoundError as error:
        raise InputError(f"{name} does not exist; data.name=fashion reads {', '.join(CONTENT)}") from error
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{name} cannot be read: {error}") from error
    if (found := hashlib.sha256(held).hexdigest()) != digest:
        raise InputError(f"{name} holds something else than Fashion-MNIST: SHA-256 {found}, and {digest} expected")
    return held


def parse_split(images: bytes, labels: bytes) -> GreyImages:
    """Read the IDX format: a header of 16 bytes (8 for labels), then one byte per pixel (label)."""
    pixels = torch.from_numpy(np.frombuffer(images, np.uint8, offset=16).reshape(-1, 1, 28, 28).copy())
    return GreyImages(F.pad(pixels, [PADDING] * 4), np.frombuffer(labels, np.uint8, offset=8).astype(np.int64))
