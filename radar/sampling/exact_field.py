"""The gap of a known discrete field, exactly and by the sampler with exact conditionals.

An Ising field on a small grid, p(x) proportional to exp(coupling * number of equal neighbours), is enumerated. The
sampler draws from it order by order, with the true conditional of every cell given the earlier steps, as a perfect
model would: what is then wrong with the images is the price of decoding in parallel alone.
Legend: N cells, M images, T targets.
"""

from typing import Any

import torch
from torch import Tensor

from radar.attention import VARIANTS, Slots
from radar.config.sampling import SampleConfig
from radar.decoding.groups import decode_permutation, step_sizes
from radar.sampling.passes import plan_passes
from radar.sampling.sampler import sample_tokens


def ising(h: int, w: int, coupling: float) -> Tensor:
    """Probabilities of all images, (2,) * N float64, axis i for cell i."""
    cells = h * w
    images = (torch.arange(2**cells)[:, None] >> torch.arange(cells - 1, -1, -1) & 1).view(-1, h, w)
    equal = (images[:, 1:] == images[:, :-1]).sum((1, 2)) + (images[:, :, 1:] == images[:, :, :-1]).sum((1, 2))
    return (coupling * equal.double()).softmax(0).view((2,) * cells)


def marginal(p: Tensor, cells: list[int]) -> Tensor:
    """Probabilities of some cells, an axis for each in the order given."""
    kept = sorted(cells)
    others = [i for i in range(p.ndim) if i not in kept]
    return (p.sum(others) if others else p).permute([kept.index(cell) for cell in cells])


def entropy(p: Tensor) -> float:
    """In nats."""
    return float(torch.special.entr(p).sum())


def exact_gap(p: Tensor, step: Tensor) -> float:
    """KL divergence of the field from what the grouped sampler draws, in nats: a sum of entropies given the past."""
    total, past = -entropy(p), list[int]()
    for k in range(int(step.max()) + 1):
        group = torch.nonzero(step == k).flatten().tolist()
        total += sum(entropy(marginal(p, [*past, cell])) for cell in group) - len(group) * entropy(marginal(p, past))
        past += group
    return total


class ExactModel:
    """Stands for a transformer that has learned the field: logits are log conditionals given what is known."""

    def __init__(self, p: Tensor, permutation: Tensor) -> None:
        self.p, self.permutation = p, permutation.tolist()
        self.classes = 1

    def empty_cache(self, *_: Any) -> "ExactModel":
        """Nothing is kept."""
        return self

    def rewind(self, slots: int) -> None:
        """Nothing is forgotten."""

    def __call__(self, slots: Slots, content: Tensor, *others: Any, **named: Any) -> Tensor:
        """Logits (M, T, 2)."""
        known = slots.is_token & (slots.rank >= 0)
        past = [self.permutation[rank] for rank in slots.rank[known].tolist()]
        bits = 2 ** torch.arange(len(past) - 1, -1, -1)
        row = (content[:, known] * bits).sum(1)
        logits = []
        for target in slots.predictions.target.tolist():
            joint = marginal(self.p, [*past, self.permutation[target]]).reshape(-1, 2)
            logits.append((joint / joint.sum(1, keepdim=True)).log()[row])
        return torch.stack(logits, 1)


def draw(p: Tensor, step: Tensor, images: int, seed: int = 0) -> Tensor:
    """Count the images (2^N,) that the sampler draws with exact conditionals."""
    permutation = decode_permutation(step)
    passes = plan_passes(VARIANTS["nested"](step_sizes(step)), revise=False)
    model: Any = ExactModel(p, permutation)
    counts = torch.zeros(p.numel(), dtype=torch.long)
    for start in range(0, images, 20000):
        numbers = range(start, min(start + 20000, images))
        labels = torch.zeros(len(numbers), dtype=torch.long)
        tokens = sample_tokens(model, passes, permutation, labels, SampleConfig(seed=seed), numbers)
        counts += torch.bincount((tokens * 2 ** torch.arange(p.ndim - 1, -1, -1)).sum(1), minlength=p.numel())
    return counts


def measured_gap(p: Tensor, counts: Tensor) -> tuple[float, float]:
    """KL divergence of the field from what was drawn, less its bias by counting, and half of its 95% interval."""
    field, images = p.flatten(), counts.sum()
    drawn = counts.clamp(min=0.5) / images  # an image that was not drawn may only be rare
    bias = 0.5 * ((field / drawn).sum() - 1) / images
    spread = ((field**2 / drawn).sum() - 1).clamp(min=0) / images
    return float((field * (field / drawn).log()).sum() - bias), 1.96 * float(spread) ** 0.5


def covariance_of(p: Tensor) -> Tensor:
    """Covariance (N, N) float64 of the cells, as numbers -1 and 1."""
    spins = torch.stack([2 * marginal(p, [i])[1] - 1 for i in range(p.ndim)])
    pairs = [[1.0 if i == j else _product(p, i, j) for j in range(p.ndim)] for i in range(p.ndim)]
    return torch.tensor(pairs, dtype=torch.float64) - torch.outer(spins, spins)


def _product(p: Tensor, i: int, j: int) -> float:
    both = marginal(p, [i, j])
    return float(both[0, 0] + both[1, 1] - both[0, 1] - both[1, 0])
