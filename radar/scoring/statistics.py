"""What is kept of a set of images as a feature network sees it: sums that do not grow with the number of images.

Legend: M images, B images of a batch, F features.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from radar.data.images import spread
from radar.encoders.network import FeatureNetwork
from radar.errors import InputError
from radar.files import DAMAGED, kept_where_possible, locked_where_possible, replacing
from radar.networks.features import extract, shown
from radar.progress import Bar
from radar.training.devices import over_devices

MOST_KEPT = 10_000  # feature vectors that precision, recall and KID compare, and images of fid_matched and fid_floor


@dataclass
class Moments:
    """Count, sum (F,) and sum of products (F, F) of features, in float64, added up batch by batch."""

    count: int
    total: Tensor
    products: Tensor

    @classmethod
    def none(cls, width: int) -> Self:
        """Those of no features of this width."""
        return cls(0, torch.zeros(width, dtype=torch.float64), torch.zeros(width, width, dtype=torch.float64))

    @classmethod
    def of(cls, features: Tensor) -> Self:
        """Those of features (M, F)."""
        moments = cls.none(features.shape[1])
        moments.add(features)
        return moments

    @classmethod
    def given(cls, mean: Tensor, covariance: Tensor) -> Self:
        """Those of two features with this mean (F,) and covariance (F, F): for a Fréchet distance the count is none."""
        mean, covariance = mean.double(), covariance.double()
        return cls(2, 2 * mean, covariance + 2 * mean.outer(mean))

    def add(self, features: Tensor) -> None:
        """Add features (B, F)."""
        features = features.double()
        self.count += len(features)
        self.total += features.sum(0)
        self.products += features.T @ features

    def over_devices(self) -> Self:
        """Those of the features of all devices together."""
        parts = (torch.tensor([self.count], dtype=torch.float64), self.total, self.products.flatten())
        count, total, products = over_devices(torch.cat(parts)).split([part.numel() for part in parts])
        return replace(self, count=int(count), total=total, products=products.view_as(self.products))

    @property
    def mean(self) -> Tensor:
        """(F,)."""
        return self.total / self.count

    @property
    def covariance(self) -> Tensor:
        """(F, F), unbiased."""
        return (self.products - self.count * self.mean.outer(self.mean)) / (self.count - 1)


class Kept:
    """MOST_KEPT of `count` rows that come batch by batch, evenly spread over them; all where they are fewer."""

    def __init__(self, count: int, most: int = MOST_KEPT) -> None:
        self.wanted, self.seen, self.parts = torch.tensor(spread(count, most)), 0, list[Tensor]()

    def add(self, rows: Tensor) -> None:
        """Keep what is wanted of the next rows (B, F)."""
        here = self.wanted - self.seen
        self.parts.append(rows[here[(here >= 0) & (here < len(rows))]])
        self.seen += len(rows)

    @property
    def rows(self) -> Tensor:
        """What was kept, (at most MOST_KEPT, F)."""
        return torch.cat(self.parts)


@dataclass(frozen=True)
class Statistics:
    """A set of images as a feature network sees it.

    Attributes:
        features: moments of all.
        kept: features (at most MOST_KEPT, F) of some; None where there is but a file of moments.
        spatial: moments of the spatial features; None where they were not asked for, or the network shows none.
        accuracy: share of the images that the network gives their own label, where it knows the labels.
    """

    features: Moments
    kept: Tensor | None = None
    spatial: Moments | None = None
    accuracy: float | None = None

    def some(self, count: int) -> Moments:
        """Moments of so many of the images, evenly spread; of all where they are no more."""
        if count >= self.features.count or self.kept is None:
            return self.features
        return Moments.of(self.kept[torch.tensor(spread(len(self.kept), count))])


Looked = tuple[Tensor, Tensor | None]  # images (B, 3, H, W) uint8, and labels (B,) where they are to be recognised


def measure_statistics(
    network: FeatureNetwork, batches: Iterable[Looked], count: int, spatial: bool = False
) -> Statistics:
    """Look at `count` images that come in batches, with a bar where it takes long."""
    moments, kept, places, known = Moments.none(network.num_features), Kept(count), None, None
    with Bar(total=count, desc=f"features by {network.label}", unit=" images") as bar:
        for images, labels in batches:
            features = extract(network, images)
            moments.add(features)
            kept.add(features)
            if spatial and (found := shown(network, network.spatial, images)) is not None:
                places = places or Moments.none(found.shape[1])
                places.add(found)
            if labels is not None and (right := recognised(network, images, labels)) is not None:
                known = (known or 0) + right
            bar.update(len(images))
    return Statistics(moments, kept.rows, places, None if known is None else known / count)


def recognised(network: FeatureNetwork, images: Tensor, labels: Tensor) -> int | None:
    """How many images (B, 3, H, W) the network gives their own labels (B,); None where it does not know the labels."""
    if not network.knows_labels or (found := shown(network, network.probabilities, images)) is None:
        return None
    return int((found.argmax(1) == labels).sum())


def kept_statistics(
    network: FeatureNetwork,
    title: str,
    identity: str,
    images: Callable[[], Iterable[Looked]],
    count: int,
    cache: str | None,
    spatial: bool = False,
) -> Statistics:
    """Statistics of a set of images, kept in `cache`: a large network takes minutes for them.

    Args:
        title, identity: how the file begins; what the images are a function of.
        images: batches of them, asked for only where their statistics are not there.
    """
    if cache is None:
        return measure_statistics(network, images(), count, spatial)
    key = hashlib.sha256(f"{network.title} {identity} {count} {spatial}".encode()).hexdigest()[:12]
    path = Path(cache) / f"{title}-{network.label}-{key}.npz"
    if not path.exists():
        with locked_where_possible(path.with_name(f".{path.stem}.lock")):  # another process may look at them just now
            if not path.exists():
                found = measure_statistics(network, images(), count, spatial)
                with kept_where_possible():
                    save_arrays(path, arrays_of(found))
                if not path.exists():
                    return found
    try:
        with np.load(path) as kept:
            return statistics_of({name: kept[name] for name in kept.files})
    except DAMAGED as error:
        raise InputError(f"features of images {path} are damaged; delete it ({type(error).__name__})") from error


def save_arrays(path: Path, arrays: dict[str, Any]) -> None:
    """Write an .npz file, whole or not at all."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def arrays_of(found: Statistics) -> dict[str, Any]:
    """Statistics as named arrays."""
    arrays: dict[str, Any] = {}
    for name, moments in (("features", found.features), ("spatial", found.spatial)):
        if moments is not None:
            parts = {"count": moments.count, "total": moments.total.numpy(), "products": moments.products.numpy()}
            arrays |= {f"{name}_{part}": value for part, value in parts.items()}
    further = {"kept": None if found.kept is None else found.kept.float().numpy(), "accuracy": found.accuracy}
    return arrays | {name: value for name, value in further.items() if value is not None}


def statistics_of(arrays: dict[str, Any]) -> Statistics:
    """Statistics of named arrays."""

    def moments(name: str) -> Moments:
        total, products = (torch.from_numpy(arrays[f"{name}_{part}"]) for part in ("total", "products"))
        return Moments(int(arrays[f"{name}_count"]), total, products)

    kept = torch.from_numpy(arrays["kept"]).double() if "kept" in arrays else None
    spatial = moments("spatial") if "spatial_count" in arrays else None
    return Statistics(moments("features"), kept, spatial, float(arrays["accuracy"]) if "accuracy" in arrays else None)
