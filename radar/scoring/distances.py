"""Distances between sets of images by their features: Fréchet's, the kernel's, precision and recall.

Legend: B samples, M real images, F features.
"""

import warnings

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from radar.errors import InputError
from radar.scoring.statistics import Moments


class Identity(nn.Module):
    """Lets torchmetrics take features that were extracted once."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        """Return the features."""
        return features


def frechet_distance(real: Moments, fake: Moments) -> float:
    """FID by the moments of features, by torchmetrics in float64; raises InputError if any feature is not finite."""
    if not (real.products.isfinite().all() and fake.products.isfinite().all()):
        raise InputError("features are not finite: the images or the feature network are damaged")
    metric = FrechetInceptionDistance(feature=Identity(len(real.total)), sync_on_compute=False)  # each device has all
    for side, moments in (("real", real), ("fake", fake)):
        metric.update(moments.total.new_zeros(0, len(moments.total)), real=side == "real")  # features, that were summed
        setattr(metric, f"{side}_features_sum", moments.total)
        setattr(metric, f"{side}_features_cov_sum", moments.products)
        setattr(metric, f"{side}_features_num_samples", torch.tensor(moments.count))
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
