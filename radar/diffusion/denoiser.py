"""The network that predicts noise: the blocks of the transformer, without a mask, over all cells (DiT).

Legend: B images, N cells, C channels, D width, T noise levels.
"""

import math
from typing import cast

import torch
from torch import Tensor, nn

from radar.config.lookup import choose
from radar.config.options import ModelConfig
from radar.diffusion.spaces import Space
from radar.errors import InputError
from radar.kernels.linear import Linear
from radar.model.blocks import POSITIONS, Block, model_shape, rotary_table, run_block
from radar.model.conditioning import build_conditioning, enter, initialise
from radar.sampling.cost import Cost, block_weights, conditioning_weights

WAVES = 256  # sinusoids of a noise level
SLOWEST = 10_000.0


class Denoiser(nn.Module):
    """Noisy codes in; noise, and where its variance lies, out (DiT, arXiv 2212.09748).

    Differs from DiT: one cell is one slot; positions, norms, QK-norm and SwiGLU are those of the transformer here.

    Args:
        config: shape, positions, conditioning, as of the transformer.
        space: what its vectors stand for.
        classes: number of labels; label `classes` means "no label".
        grid: (h, w), N = h * w.
        outputs: numbers per channel: 1, or 2 with the variance.

    Raises InputError where the options do not fit.
    """

    angles: Tensor

    def __init__(self, config: ModelConfig, space: Space, classes: int, grid: tuple[int, int], outputs: int) -> None:
        super().__init__()
        if config.query_share:
            raise InputError(f"model.query_share={config.query_share} has no effect on a diffusion")
        self.shape = shape = model_shape(config)
        if not shape.effects:
            raise InputError(
                f"model.conditioning={config.conditioning} is not possible with a diffusion, whose network must know "
                "the level of noise; choose adaln"
            )
        self.space, self.classes, self.grid = space, classes, grid
        self.channels, self.outputs = space.channels, outputs
        self.recompute, self.compiled = config.checkpoint_activations, config.compile
        known_by = choose("positions", config.positions, POSITIONS)
        self.positions = nn.Embedding(grid[0] * grid[1], shape.dim) if known_by.learned else None
        bias = shape.parts.bias
        self.entry = Linear(self.channels, shape.dim, bias)
        self.labels = nn.Embedding(classes + 1, shape.dim)
        self.time = nn.Sequential(Linear(WAVES, shape.dim, bias), nn.SiLU(), Linear(shape.dim, shape.dim, bias))
        self.blocks = nn.ModuleList(Block(shape, config) for _ in range(shape.layers))
        self.norm = shape.norm()
        self.conditioning = build_conditioning(config.conditioning, shape.dim, parts=1, gated=False)
        self.head = Linear(shape.dim, outputs * self.channels, bias)
        angles = rotary_table(*grid, shape.dim // shape.heads)[1:]  # there is no class token
        if not known_by.rotary:
            angles[:] = torch.tensor([1.0, 0.0])
        self.register_buffer("angles", angles[None, None], persistent=False)
        if not self.head.weight.is_meta:
            self._initialise()

    def _initialise(self) -> None:
        """Normal with deviation 0.02, but for gates and head: a new network predicts zero."""
        initialise(self)
        nn.init.normal_(self.entry.weight, std=1 / math.sqrt(self.channels))
        nn.init.zeros_(self.head.weight)

    def forward(self, x: Tensor, time: Tensor, labels: Tensor) -> Tensor:
        """Noisy codes (B, N, C), noise levels (B,) and labels (B,) -> (B, N, outputs * C)."""
        x = self.entry(x)
        if self.positions is not None:
            x = x + self.positions.weight
        condition = self.time(waves(time)) + self.labels(labels)
        for block in cast(list[Block], self.blocks):
            x = run_block(block, self.compiled, self.recompute, x, condition, self.angles, None)
        (effect,) = self.conditioning(condition)
        return self.head(enter(self.norm(x), effect))  # type: ignore[no-any-return]

    def cost(self, images: int, element: int = 4) -> Cost:
        """Of one forward pass, as in radar/sampling/cost.py; `element` bytes per number."""
        d, cells = self.shape.dim, self.grid[0] * self.grid[1]
        slot = block_weights(self.shape) + (1 + self.outputs) * self.channels * d
        image = conditioning_weights(self.shape) + (WAVES + d) * d
        attention = self.shape.layers * 4 * d * cells**2
        return Cost(
            2.0 * images * (cells * slot + image), float(images * attention), float(element * (slot + image)), 1
        )


def waves(time: Tensor) -> Tensor:
    """Cosines and sines (B, 256) of noise levels (B,), from one radian per level to 10,000 levels per radian."""
    frequency = torch.exp(-math.log(SLOWEST) * torch.arange(WAVES // 2, device=time.device) / (WAVES // 2))
    angles = time[:, None].float() * frequency
    return torch.cat([angles.cos(), angles.sin()], 1)
