"""Quality of samples: FID, sFID, IS, KID, precision and recall, class accuracy, duplicates, well-formedness.

A metric takes samples batch by batch and gives columns at the end; to add one, write a class and add a line to METRICS.
All work on features and pixels in float64; nothing runs under autocast; none holds more than MOST_KEPT samples. FID is
biased in the number of samples, so the numbers are reported. Legend: B samples of a batch, M real images, F features.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from radar.config.lookup import choose
from radar.errors import InputError
from radar.networks.features import extract, shown
from radar.scoring.distances import coverage, frechet_distance, kernel_distance, neighbour_radius
from radar.scoring.reference import Reference, image_keys
from radar.scoring.statistics import MOST_KEPT, Kept, Moments, recognised

SPLIT = 5000  # samples of one part of IS, as ADM (guided-diffusion) takes them


class Seen(NamedTuple):
    """A batch of samples: images (B, 3, H, W) uint8, their labels (B,), features (B, F)."""

    images: Tensor
    labels: Tensor
    features: Tensor


class Metric(Protocol):
    """Made for a reference and a number of samples; sees them once, in their order."""

    def __init__(self, reference: Reference, count: int) -> None: ...

    def add(self, seen: Seen) -> None:
        """Take a batch."""
        ...

    def columns(self) -> dict[str, float]:
        """Figures of all; none where they cannot be had."""
        ...


class Fid:
    """Frechet distance to the reference set; also that of held-out images, and of as many samples, to compare them."""

    def __init__(self, reference: Reference, count: int) -> None:
        self.reference, width = reference, reference.network.num_features
        self.all, self.first = Moments.none(width), Moments.none(width)
        self.compared = min(count, reference.held_out_images, MOST_KEPT)

    def add(self, seen: Seen) -> None:
        """Add up moments."""
        self.all.add(seen.features)
        if (missing := self.compared - self.first.count) > 0:
            self.first.add(seen.features[:missing])

    def columns(self) -> dict[str, float]:
        """FID, and where there are held-out images that of as many samples, and theirs."""
        real, found = self.reference.real.features, self.reference.held_out
        columns = {"fid": frechet_distance(real, self.all)}
        if found is None:
            return columns
        return columns | {
            "fid_matched": frechet_distance(real, self.first),
            "fid_floor": frechet_distance(real, found.some(self.compared)),
            "floor_images": self.compared,
        }


class Sfid:
    """Frechet distance of spatial features (arXiv 2103.03841; channels as ADM takes them)."""

    def __init__(self, reference: Reference, count: int) -> None:
        self.network, self.real = reference.network, reference.real.spatial
        self.moments = None if self.real is None else Moments.none(len(self.real.total))

    def add(self, seen: Seen) -> None:
        """Add up moments."""
        if self.moments is None or (found := shown(self.network, self.network.spatial, seen.images)) is None:
            return
        if (width := found.shape[1]) != len(self.moments.total):
            raise InputError(
                f"the reference has {len(self.moments.total)} spatial features, {self.network.label} shows {width}: "
                "leave sfid out of evaluate.metrics"
            )
        self.moments.add(found)

    def columns(self) -> dict[str, float]:
        """SFID."""
        if self.real is None or self.moments is None or not self.moments.count:
            return {}
        return {"sfid": frechet_distance(self.real, self.moments)}


class InceptionScore:
    """exp of the mean divergence of p(class | image) from p(class) (arXiv 1606.03498), mean over parts of SPLIT."""

    def __init__(self, reference: Reference, count: int) -> None:
        self.network, self.seen = reference.network, 0
        self.sums: list[tuple[int, Tensor, Tensor]] = []  # of each part: samples, sum of p, sum of p log p

    def add(self, seen: Seen) -> None:
        """Add up probabilities."""
        found = shown(self.network, self.network.probabilities, seen.images)
        while found is not None and len(found):
            if self.seen % SPLIT == 0:
                self.sums.append((0, torch.zeros_like(found[0]), torch.zeros((), dtype=found.dtype)))
            here, found = found.split([n := min(len(found), SPLIT - self.seen % SPLIT), len(found) - n])
            count, total, logs = self.sums[-1]
            self.sums[-1] = (count + n, total + here.sum(0), logs + here.xlogy(here).sum())
            self.seen += n

    def columns(self) -> dict[str, float]:
        """Inception score."""
        if not self.sums:
            return {}
        scores = [float((logs / n - (p / n).xlogy(p / n).sum()).exp()) for n, p, logs in self.sums]
        return {"inception_score": sum(scores) / len(scores)}


class Kid:
    """Kernel distance to the reference set, of at most MOST_KEPT each."""

    def __init__(self, reference: Reference, count: int) -> None:
        self.real, self.kept = kept_features(reference), Kept(count)

    def add(self, seen: Seen) -> None:
        """Keep features."""
        self.kept.add(seen.features)

    def columns(self) -> dict[str, float]:
        """KID."""
        return {"kid": kernel_distance(self.real, self.kept.rows)}


class PrecisionRecall(Kid):
    """Improved precision and recall with k = 3 (arXiv 1904.06991), of at most MOST_KEPT each."""

    def columns(self) -> dict[str, float]:
        """Both."""
        real, fake = self.real, self.kept.rows
        return {
            "precision": coverage(real, neighbour_radius(real), fake),
            "recall": coverage(fake, neighbour_radius(fake), real),
        }


class Accuracy:
    """Share of samples that the data set's classifier gives their own label; none without a classifier."""

    def __init__(self, reference: Reference, count: int) -> None:
        self.network, self.count, self.right = reference.network, count, 0

    def add(self, seen: Seen) -> None:
        """Count those."""
        self.right += recognised(self.network, seen.images, seen.labels) or 0

    def columns(self) -> dict[str, float]:
        """Share."""
        return {"accuracy": self.right / self.count} if self.network.knows_labels else {}


