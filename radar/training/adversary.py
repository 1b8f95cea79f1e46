"""A discriminator that is to take restored images for real: VQGAN (arXiv 2012.09841), patches as pix2pix has them.

Both losses are one sum, so that one optimizer step trains both sides at once [ours; VQGAN takes turns].
Legend: B images of H x W pixels, p x q patches.
"""

from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from radar.config.training import TrainConfig
from radar.errors import InputError
from radar.parts import Part
from radar.training.devices import over_devices

HALVINGS = 3  # of an image of 64 pixels a side and more; smaller ones have fewer
SMALLEST = 6  # pixels per side
WIDEST = 8  # times the first layer's channels
DELTA, LARGEST = 1e-6, 1e4  # of the adaptive weight: VQGAN's equation 7; the bound is that of its code


def discriminator(width: int, side: int) -> nn.Sequential:
    """Images (B, 3, H, W) in [-1, 1] -> a logit (B, 1, p, q) per patch, above 0 where it looks real.

    Groups are normalised, not batches, so that an image's logits are its own [ours].
    """
    halvings = max(1, min(HALVINGS, side.bit_length() - 4))
    widths = [min(2**i, WIDEST) * width for i in range(halvings + 1)]
    layers: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2)]
    for i, (inputs, outputs) in enumerate(pairwise(widths)):
        stride = 2 if i < halvings - 1 else 1
        layers += [nn.Conv2d(inputs, outputs, 4, stride, 1), nn.GroupNorm(8, outputs), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 4, 1, 1))


class Judged(NamedTuple):
    """What one part of a batch says.

    Attributes:
        loss: for both sides.
        values: what is worth logging.
    """

    loss: Tensor
    values: dict[str, Tensor]


class Adversary(nn.Module):
    """The discriminator of one training, and what it asks of the tokenizer."""

    def __init__(self, config: TrainConfig, side: int) -> None:
        super().__init__()
        self.weight, self.start = config.adversarial_weight, config.adversarial_start
        self.discriminator = discriminator(config.adversarial_width, side)

    def forward(
        self, step: int, part: Part, images: Tensor, restored: Tensor, wanted: Tensor, last: nn.Parameter
    ) -> Judged:
        """Hinge losses (arXiv 1705.02894), from the step `adversarial_start` on.

        Args:
            step: optimizer steps that are done.
            part: of the batch.
            images, restored: (B, 3, H, W) in [-1, 1], and in about that.
            wanted: the loss of restoring them, to whose gradient the adversarial one is scaled.
            last: weights of the decoder's last layer, where both are measured.
        """
        if step < self.start:  # a gradient of zero, which several devices wait for
            return Judged(torch.stack([p.sum() for p in self.parameters()]).sum() * 0, {})
        there = self.discriminator(images)
        fixed = {name: p.detach() for name, p in self.discriminator.named_parameters()}
        fooled = -torch.func.functional_call(self.discriminator, fixed, (restored,)).mean()
        here = self.discriminator(restored.detach())
        told = 0.5 * (F.relu(1 - there).mean() + F.relu(1 + here).mean())
        adaptive = adaptive_weight(wanted, fooled, last, part)
        values = {"discriminator": told, "adversarial": fooled, "adaptive_weight": adaptive}
        return Judged(self.weight * adaptive * fooled + told, values)


def adaptive_weight(wanted: Tensor, fooled: Tensor, last: nn.Parameter, part: Part) -> Tensor:
    """|d wanted / d last| / |d fooled / d last|, of the whole batch on all devices: equation 7 of VQGAN."""
    share = part.weight / part.parts
    near, far = (
        over_devices(share * torch.autograd.grad(loss, last, retain_graph=True)[0]).norm() for loss in (wanted, fooled)
    )
    ratio: Tensor = near / (far + DELTA)
    return ratio.clamp(max=LARGEST).detach()


def build_adversary(config: TrainConfig, side: int) -> Adversary | None:
    """Build it where it is asked for; raises InputError for options that have no effect or are not possible."""
    if config.adversarial_weight:
        if config.adversarial_width % 8:
            raise InputError(
                f"train.adversarial_width={config.adversarial_width} is not possible: a multiple of 8 expected"
            )
        if side < SMALLEST:
            raise InputError(
                f"train.adversarial_weight={config.adversarial_weight} is not possible for images of {side} pixels a "
                f"side: at least {SMALLEST} expected"
            )
        return Adversary(config, side)
    for name in ("adversarial_start", "adversarial_lr", "adversarial_width"):
        if getattr(config, name) != getattr(TrainConfig(), name):
            raise InputError(f"train.{name}={getattr(config, name)} has no effect without train.adversarial_weight")
    return None
