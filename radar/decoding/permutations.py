"""A permutation of the cells for each image, in training and in sampling.

To add one: a function and a line in PERMUTATIONS.

Legend: B images, N cells.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from radar.config.options import OrderConfig
from radar.decoding.groups import decode_permutation
from radar.decoding.orders import decode_steps
from radar.parts import Part
from radar.seeding import Stream, derive, generator

# (order, own (N,) or (B, N), h, w, part of a batch, seed, progress) -> permutations (B, N), or None for its own.
Permute = Callable[[OrderConfig, Tensor, int, int, Part, int, float], Tensor | None]


def fixed(order: OrderConfig, own: Tensor, h: int, w: int, part: Part, seed: int, progress: float) -> Tensor | None:
    """Keep the order's own."""
    return None


def reseeded(order: OrderConfig, own: Tensor, h: int, w: int, part: Part, seed: int, progress: float) -> Tensor | None:
    """Draw the order again with a seed of its own for each image: (B, N), all with the same group sizes.

    Raises InputError for an order that takes no seed.
    """
    return decode_permutation(_seeded(order, h, w, [derive(seed, part.first + i) for i in range(part.images)]))


def _seeded(order: OrderConfig, h: int, w: int, seeds: Sequence[int]) -> Tensor:
    """Steps (B, N) of an order drawn once with each seed."""
    return torch.stack([decode_steps(replace(order, seed=seed % 2**32), h, w) for seed in seeds])


def random(order: OrderConfig, own: Tensor, h: int, w: int, part: Part, seed: int, progress: float) -> Tensor | None:
    """Draw a random permutation of the cells for each image, whatever the order, whose group sizes stay: (B, N)."""
    return _permutations(part, h * w, seed)


def _permutations(part: Part, cells: int, seed: int) -> Tensor:
    return part.of(torch.rand(part.whole, cells, generator=torch.Generator().manual_seed(seed))).argsort(1)


def annealed(order: OrderConfig, own: Tensor, h: int, w: int, part: Part, seed: int, progress: float) -> Tensor | None:
    """RAR (arXiv 2411.00776): a random permutation, ever more rarely, and the order itself otherwise.

    Its share is 1 for the first half of the training and falls linearly to 0 in the third quarter, as in the paper
    (epochs 200 to 300 of 400).
    """
    drawn = _permutations(part, h * w, seed)
    share = min(1.0, max(0.0, (0.75 - progress) / 0.25))
    kept = part.of(torch.rand(part.whole, 1, generator=generator(seed, 1))) >= share
    return torch.where(kept, own, drawn)


PERMUTATIONS: dict[str, Permute] = {"fixed": fixed, "reseeded": reseeded, "random": random, "annealed": annealed}


def image_steps(order: OrderConfig, h: int, w: int, seed: int, images: Sequence[int]) -> Tensor:
    """Draw an order with a seed for each image of the sampler: (B, N), row i a function of (seed, images[i]) alone."""
    return _seeded(order, h, w, [derive(Stream.IMAGE_ORDER, seed, image) for image in images])