class Duplicates:
    """Shares of samples that equal another sample, and that equal a training image or a view, pixel by pixel."""

    def __init__(self, reference: Reference, count: int) -> None:
        self.trained, self.count = reference.trained, count
        self.different, self.memorised = set[bytes](), 0

    def add(self, seen: Seen) -> None:
        """Hash them."""
        keys = image_keys(seen.images)
        self.different.update(keys)
        self.memorised += sum(key in self.trained for key in keys)

    def columns(self) -> dict[str, float]:
        """Shares."""
        found = {"duplicates": 1 - len(self.different) / self.count}
        return found | ({"memorised": self.memorised / self.count} if self.trained else {})


class Validity:
    """Share of well-formed members of their class; none where the data set cannot tell."""

    def __init__(self, reference: Reference, count: int) -> None:
        self.check, self.count, self.formed = reference.data.well_formed, count, 0

    def add(self, seen: Seen) -> None:
        """Count those."""
        self.formed += 0 if self.check is None else int(self.check(seen.images, seen.labels).sum())

    def columns(self) -> dict[str, float]:
        """Share."""
        return {} if self.check is None else {"validity": self.formed / self.count}


METRICS: dict[str, Callable[[Reference, int], Metric]] = {
    "fid": Fid,
    "sfid": Sfid,
    "inception_score": InceptionScore,
    "kid": Kid,
    "precision_recall": PrecisionRecall,
    "accuracy": Accuracy,
    "duplicates": Duplicates,
    "validity": Validity,
}


# Metrics that depend on the feature network alone, and the images.
FEATURED = ("fid", "sfid", "inception_score", "kid", "precision_recall")


def kept_features(reference: Reference) -> Tensor:
    """Features of real images (M, F); raises InputError where there is but a file of moments."""
    if reference.real.kept is None:
        raise InputError(
            f"the reference {reference.title} has moments but no images, which kid and precision_recall need: leave "
            "them out of evaluate.metrics, or make the file by `radar reference`"
        )
    return reference.real.kept


def check_metrics(names: Sequence[str]) -> None:
    """Raise InputError for an unknown metric."""
    for name in names:
        choose("metric", name, METRICS)


class Scores:
    """The named metrics of so many samples, by the networks of all references; the first has all of them."""

    def __init__(self, names: Sequence[str], references: Sequence[Reference], count: int) -> None:
        self.references, self.metrics = references, list[list[Metric]]()
        for number, reference in enumerate(references):
            own = names if number == 0 else [name for name in FEATURED if name in names]
            self.metrics.append([choose("metric", name, METRICS)(reference, count) for name in own])

    def add(self, images: Tensor, labels: Tensor) -> None:
        """Take samples (B, 3, H, W) uint8 with labels (B,)."""
        for reference, metrics in zip(self.references, self.metrics, strict=True):
            seen = Seen(images, labels, extract(reference.network, images))
            for metric in metrics:
                metric.add(seen)

    def columns(self) -> dict[str, float]:
        """Figures of all; those of further networks name them: fid[label]."""
        first, *further = [[metric.columns() for metric in metrics] for metrics in self.metrics]
        columns = {key: value for found in first for key, value in found.items()}
        for reference, found in zip(self.references[1:], further, strict=True):
            label = reference.network.label
            columns |= {f"{k}[{label}]": v for each in found for k, v in each.items() if k != "floor_images"}
        return columns


def score(names: Sequence[str], images: Tensor, labels: Tensor, reference: Reference) -> dict[str, float]:
    """Compute the named metrics of samples (B, 3, H, W) uint8 with labels (B,) that are in memory."""
    scores = Scores(names, [reference], len(images))
    scores.add(images, labels)
    return scores.columns()
