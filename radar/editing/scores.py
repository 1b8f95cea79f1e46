"""How well holes are filled, image by image. To add a score: a function and a line in SCORES.

Legend: B images, N cells, H x W pixels, F features.
"""

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import NamedTuple

import torch
from scipy.stats import t as student
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio

from radar.editing.edits import Edited
from radar.editing.filling import HoleFiller
from radar.editing.holes import pixels_of
from radar.encoders.network import FeatureNetwork
from radar.networks.features import extract, shown
from radar.scoring.similarity import structural_similarity

BEST_PSNR = 58.9  # dB, of the mean squared error 1/12 that rounding makes


class Judged(NamedTuple):
    """What is scored, and by what: images, who filled them, their hidden pixels (B, 1, H, W), a feature network.

    `compared` tells whether there was something in the hole.
    """

    edited: Edited
    numbers: Sequence[int]
    filler: HoleFiller
    pixels: Tensor
    network: FeatureNetwork
    compared: bool


@torch.inference_mode()
def nll(of: Judged) -> Tensor:
    """NLL of what was there, given the rest and the image's own label, in nats per hidden cell.

    Exact for variants that revise nothing; none where sampling finds the order. The tokens that were there are those
    of the whole image.
    """
    edited, device = of.edited, of.filler.module.device
    tokens = torch.where(edited.hidden, edited.truth, edited.given)
    found = of.filler.nll(tokens.to(device), edited.hidden, edited.own.to(device), of.numbers)
    return found.cpu() / edited.hidden.sum(1)


def psnr(of: Judged) -> Tensor:
    """Peak signal-to-noise ratio in the hole, to what was there, in dB; at most that of an error of rounding."""
    pairs = zip(of.edited.after, of.edited.before, of.pixels.expand_as(of.edited.before), strict=True)
    found = [peak_signal_noise_ratio(a[hole].float(), b[hole].float(), data_range=255.0) for a, b, hole in pairs]
    return torch.stack(found).clamp(max=BEST_PSNR)


def ssim(of: Judged) -> Tensor:
    """Structural similarity of the whole image to what it was; none of images smaller than its window allows."""
    return structural_similarity(of.edited.after, of.edited.before)


def feature_distance(of: Judged) -> Tensor:
    """Euclidean distance between the network's features of the image and of what it was."""
    before, after = (extract(of.network, images) for images in (of.edited.before, of.edited.after))
    distance: Tensor = torch.linalg.vector_norm(before - after, dim=1)
    return distance


def seam(of: Judged) -> Tensor:
    """Mean absolute step between neighbouring pixels across the hole's border, less that of the original.

    Beyond the border of an image there is no original: less that between the given pixels.
    """
    border, given = (lambda a, b: a != b), (lambda a, b: ~(a | b))
    before = _steps(of.edited.before, of.pixels, border if of.compared else given)
    return _steps(of.edited.after, of.pixels, border) - before


def _steps(images: Tensor, pixels: Tensor, counts: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Mean step (B,) over the pairs of neighbours that count, by whether they are hidden; not a number for none."""
    total, count = torch.zeros(len(images)), torch.zeros(len(images))
    for axis in (2, 3):
        length = pixels.shape[axis] - 1
        pairs = counts(pixels.narrow(axis, 0, length), pixels.narrow(axis, 1, length)).expand(-1, 3, -1, -1)
        total += (images.float().diff(dim=axis).abs() * pairs).sum((1, 2, 3))
        count += pairs.sum((1, 2, 3))
    return total / count


def accuracy(of: Judged) -> Tensor:
    """Whether the network's classifier gives the image the label that was drawn; none without classifier or label."""
    found = shown(of.network, of.network.probabilities, of.edited.after) if of.network.knows_labels else None
    if found is None:
        return torch.full((len(of.edited.after),), torch.nan)
    right = (found.argmax(1) == of.edited.labels).double()
    return right.masked_fill(of.edited.labels >= found.shape[1], torch.nan)


def outside(of: Judged) -> Tensor:
    """Largest change of a pixel that was not hidden."""
    change = (of.edited.after.int() - of.edited.before.int()).abs() * ~of.pixels
    return change.flatten(1).max(1).values


def recoded(of: Judged) -> Tensor:
    """Share of the given cells whose tokens depend on what is hidden: what an encoding of the whole image lets leak."""
    kept = ~of.edited.hidden
    return ((of.edited.masked != of.edited.truth) & kept).sum(1) / kept.sum(1)


SCORES: dict[str, Callable[[Judged], Tensor]] = {
    "nll_per_cell": nll,
    "psnr": psnr,
    "ssim": ssim,
    "feature_distance": feature_distance,
    "seam": seam,
    "accuracy": accuracy,
    "outside": outside,
    "recoded": recoded,
}


BEYOND = ("seam", "outside")  # of an image that is extended: the others ask what was there, or for images of its size


def score_edits(
    edited: Edited, numbers: Sequence[int], filler: HoleFiller, network: FeatureNetwork, compared: bool = True
) -> dict[str, Tensor]:
    """Every score of every image, (B,) float64; those without a hole are left out, and what does not apply is NaN.

    `compared` tells whether there was something in the hole; otherwise the image was extended.
    """
    rows = torch.nonzero(edited.hidden.any(1)).flatten()
    some = edited.take(rows)
    pixels = pixels_of(some.hidden, some.before, filler.module.model.grid)
    of = Judged(some, [numbers[row] for row in rows.tolist()], filler, pixels, network, compared)
    return {name: score(of).double() for name, score in SCORES.items() if compared or name in BEYOND}


def diversity(drawn: Sequence[Edited], network: FeatureNetwork) -> Tensor:
    """Mean distance (B,) between the features of what several seeds drew for the same images."""
    features = [extract(network, edited.after) for edited in drawn]
    return torch.stack([torch.linalg.vector_norm(a - b, dim=1) for a, b in combinations(features, 2)]).mean(0)


class Mean(NamedTuple):
    """Mean over images, half of its 95% interval (none for one image), and how many images have the score."""

    mean: float
    half: float | None
    images: int


def mean_of(values: Tensor) -> Mean | None:
    """Mean of the values (B,) that are a number; None where none is."""
    found = values[~values.isnan()]
    count = len(found)
    if count < 2:
        return Mean(float(found), None, 1) if count else None
    half = float(student.ppf(0.975, count - 1) * found.std(correction=1) / count**0.5)
    return Mean(float(found.mean()), half, count)
