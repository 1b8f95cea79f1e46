"""What a condition, as the class, does to a block beside being a token: nothing, or adaLN.

To add a way: a module, and a line in CONDITIONING. Legend: B images, S slots, D width, P parts that are conditioned.
"""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from radar.config.lookup import choose


class Effect(NamedTuple):
    """What is done to one part of a block: its inputs are scaled and shifted, its output is gated; each (B, 1, D)."""

    shift: Tensor
    scale: Tensor
    gate: Tensor | None = None


def enter(x: Tensor, effect: Effect | None) -> Tensor:
    """Inputs (B, S, D), normalised, under an effect."""
    return x if effect is None else x * (1 + effect.scale) + effect.shift


def leave(x: Tensor, effect: Effect | None) -> Tensor:
    """What is added (B, S, D), under an effect."""
    return x if effect is None or effect.gate is None else x * effect.gate


class Unconditioned(nn.Module):
    """No effect: the condition is known by its token alone."""

    vectors = 0  # that it makes of a condition for each part

    def __init__(self, dim: int, parts: int, gated: bool = True) -> None:
        super().__init__()
        self.parts = parts

    def forward(self, condition: Tensor) -> list[Effect | None]:
        """Nothing, for each part."""
        return [None] * self.parts


class AdaLN(nn.Module):
    """adaLN-zero (DiT, arXiv 2212.09748): effects are linear in the condition, and zero at first.

    So a new block changes nothing. `gated`: whether outputs are, too.
    """

    vectors = 3

    def __init__(self, dim: int, parts: int, gated: bool = True) -> None:
        super().__init__()
        self.parts = parts
        self.linear = nn.Linear(dim, (self.vectors if gated else self.vectors - 1) * parts * dim)

    def close(self) -> None:
        """Close all gates: no effect of any condition."""
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, condition: Tensor) -> list[Effect | None]:
        """Effects on the parts by a condition (B, D), after its SiLU."""
        made = self.linear(F.silu(condition))[:, None].chunk(self.parts, dim=-1)
        return [Effect(*part.split(condition.shape[1], dim=-1)) for part in made]


CONDITIONING: dict[str, type[Unconditioned] | type[AdaLN]] = {"token": Unconditioned, "adaln": AdaLN}


def build_conditioning(name: str, dim: int, parts: int, gated: bool = True) -> nn.Module:
    """Build it for a module of so many parts; raises InputError for an unknown name."""
    return choose("conditioning", name, CONDITIONING)(dim, parts, gated)


def initialise(model: nn.Module) -> None:
    """Draw the weights of layers and embeddings from a normal distribution of deviation 0.02; biases, gates: zero."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
    for module in model.modules():
        if isinstance(module, AdaLN):
            module.close()
