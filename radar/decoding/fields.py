"""How cells of real images depend on each other: a covariance of the grid, estimated from tokens [ours].

Both estimators give the field of one number per cell that the independence gap is computed of: stationary (the same for
all pairs of cells at one displacement), with variance 1.
Legend: M images, N = h * w cells, V vocabulary, C code width.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.covariance import ledoit_wolf
from torch import Tensor

from radar.config.lookup import choose
from radar.data.token_arrays import TokenSplit
from radar.tokenizers import Tokenizer

Matrix = NDArray[np.float64]
PAIRS_AVERAGED = 32
IMAGES = 20000  # are enough for the field of any grid up to 32x32
LEAST_EIGENVALUE = 1e-3  # eigenvalue of an estimate: what is below is noise of the estimate, and would rule the gap


def class_residuals(features: Tensor, labels: Tensor | None) -> Tensor:
    """Take off the mean of each cell, of all images or those of a class; features (M, N, C), labels (M,) or None."""
    groups = torch.zeros(len(features), dtype=torch.long) if labels is None else labels
    residuals = features.clone()
    for group in groups.unique():
        residuals[groups == group] -= features[groups == group].mean(0)
    return residuals


def by_embeddings(tokens: Tensor, codes: Tensor, labels: Tensor | None, grid: tuple[int, int]) -> Matrix:
    """Covariance (N, N) of the codes (M, N, C), each channel in units of its standard deviation, by Ledoit and Wolf.

    A field of C channels that depend alike and not on each other has C times the gap. Where nothing varies (one image
    of each class), cells are independent.
    """
    residuals = class_residuals(codes.double(), labels)
    scaled = residuals / residuals.std((0, 1)).clamp(min=1e-9)
    rows = scaled.permute(0, 2, 1).flatten(0, 1).numpy()
    return stationary(ledoit_wolf(rows, assume_centered=True)[0], grid)


def by_information(tokens: Tensor, codes: Tensor, labels: Tensor | None, grid: tuple[int, int]) -> Matrix:
    """Covariance of the Gaussian field whose cells have the mutual information of the tokens (M, N).

    I = -log(1 - rho^2) / 2, with I the mean over the pairs of cells at one displacement (PAIRS of them at most), and
    given the class, where there are labels, over the classes. Needs many images: more than the square of the codes in
    use (of each class, given the class).
    """
    h, w = grid
    groups = [tokens] if labels is None else [tokens[labels == label] for label in labels.unique()]
    rows, columns = np.divmod(np.arange(h * w), w)
    field = np.eye(h * w)
    for dr in range(h):
        for dc in range(-w + 1, w):
            first = np.flatnonzero((rows + dr < h) & (columns + dc >= 0) & (columns + dc < w))
            if (dr, dc) <= (0, 0) or not len(first):
                continue
            second = first + dr * w + dc
            chosen = np.linspace(0, len(first) - 1, min(len(first), PAIRS_AVERAGED)).round().astype(int)
            nats = [
                len(group) / len(tokens) * mutual_information(group[:, first[i]], group[:, second[i]])
                for i in chosen
                for group in groups
            ]
            rho = (1 - np.exp(-2 * max(0.0, sum(nats) / len(chosen)))) ** 0.5
            field[first, second] = field[second, first] = rho
    return positive(field)


def mutual_information(a: Tensor, b: Tensor) -> float:
    """Mutual information of two lists of tokens in nats, less its bias by counting (Miller and Madow)."""
    codes, pairs = int(max(a.max(), b.max())) + 1, len(a)
    joint = torch.bincount(a.long() * codes + b.long(), minlength=codes**2).view(codes, codes).double() / pairs
    product = joint.sum(1, keepdim=True) * joint.sum(0, keepdim=True)
    plain = (joint * (joint / product).log())[joint > 0].sum()
    cells = (joint > 0).sum() - (joint.sum(1) > 0).sum() - (joint.sum(0) > 0).sum() + 1
    return float(plain - cells / (2 * pairs))


def stationary(covariance: Matrix, grid: tuple[int, int]) -> Matrix:
    """Average over all pairs of one displacement, in units of the variance; made positive definite."""
    rows, columns = np.divmod(np.arange(len(covariance)), grid[1])
    displacement = (rows[None] - rows[:, None]) * 2 * grid[1] + columns[None] - columns[:, None]
    _, kind = np.unique(np.abs(displacement), return_inverse=True)  # there and back are alike
    kind = kind.reshape(covariance.shape)
    if not np.diag(covariance).any():
        return np.eye(len(covariance))
    means = np.bincount(kind.ravel(), covariance.ravel()) / np.bincount(kind.ravel())
    return positive(means[kind] / np.diag(covariance).mean())


def positive(field: Matrix) -> Matrix:
    """Nearest matrix of eigenvalues of at least LEAST, with variances 1.

    Rounded: in the last digits processors differ, and files should not.
    """
    values, vectors = np.linalg.eigh(field)
    raised = (vectors * np.maximum(values, LEAST_EIGENVALUE)) @ vectors.T
    scale = np.sqrt(np.diag(raised))
    found: Matrix = (raised / np.outer(scale, scale)).round(8) + 0.0  # and no -0.0
    return found


ESTIMATORS: dict[str, Callable[[Tensor, Tensor, Tensor | None, tuple[int, int]], Matrix]] = {
    "embeddings": by_embeddings,
    "information": by_information,
}


def token_field(
    split: TokenSplit,
    tokenizer: Tokenizer,
    grid: tuple[int, int],
    estimate: str = "embeddings",
    pooled: bool = False,
    images: int = IMAGES,
) -> Tensor:
    """Covariance (N, N) float64 of the first `images` images of a split, given the class or over all classes.

    Raises InputError for an unknown estimator.
    """
    by_estimate = choose("estimator", estimate, ESTIMATORS)
    tokens, labels = split.gather(np.arange(min(len(split), images)))
    device = next((weight.device for weight in tokenizer.state_dict().values()), tokens.device)
    codes = tokenizer.embed(tokens.to(device)).cpu()
    return torch.from_numpy(by_estimate(tokens, codes, None if pooled else labels, grid))
