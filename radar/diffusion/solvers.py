"""Drawing codes from noise: one pass of the network per level that is used.

To add a solver: a function, a line in SOLVERS. Legend: B images, N cells, C channels, K levels.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from radar.config.lookup import choose
from radar.config.sampling import SampleConfig
from radar.diffusion.denoiser import Denoiser
from radar.diffusion.process import Chain
from radar.seeding import Stream, generator

PASSES = 250  # by default, as published

Fresh = Callable[[], Tensor]
# (chain, x (B, N, C), predicted noise, where its variance lies or None, level (B,), fresh noise; None at the lowest
# level) -> x one level lower
Solver = Callable[[Chain, Tensor, Tensor, Tensor | None, Tensor, Fresh | None], Tensor]


def ancestral(chain: Chain, x: Tensor, noise: Tensor, share: Tensor | None, k: Tensor, fresh: Fresh | None) -> Tensor:
    """Draw from the predicted distribution of the step back (DDPM, arXiv 2006.11239, algorithm 2)."""
    mean = chain.mean_before(chain.clean(x, noise, k), x, k)
    if fresh is None:
        return mean
    share = torch.full_like(x, 1.0) if share is None else share
    return mean + (0.5 * chain.log_variance(share, k)).exp() * fresh()


def ddim(chain: Chain, x: Tensor, noise: Tensor, share: Tensor | None, k: Tensor, fresh: Fresh | None) -> Tensor:
    """Go back without fresh noise (DDIM, arXiv 2010.02502, equation 12 with sigma = 0)."""
    signal = chain.before[k].float()[:, None, None]
    return signal.sqrt() * chain.clean(x, noise, k) + (1 - signal).sqrt() * noise


SOLVERS: dict[str, Solver] = {"ancestral": ancestral, "ddim": ddim}


def solver_of(settings: SampleConfig) -> Solver:
    """Find the solver; raises InputError for an unknown one."""
    return choose("solver", settings.solver or "ancestral", SOLVERS)


def passes_of(settings: SampleConfig) -> int:
    """How many levels are used, K."""
    return PASSES if settings.passes is None else settings.passes


class ImageNoise:
    """Normal numbers, one lot after the other, of the images of these numbers: a row depends on (seed, i) alone."""

    def __init__(self, seed: int, images: Sequence[int]) -> None:
        self.generators = [generator(Stream.SAMPLE, seed, image) for image in images]

    def __call__(self, *shape: int) -> Tensor:
        """Numbers (B, *shape)."""
        return torch.stack([torch.randn(*shape, generator=own) for own in self.generators])


def denoise(
    model: Denoiser, chain: Chain, labels: Tensor, settings: SampleConfig, images: Sequence[int]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Draw codes (B, N, C) from noise; after each of K passes: codes at the next level, and those without noise.

    Args:
        model: in eval mode.
        chain: the levels that are used.
        labels: (B,) classes.
        settings: solver, guidance, temperature of the fresh noise, seed.
        images: B numbers; image i depends on (settings.seed, i) and its label alone.
    """
    solver = solver_of(settings)
    shape, device, noise = (model.angles.shape[2], model.channels), labels.device, ImageNoise(settings.seed, images)
    x = noise(*shape).to(device)

    def fresh() -> Tensor:
        return noise(*shape).to(device) * settings.temperature

    for number in reversed(range(len(chain.times))):
        k = torch.full_like(labels, number)
        predicted, share = guided(model, x, chain.times[k], labels, settings)
        clean = chain.clean(x, predicted, k)
        x = solver(chain, x, predicted, share, k, fresh if number else None)
        yield x, clean


def guided(
    model: Denoiser, x: Tensor, time: Tensor, labels: Tensor, settings: SampleConfig
) -> tuple[Tensor, Tensor | None]:
    """Noise (B, N, C) in x, guided in all channels or in the first alone, and where its variance lies."""
    scale, channels = settings.guidance, settings.guidance_channels or model.channels
    if scale == 1:
        predicted = model(x, time, labels).float()
    else:
        both = torch.cat([labels, torch.full_like(labels, model.classes)])
        predicted, other = model(x.repeat(2, 1, 1), time.repeat(2), both).float().chunk(2)
        first = other[..., :channels] + scale * (predicted[..., :channels] - other[..., :channels])
        predicted = torch.cat([first, predicted[..., channels:]], -1)
    noise, *share = predicted.split(model.channels, dim=-1)
    return noise, share[0] if share else None
