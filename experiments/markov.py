"""`radar markov --grid 3x4`: the gap of a known discrete field, exactly and by the sampler with exact conditionals.

An Ising field on a small grid, p(x) proportional to exp(coupling * number of equal neighbours), is enumerated. The
sampler draws from it order by order, with the true conditional of every cell given the earlier steps, as a perfect
model would: what is then wrong with the images is the price of decoding in parallel alone.
Legend: N cells, M images, T targets.
"""

import argparse
import json
from math import log
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib.pyplot as plt
import torch
from torch import Tensor

from experiments.orders import parse_grid
from experiments.pictures import save_figure
from radar.attention import VARIANTS, Slots
from radar.config.options import OrderConfig, SampleConfig
from radar.decoding.orders import decode_permutation, decode_steps, step_sizes
from radar.decoding.total_correlation import independence_gap
from radar.errors import InputError
from radar.files import replacing
from radar.sampling.passes import plan_passes
from radar.sampling.sampler import sample_tokens

LEAST_CELLS, MOST_CELLS = 4, 16  # as many as the most steps below; 65,536 images
STRONGEST = 5  # coupling; beyond, nearly all images are of one colour and the covariance is singular
SMALL_ORDERS = {
    "raster": OrderConfig("raster"),
    "diagonal": OrderConfig("diagonal"),
    "rows": OrderConfig("raster", steps=3),
    "radial": OrderConfig("radial", steps=4),
    "multi_center": OrderConfig("multi_center", steps=4),
    "random": OrderConfig("random", steps=4),
    "halton": OrderConfig("halton", steps=4),
    "lpd": OrderConfig("lpd", steps=4),
    "optimised": OrderConfig("optimised", steps=4, length=1.5),
    "optimised, 2": OrderConfig("optimised", steps=2, length=1.5),
    "halton, 2": OrderConfig("halton", steps=2),
}


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
        self.classes, self.cache_layers, self.query = 1, 1, torch.zeros(1)
        self.shape = SimpleNamespace(dim=1, heads=1, layers=1)

    def __call__(self, slots: Slots, content: Tensor, *others: Any) -> Tensor:
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


def main(args: argparse.Namespace) -> None:
    """Run `radar markov`."""
    h, w = parse_grid(args.grid)
    if not LEAST_CELLS <= h * w <= MOST_CELLS:
        raise InputError(
            f"--grid {args.grid} is not possible: {LEAST_CELLS} to {MOST_CELLS} cells, all images are listed"
        )
    if not abs(args.coupling) <= STRONGEST:
        raise InputError(f"--coupling {args.coupling} is not possible: -{STRONGEST} to {STRONGEST}")
    if args.images < 1:
        raise InputError(f"--images {args.images} is not possible: at least 1")
    if Path(args.out).suffix == ".json":
        raise InputError(f"--out {args.out} is the name of the picture; the JSON is written beside it")
    p = ising(h, w, args.coupling)
    spins = torch.stack([2 * marginal(p, [i])[1] - 1 for i in range(h * w)])
    pairs = [[1.0 if i == j else _product(p, i, j) for j in range(h * w)] for i in range(h * w)]
    covariance = torch.tensor(pairs, dtype=torch.float64) - torch.outer(spins, spins)
    said = f"coupling {args.coupling:g}, entropy {entropy(p):.3f} of {h * w * log(2):.3f} nats, {args.images} images"
    print(f"Ising field, {h}x{w} cells, {said}")
    print(f"{'order':14} {'K':>3} {'exact gap':>10} {'sampled':>18} {'Gaussian gap':>13}")
    rows = []
    for name, order in SMALL_ORDERS.items():
        step = decode_steps(order, h, w)
        exact, (sampled, half) = exact_gap(p, step), measured_gap(p, draw(p, step, args.images))
        gaussian = float(independence_gap(step, covariance).sum())
        rows.append({"order": name, "steps": int(step.max()) + 1, "exact": exact, "sampled": sampled, "half": half})
        rows[-1]["gaussian"] = gaussian
        print(f"{name:14} {int(step.max()) + 1:3} {exact:10.4f} {sampled:9.4f} ± {half:.4f} {gaussian:13.4f}")
    save(rows, Path(args.out))
    print(args.out)


def _product(p: Tensor, i: int, j: int) -> float:
    both = marginal(p, [i, j])
    return float(both[0, 0] + both[1, 1] - both[0, 1] - both[1, 0])


def save(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw sampled against exact, and the Gaussian gap against it; and write the rows as JSON beside the picture."""
    figure, axis = plt.subplots(figsize=(5.5, 4.2))
    exact = [row["exact"] for row in rows]
    axis.errorbar(exact, [row["sampled"] for row in rows], [row["half"] for row in rows], fmt="o", label="sampled")
    axis.plot(exact, [row["gaussian"] for row in rows], "x", label="Gaussian field of the same covariance")
    axis.axline((0, 0), slope=1, color="0.6", linewidth=1)
    axis.set_xlabel("exact gap (nats)")
    axis.set_ylabel("nats")
    axis.legend(fontsize=8)
    axis.grid(alpha=0.3)
    save_figure(figure, path)
    with replacing(path.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(rows, indent=1))
