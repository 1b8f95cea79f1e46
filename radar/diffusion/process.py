"""The diffusion of codes: how noise is added, and what is known of the step before.

Equations of DDPM (arXiv 2006.11239), and of improved DDPM (arXiv 2102.09672) for a learned variance. x_t is
sqrt(a_t) x_0 + sqrt(1 - a_t) e with noise e and the share of signal a_t, the running product of 1 - beta_t.
Legend: T noise levels, K levels that are used, B images, N cells, C channels.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from radar.config.training import DiffusionConfig
from radar.errors import InputError

PUBLISHED = 1000  # levels that the published bounds are for
MOST_SIGNAL = 1e-2  # share of it in what sampling begins with as noise


@dataclass(frozen=True)
class Chain:
    """The noise levels that are used, from the lowest: all in training, some in sampling.

    Attributes:
        times: (K,) numbers of the levels, of 0..T-1.
        signal: (K,) float64, a_t of them.
    """

    times: Tensor
    signal: Tensor

    @classmethod
    def whole(cls, config: DiffusionConfig) -> "Chain":
        """All T levels; beta_t grows linearly, between bounds given for 1,000 levels, which scale with their number.

        Raises InputError where the last level is not as good as noise, or nothing else.
        """
        share = PUBLISHED / config.levels
        beta = share * torch.linspace(config.beta_start, config.beta_end, config.levels, dtype=torch.float64)
        signal = (1 - beta).cumprod(0)
        given = f"diffusion.beta_start={config.beta_start}, beta_end={config.beta_end}"
        if config.beta_start > config.beta_end:
            raise InputError(f"{given} is not possible: they must grow")
        if not 0 < float(signal[-1]) <= MOST_SIGNAL or float(beta.max()) >= 1:
            raise InputError(
                f"{given}, levels={config.levels} is not possible: the last level must hold a share of signal up to "
                f"{MOST_SIGNAL}, and more than none, not {float(signal[-1]):.3g}"
            )
        return cls(torch.arange(config.levels), signal)

    def respaced(self, count: int) -> "Chain":
        """`count` levels of them, evenly spread, from the last to the first; one is the last."""
        kept = torch.linspace(len(self.times) - 1, 0, count, dtype=torch.float64).round().long().flip(0)
        return Chain(self.times[kept], self.signal[kept])

    def to(self, device: torch.device) -> "Chain":
        """The same there."""
        return self if self.times.device == device else Chain(self.times.to(device), self.signal.to(device))

    @cached_property
    def before(self) -> Tensor:
        """(K,) share of signal one level lower."""
        return torch.cat([torch.ones_like(self.signal[:1]), self.signal[:-1]])

    @cached_property
    def beta(self) -> Tensor:
        """(K,) variance of the noise from one level to the next."""
        return 1 - self.signal / self.before

    @cached_property
    def log_variances(self) -> tuple[Tensor, Tensor]:
        """(K,) logarithms of the least and the largest variance of the step back; the first has none, and the second's.

        They are those for data without any spread, and for data that are noise (improved DDPM, equation 15).
        """
        least = self.beta * (1 - self.before) / (1 - self.signal)
        return torch.cat([least[1:2], least[1:]]).log() if len(least) > 1 else self.beta.log(), self.beta.log()

    def noisy(self, x: Tensor, noise: Tensor, k: Tensor) -> Tensor:
        """Codes (B, N, C) at level k (B,)."""
        return _at(self.signal.sqrt(), k) * x + _at((1 - self.signal).sqrt(), k) * noise

    def clean(self, x: Tensor, noise: Tensor, k: Tensor) -> Tensor:
        """Codes without the noise that is in x (B, N, C)."""
        return (x - _at((1 - self.signal).sqrt(), k) * noise) / _at(self.signal.sqrt(), k)

    def mean_before(self, clean: Tensor, x: Tensor, k: Tensor) -> Tensor:
        """Mean of the codes one level lower, given those without noise (DDPM, equation 7)."""
        of_clean = self.before.sqrt() * self.beta / (1 - self.signal)
        of_noisy = (1 - self.beta).sqrt() * (1 - self.before) / (1 - self.signal)
        return _at(of_clean, k) * clean + _at(of_noisy, k) * x

    def log_variance(self, share: Tensor, k: Tensor) -> Tensor:
        """Logarithm of the variance of the step back: `share` (B, N, C) from -1, the least, to 1, the largest."""
        least, largest = (_at(each, k) for each in self.log_variances)
        return least + (share + 1) / 2 * (largest - least)

    def bound(self, x: Tensor, noisy: Tensor, noise: Tensor, share: Tensor, k: Tensor) -> Tensor:
        """Variational bound (B,) of this level in bits per number, of which only the variance learns.

        The Kullback-Leibler divergence of the true step back from the predicted one; at the lowest level the predicted
        density of the codes, as the codes are no pixels [ours].
        """
        mean = self.mean_before(self.clean(noisy, noise.detach(), k), noisy, k)
        log_variance, least = self.log_variance(share, k), _at(self.log_variances[0], k)
        first = (k == 0)[:, None, None]
        off = torch.where(first, x - mean, self.mean_before(x, noisy, k) - mean)
        spread = torch.where(first, 0.0, (least - log_variance).exp())
        constant = torch.where(first, math.log(2 * math.pi), -1 - least)
        nats = 0.5 * (constant + log_variance + spread + off.square() * (-log_variance).exp())
        return nats.flatten(1).mean(1) / math.log(2)


def _at(values: Tensor, k: Tensor) -> Tensor:
    """Values (K,) at levels k (B,), as float32 (B, 1, 1)."""
    return values[k].float()[:, None, None]
