"""The real images that samples are compared with, as feature networks see them.

Legend: M real images.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from radar.config.options import Config
from radar.data import AugmentedImages, ImageData, ImageSet
from radar.data.batches import in_order
from radar.data.images import spread
from radar.encoders.network import FeatureNetwork
from radar.errors import InputError
from radar.files import DAMAGED, kept_where_possible, replacing
from radar.networks.features import load_features
from radar.scoring.reference_file import OF_IMAGES, read_reference
from radar.scoring.statistics import Looked, Statistics, kept_statistics

HASHED = 100_000  # training images that samples are compared with pixel by pixel, at most
LEAST = 5  # images of a split


@dataclass(frozen=True)
class Reference:
    """The real side: train images, or those of a file, as reference set; held-out images for the floor.

    Attributes:
        title: of the reference set.
        held_out: None where the data are codes, without images.
        most: images of each split that were looked at, at most.
        cache: folder of what is kept.
    """

    data: ImageData
    network: FeatureNetwork
    real: Statistics
    title: str
    held_out: Statistics | None
    most: int
    cache: str | None = None
    workers: int = 0

    @property
    def accuracy(self) -> float | None:
        """Share of the held-out images that the feature network's classifier knows; None without one."""
        return None if self.held_out is None else self.held_out.accuracy

    @property
    def held_out_images(self) -> int:
        """Held-out images that were looked at."""
        return 0 if self.held_out is None else self.held_out.features.count

    @property
    def held_out_title(self) -> str:
        """Name the reference set of rfid."""
        return f"{self.data.name}-held-out ({self.held_out_images})"

    def held_out_batches(self) -> Iterator[Tensor]:
        """The held-out images, in batches (B, 3, H, W) uint8."""
        return (batch.inputs for batch in in_order(self.data.held_out, self.most, workers=self.workers))

    @cached_property
    def trained(self) -> frozenset[bytes]:
        """Hashes of the training images (at most HASHED, evenly spread), in all views of their augmentation."""
        path = None
        if self.cache is not None:
            identity = f"{self.data.identity} {self.data.augment}"
            key = hashlib.sha256(identity.encode()).hexdigest()[:12]
            path = Path(self.cache) / f"hashes-{self.data.name}-{key}.npy"
        if path is not None and path.exists():
            try:
                return frozenset(row.tobytes() for row in np.load(path))
            except DAMAGED as error:
                raise InputError(f"hashes of images {path} are damaged; delete it ({type(error).__name__})") from error
        found = frozenset(hashed(self.data, self.workers))
        if path is not None:
            with kept_where_possible(), replacing(path) as temporary, temporary.open("wb") as file:
                np.save(file, np.frombuffer(b"".join(sorted(found)), dtype=np.uint8).reshape(-1, 32))
        return found


def build_reference(
    data: ImageData,
    network: FeatureNetwork,
    cache: str | None = None,
    most: int = 50_000,
    file: str | None = None,
    spatial: bool = False,
    workers: int = 0,
    looks: bool = True,
) -> Reference:
    """Look at no more than `most` real images of each split once, or read what was seen from `cache`.

    The reference set is that of `file`, where there is one, else the training images. Raises InputError for fewer than
    LEAST images in a split, and for a file that does not fit.
    """
    if file is None:
        check_images(data)

    def seen(name: str, split: ImageSet, labelled: bool = False) -> Statistics:
        def look() -> Iterable[Looked]:
            batches = in_order(split, most, workers=workers)
            return ((batch.inputs, batch.labels if labelled else None) for batch in batches)

        title, count = f"reference-{data.name}-{name}", min(len(split), most)
        return kept_statistics(network, title, f"{data.identity} {name}", look, count, cache, spatial)

    if file is not None:
        real, title = read_reference(file, network, cache, looks)
    else:
        real = seen("train", data.train)
        title = f"{data.name}-train ({real.features.count})"
    held_out = seen("held-out", data.held_out, labelled=True) if len(data.held_out) >= LEAST else None
    return Reference(data, network, real, title, held_out, most, cache, workers)


def build_references(config: Config, data: ImageData, device: torch.device) -> list[Reference]:
    """Show the real images to every feature network, or read from the cache what it made of them."""
    e, cache = config.evaluate, config.data.cache
    if not e.reference:
        check_images(data)  # before a network is trained on them
    networks = [load_features(name, data, cache).to(device) for name in e.features]
    files: list[str | None] = [*e.reference] or [None] * len(networks)
    if len(files) != len(networks):
        raise InputError(
            f"evaluate.reference={e.reference} is not possible: one file for each of the {len(networks)} "
            "evaluate.features expected"
        )
    spatial, looks = "sfid" in e.metrics, any(name in OF_IMAGES for name in e.metrics)
    return [
        build_reference(data, network, cache, e.reference_images, file, spatial, config.data.workers, looks)
        for network, file in zip(networks, files, strict=True)
    ]


def check_images(data: ImageData) -> None:
    """Raise InputError where there are too few real images to compare with."""
    if data.codes is not None:
        raise InputError(
            f"data '{data.name}' are codes, without images to compare with: name a file in evaluate.reference, of "
            "`radar reference` on a folder of images or ADM's, and networks other than cnn in evaluate.features"
        )
    if (fewest := min(len(data.held_out), len(data.train))) < LEAST:
        raise InputError(
            f"data '{data.name}' has too few images to score against: both splits need at least {LEAST}, and one has "
            f"{fewest}; see data.held_out"
        )


def hashed(data: ImageData, workers: int) -> Iterator[bytes]:
    """Hash the training images."""
    views = AugmentedImages(data)
    if views.augment.views == 1:
        for batch in in_order(data.train, HASHED, workers=workers):
            yield from image_keys(batch.inputs)
        return
    for index in spread(len(data.train), HASHED):
        images = [views[index * views.augment.views + v][0] for v in range(views.augment.views)]
        yield from image_keys(torch.stack(images))


def image_keys(images: Tensor) -> list[bytes]:
    """Hashes of images (B, 3, H, W)."""
    return [hashlib.sha256(image.contiguous().numpy().tobytes()).digest() for image in images]
