"""Quality of samples: FID, KID, precision and recall, class accuracy, duplicates, well-formedness.

A metric is a function Evaluation -> columns; to add one, write it and add a line to METRICS. All work on features and
pixels in float64; nothing runs under autocast. FID is biased in the number of samples, so the numbers are reported.
Legend: B samples, M real images, F features.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from radar.config.registry import choose
from radar.errors import InputError
from radar.networks.features import extract
from radar.scoring.reference import Reference, image_keys


class Identity(nn.Module):
    """Lets torchmetrics take features that were extracted once."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        """Return the features."""
        return features


@dataclass(frozen=True)
class Evaluation:
    """What a metric may look at: samples (B, 3, H, W) uint8, their labels (B,), features (B, F), the real side."""

    images: Tensor
    labels: Tensor
    features: Tensor
    reference: Reference


def frechet_distance(real: Tensor, fake: Tensor) -> float:
    """FID of features (M, F), (B, F), by torchmetrics in float64; raises InputError if any is not finite."""
    if not (real.isfinite().all() and fake.isfinite().all()):
        raise InputError("features are not finite: the images or the feature network are damaged")
    metric = FrechetInceptionDistance(feature=Identity(real.shape[1]), sync_on_compute=False)  # each device has all
    metric.update(real.double(), real=True)
    metric.update(fake.double(), real=False)
    return float(metric.compute())


def kernel_distance(real: Tensor, fake: Tensor) -> float:
    """KID (mean over subsets of up to 500, fixed seed), by torchmetrics."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it keeps all features in memory, as we do
        torch.manual_seed(0)
        size = min(500, len(real), len(fake))
        metric = KernelInceptionDistance(
            feature=Identity(real.shape[1]), subsets=20, subset_size=size, sync_on_compute=False
        )
        metric.update(real, real=True)
        metric.update(fake, real=False)
        return float(metric.compute()[0])


def neighbour_radius(points: Tensor, neighbours: int = 3, chunk: int = 1024) -> Tensor:
    """Distance (M,) from each point to its k-th nearest other point."""
    parts = [torch.cdist(part, points).kthvalue(neighbours + 1).values for part in points.split(chunk)]
    return torch.cat(parts)


def coverage(points: Tensor, radius: Tensor, queries: Tensor, chunk: int = 1024) -> float:
    """Share of the queries inside the ball of at least one point."""
    inside = [(torch.cdist(part, points) <= radius).any(1) for part in queries.split(chunk)]
    return float(torch.cat(inside).double().mean())


def thinned(points: Tensor, most: int = 10_000) -> Tensor:
    """Keep `most` points, evenly spread over the set (which may be sorted by class)."""
    return points if len(points) <= most else points[torch.linspace(0, len(points) - 1, most).round().long()]


def fid(evaluation: Evaluation) -> dict[str, float]:
    """Frechet distance to the reference set; also that of held-out images, and of as many samples, to compare them."""
    real, fake, floor = evaluation.reference.features, evaluation.features, evaluation.reference.held_out_features
    count = min(len(fake), len(floor))
    return {
        "fid": frechet_distance(real, fake),
        "fid_matched": frechet_distance(real, fake[:count]),
        "fid_floor": frechet_distance(real, thinned(floor, count)),
        "floor_images": count,
    }


def kid(evaluation: Evaluation) -> dict[str, float]:
    """Kernel distance to the reference set."""
    return {"kid": kernel_distance(evaluation.reference.features, evaluation.features)}


def precision_recall(evaluation: Evaluation) -> dict[str, float]:
    """Improved precision and recall with k = 3 (arXiv 1904.06991), of at most 10,000 images each."""
    real, fake = thinned(evaluation.reference.features), thinned(evaluation.features)
    return {
        "precision": coverage(real, neighbour_radius(real), fake),
        "recall": coverage(fake, neighbour_radius(fake), real),
    }


def accuracy(evaluation: Evaluation) -> dict[str, float]:
    """Share of samples that the data set's classifier gives their own label; empty without a classifier."""
    share = evaluation.reference.network.accuracy(evaluation.images, evaluation.labels)
    return {} if share is None else {"accuracy": share}


def duplicates(evaluation: Evaluation) -> dict[str, float]:
    """Shares of samples that equal another sample, and that equal a training image or a view, pixel by pixel."""
    samples, train = image_keys(evaluation.images), evaluation.reference.trained
    return {
        "duplicates": 1 - len(set(samples)) / len(samples),
        "memorised": sum(key in train for key in samples) / len(samples),
    }


def validity(evaluation: Evaluation) -> dict[str, float]:
    """Share of well-formed members of their class; empty where the data set cannot tell."""
    check = evaluation.reference.data.well_formed
    return {} if check is None else {"validity": float(check(evaluation.images, evaluation.labels).double().mean())}


METRICS: dict[str, Callable[[Evaluation], dict[str, float]]] = {
    "fid": fid,
    "kid": kid,
    "precision_recall": precision_recall,
    "accuracy": accuracy,
    "duplicates": duplicates,
    "validity": validity,
}


FEATURED = ("fid", "kid", "precision_recall")  # metrics that depend on the feature network alone, and the images


def check_metrics(names: Sequence[str]) -> None:
    """Raise InputError for an unknown metric."""
    for name in names:
        choose("metric", name, METRICS)


def score(names: Sequence[str], images: Tensor, labels: Tensor, reference: Reference) -> dict[str, float]:
    """Compute the named metrics of samples (B, 3, H, W) uint8 with labels (B,)."""
    evaluation = Evaluation(images, labels, extract(reference.network, images), reference)
    columns: dict[str, float] = {}
    for name in names:
        columns |= choose("metric", name, METRICS)(evaluation)
    return columns


def further_scores(names: Sequence[str], images: Tensor, labels: Tensor, reference: Reference) -> dict[str, float]:
    """Compute those of the named metrics that another network gives, as columns that name it: fid[label]."""
    found = score([name for name in FEATURED if name in names], images, labels, reference)
    label = reference.network.label
    return {f"{key}[{label}]": value for key, value in found.items() if key != "floor_images"}
