"""The real images that samples are compared with, as feature networks see them.

Legend: M real images, F features.
"""

import hashlib
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from radar.config.options import Config
from radar.data import AugmentedImages, ImageData
from radar.data.images import split_images, spread
from radar.errors import InputError
from radar.files import replacing
from radar.networks.features import extract, load_features
from radar.networks.network import FeatureNetwork

HASHED = 100_000  # training images that samples are compared with pixel by pixel, at most


@dataclass(frozen=True)
class Reference:
    """The real side: train images as reference set, held-out images for the real-versus-real floor.

    Attributes:
        trained: hashes of the training images (at most HASHED, evenly spread), in all views of their augmentation.
        accuracy: share of the held-out images that the feature network's classifier knows; None without one.
    """

    data: ImageData
    network: FeatureNetwork
    images: Tensor
    features: Tensor
    held_out: Tensor
    held_out_features: Tensor
    trained: frozenset[bytes]
    accuracy: float | None

    @property
    def title(self) -> str:
        """Name the reference set."""
        return f"{self.data.name}-train ({len(self.images)})"

    @property
    def held_out_title(self) -> str:
        """Name the reference set of rfid."""
        return f"{self.data.name}-held-out ({len(self.held_out)})"


def build_reference(
    data: ImageData, network: FeatureNetwork, cache: str | None = None, most: int = 50_000
) -> Reference:
    """Extract the features of at most `most` real images of each split once, or read them from `cache`.

    Raises InputError for fewer than 5 images in a split.
    """
    if len(data.held_out) < 5 or len(data.train) < 5:
        raise InputError(f"data '{data.name}' has too few images to score against: both splits need at least 5")
    train, (held_out, labels) = split_images(data.train, most)[0], split_images(data.held_out, most)
    features = real_features(network, data, {"train": train, "held_out": held_out}, cache)
    accuracy, trained = network.accuracy(held_out, labels), frozenset(_trained(data, train))
    return Reference(data, network, train, features["train"], held_out, features["held_out"], trained, accuracy)


def judged_by(reference: Reference, network: FeatureNetwork, cache: str | None = None) -> Reference:
    """Show the same real images to another network."""
    images = {"train": reference.images, "held_out": reference.held_out}
    features = real_features(network, reference.data, images, cache)
    return replace(
        reference, network=network, features=features["train"], held_out_features=features["held_out"], accuracy=None
    )


def build_references(config: Config, data: ImageData, device: torch.device) -> list[Reference]:
    """Show the real images to every feature network, or read from the cache what it made of them."""
    cache = config.data.cache
    first, *further = (load_features(name, data, cache).to(device) for name in config.evaluate.features)
    reference = build_reference(data, first, cache, config.evaluate.reference_images)
    return [reference, *(judged_by(reference, network, cache) for network in further)]


def real_features(
    network: FeatureNetwork, data: ImageData, images: dict[str, Tensor], cache: str | None
) -> dict[str, Tensor]:
    """Features (M, F) float64 of real images by split, kept in `cache`."""
    counts = " ".join(f"{name}={len(split)}" for name, split in images.items())
    return kept_features(
        network, f"reference-{data.name}", f"{data.identity} {counts}", lambda name: images[name], list(images), cache
    )


def kept_features(
    network: FeatureNetwork,
    title: str,
    identity: str,
    images: Callable[[str], Tensor],
    names: list[str],
    cache: str | None,
) -> dict[str, Tensor]:
    """Features (M, F) float64 of named sets of images, kept in `cache`: a large network takes minutes for them.

    Args:
        title, identity: how the file begins; what the images are a function of, beside their names.
        images: images (M, 3, H, W) uint8 of a name, asked for only where their features are not there.
    """
    if cache is None:
        return {name: extract(network, images(name)) for name in names}
    key = hashlib.sha256(f"{network.title} {identity}".encode()).hexdigest()[:12]
    path = Path(cache) / f"{title}-{network.label}-{key}.npz"
    if not path.exists():
        found: dict[str, Any] = {name: extract(network, images(name)).float().numpy() for name in names}
        try:
            with replacing(path) as temporary, temporary.open("wb") as file:
                np.savez(file, **found)
        except PermissionError:  # a cache that is only read
            return {name: torch.from_numpy(kept).double() for name, kept in found.items()}
    try:
        with np.load(path) as kept:
            return {name: torch.from_numpy(kept[name]).double() for name in names}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"features of images {path} are damaged; delete it ({type(error).__name__})") from error


def _trained(data: ImageData, reference: Tensor) -> Iterator[bytes]:
    """Hash the training images, of which the reference images may be all."""
    views, count = AugmentedImages(data), len(data.train)
    if views.augment.views == 1:
        yield from image_keys(reference if len(reference) == count else split_images(data.train, HASHED)[0])
        return
    for index in spread(count, HASHED):
        images = [views[index * views.augment.views + v][0] for v in range(views.augment.views)]
        yield from image_keys(torch.stack(images))


def image_keys(images: Tensor) -> list[bytes]:
    """Hashes of images (B, 3, H, W)."""
    return [hashlib.sha256(image.contiguous().numpy().tobytes()).digest() for image in images]
