"""Which class each sample has: a function of its number. To add a rule: a function and a line in LABELS.

Legend: B images, C classes.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

GOLDEN = (5**0.5 - 1) / 2


def balanced(images: Sequence[int], counts: Tensor) -> Tensor:
    """Label (B,) of image i: i modulo C, whatever the counts (C,) of the data."""
    return torch.tensor(images) % len(counts)


def as_data(images: Sequence[int], counts: Tensor) -> Tensor:
    """Labels (B,) in the shares of the data: any first images have them to within about one image per class.

    Image i stands at the fraction of (i + 1/2) times the golden ratio, among the classes side by side.
    """
    levels = ((torch.tensor(images).double() + 0.5) * GOLDEN).frac()
    ends = counts.double().cumsum(0) / counts.sum()
    return torch.searchsorted(ends, levels, right=True)


LABELS: dict[str, Callable[[Sequence[int], Tensor], Tensor]] = {"balanced": balanced, "as_data": as_data}


def label_gap(labels: Tensor, counts: Tensor) -> float:
    """Largest difference in percentage points between the shares of a class in labels (B,) and in counts (C,)."""
    shares = torch.bincount(labels, minlength=len(counts)).double() / len(labels)
    return float(100 * (shares - counts.double() / counts.sum()).abs().max())
