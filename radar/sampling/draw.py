"""Drawing tokens: random numbers by image, filters, and one token from each distribution.

Legend: B images, T targets of one pass, V vocabulary.
"""

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from radar.seeding import Stream, generator


def image_noise(seed: int, images: Sequence[int], count: int, stream: Stream = Stream.SAMPLE) -> Tensor:
    """Uniform numbers (B, count) of the images numbered `images`: row i depends on (stream, seed, i) alone."""
    return torch.stack([torch.rand(count, generator=generator(stream, seed, image)) for image in images])


def filter_probabilities(logits: Tensor, temperature: float, top_k: int, top_p: float) -> Tensor:
    """Probabilities (..., V) after temperature, top-k, then top-p (the smallest set that reaches the mass)."""
    probabilities = (logits if temperature == 1 else logits / temperature).softmax(-1)
    if not top_k and top_p == 1:
        return probabilities
    ranked, index = probabilities.sort(dim=-1, descending=True)
    if top_k:
        ranked[..., top_k:] = 0
    mass = ranked.sum(-1, keepdim=True)
    ranked = ranked * (ranked.cumsum(-1) - ranked < top_p * mass)
    return torch.zeros_like(ranked).scatter(-1, index, ranked / ranked.sum(-1, keepdim=True))


def draw(probabilities: Tensor, noise: Tensor) -> Tensor:
    """Invert the distribution function: tokens (...) from probabilities (..., V) and one uniform number each.

    In two levels, first the block of codes, then the code in it: one pass over V instead of a running sum of it. A code
    of probability zero is never drawn.
    """
    blocks = probabilities.unflatten(-1, (-1, _block_width(probabilities.shape[-1])))
    masses = blocks.sum(-1)
    block, rest = _invert(masses, noise * masses.sum(-1))
    inside = blocks.gather(-2, block[..., None, None].expand(*block.shape, 1, blocks.shape[-1]))[..., 0, :]
    return block * blocks.shape[-1] + _invert(inside, rest)[0]  # type: ignore[no-any-return]


def _invert(masses: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
    """Index (...) of the first running sum of masses (..., M) above `level` (...), and what is left of the level."""
    sums = masses.cumsum(-1)  # in float32, as fine as the noise with its 24 bits
    below = torch.nextafter(sums[..., -1], torch.zeros_like(level))
    level = torch.minimum(level, below).clamp(min=0)[..., None]
    index = torch.searchsorted(sums, level, right=True).clamp(max=masses.shape[-1] - 1)  # only for NaN
    return index[..., 0], (level - sums.gather(-1, index) + masses.gather(-1, index))[..., 0]


@functools.cache
def _block_width(vocabulary: int) -> int:
    """Return the divisor of V that is nearest to its root from below."""
    return next(width for width in range(math.isqrt(vocabulary), 0, -1) if vocabulary % width == 0)
