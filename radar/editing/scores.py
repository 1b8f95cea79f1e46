"""How well holes are filled, image by image. To add a score: a function and a line in SCORES.

Legend: B images, N cells, H x W pixels, F features.
"""

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from radar.editing.edits import Edited
from radar.editing.filling import HoleFiller
from radar.editing.holes import pixels_of
from radar.networks.features import extract, shown
from radar.networks.network import FeatureNetwork


class Judged(NamedTuple):
    """What is scored, and by what: images, who filled them, their hidden pixels (B, 1, H, W), a feature network."""

    edited: Edited
    numbers: Sequence[int]
    filler: HoleFiller
    pixels: Tensor
    network: FeatureNetwork


@torch.inference_mode()
def nll(of: Judged) -> Tensor:
    """NLL of what was there, given the rest and the image's own label, in nats per hidden cell.

    Exact for variants that revise nothing. The tokens that were there are those of the whole image.
    """
    edited, device = of.edited, of.filler.module.device
    tokens = torch.where(edited.hidden, edited.truth, edited.given)
    found = of.filler.nll(tokens.to(device), edited.hidden, edited.own.to(device), of.numbers)
    return found.cpu() / edited.hidden.sum(1)


def psnr(of: Judged) -> Tensor:
    """Peak signal-to-noise ratio in the hole, to what was there, in dB."""
    pairs = zip(of.edited.after, of.edited.before, of.pixels.expand_as(of.edited.before), strict=True)
    return torch.stack(
        [peak_signal_noise_ratio(a[hole].float(), b[hole].float(), data_range=255.0) for a, b, hole in pairs]
    )


def ssim(of: Judged) -> Tensor:
    """Structural similarity of the whole image to what it was."""
    found = structural_similarity_index_measure(
        of.edited.after.float(), of.edited.before.float(), data_range=255.0, reduction="none"
    )
    assert isinstance(found, Tensor)
    return found


def feature_distance(of: Judged) -> Tensor:
    """Euclidean distance between the network's features of the image and of what it was."""
    before, after = (extract(of.network, images) for images in (of.edited.before, of.edited.after))
    distance: Tensor = torch.linalg.vector_norm(before - after, dim=1)
    return distance


def seam(of: Judged) -> Tensor:
    """Mean absolute step between neighbouring pixels across the hole's border, less that of the original."""
    return _steps(of.edited.after, of.pixels) - _steps(of.edited.before, of.pixels)


def _steps(images: Tensor, pixels: Tensor) -> Tensor:
    total, count = torch.zeros(len(images)), torch.zeros(len(images))
    for axis in (2, 3):
        across = pixels.diff(dim=axis).expand(-1, images.shape[1], -1, -1)
        total += (images.float().diff(dim=axis).abs() * across).sum((1, 2, 3))
        count += across.sum((1, 2, 3))
    mean: Tensor = torch.where(count > 0, total / count, torch.nan)  # a hole may have no border
    return mean


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
    """Share of the given cells whose tokens would be others, had the whole image been encoded: what would leak."""
    kept = ~of.edited.hidden
    return ((of.edited.given != of.edited.truth) & kept).sum(1) / kept.sum(1)


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


COMPARED = ("nll_per_cell", "psnr", "ssim", "feature_distance", "recoded")  # with what was in the hole


def score_edits(
    edited: Edited, numbers: Sequence[int], filler: HoleFiller, network: FeatureNetwork, compared: bool = True
) -> dict[str, Tensor]:
    """Every score of every image, (B,) float64; those without a hole are left out, and what does not apply is NaN.

    Unless `compared`, only those that do not ask what was in the hole.
    """
    rows = torch.nonzero(edited.hidden.any(1)).flatten()
    some = Edited(**{name: getattr(edited, name)[rows] for name in Edited.__dataclass_fields__})
    pixels = pixels_of(some.hidden, some.before, filler.module.model.grid)
    of = Judged(some, [numbers[row] for row in rows.tolist()], filler, pixels, network)
    names = [name for name in SCORES if compared or name not in COMPARED]
    return {name: SCORES[name](of).double() for name in names}


def diversity(drawn: Sequence[Edited], network: FeatureNetwork) -> Tensor:
    """Mean distance (B,) between the features of what several seeds drew for the same images."""
    features = [extract(network, edited.after) for edited in drawn]
    return torch.stack([torch.linalg.vector_norm(a - b, dim=1) for a, b in combinations(features, 2)]).mean(0)


def mean_and_error(values: Tensor) -> tuple[float, float] | None:
    """Mean and half of its 95% interval over images (B,), those that are a number; None where none is."""
    found = values[values.isfinite()]
    if not len(found):
        return None
    return float(found.mean()), float(1.96 * found.std(correction=1) / len(found) ** 0.5) if len(found) > 1 else 0.0
