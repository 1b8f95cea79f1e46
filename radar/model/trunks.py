"""What blocks are made of beside attention itself: the parts of LLaMA, or those of a vision transformer.

To add a trunk: a line in TRUNKS. Legend: B images, S slots, D width, F feed-forward width, H heads, E head width.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from radar.config.options import ModelConfig
from radar.errors import InputError
from radar.kernels.fused import EPS, RMSNorm, swiglu

LAYER_EPS = 1e-6  # of LayerNorm, as DiT and VAR
FIRST_SCALE, LARGEST_SCALE = 4.0, 100.0  # of cosines, as VAR


class Trunk(NamedTuple):
    """Parts of a block.

    Attributes:
        norm: of a width, with weights of its own or not.
        hidden: D -> F.
        gates: products of F features each that enter the activation, which makes F features of them.
        activate: (..., gates * F) -> (..., F).
        bias: whether linear layers have one.
    """

    norm: Callable[[int, bool], nn.Module]
    hidden: Callable[[int], int]
    gates: int
    activate: Callable[[Tensor], Tensor]
    bias: bool


def swiglu_width(dim: int) -> int:
    """SwiGLU width: 8/3 of D, rounded up to a multiple of 256 (LlamaGen), or of D where D is smaller."""
    unit = min(256, dim)
    return -(-(8 * dim // 3) // unit) * unit


def _rms_norm(dim: int, weights: bool) -> nn.Module:
    """RMSNorm, which has weights here in any case."""
    return RMSNorm(dim, EPS)


def _layer_norm(dim: int, weights: bool) -> nn.Module:
    return nn.LayerNorm(dim, LAYER_EPS, elementwise_affine=weights)


TRUNKS: dict[str, Trunk] = {
    "llama": Trunk(_rms_norm, swiglu_width, 2, swiglu, bias=False),
    "vit": Trunk(_layer_norm, lambda dim: 4 * dim, 1, partial(F.gelu, approximate="tanh"), bias=True),
}


class Directions(nn.Module):
    """Queries or keys of length 1, queries times a learned scale of each head: products are scaled cosines (VAR)."""

    def __init__(self, heads: int, scaled: bool) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((heads,), math.log(FIRST_SCALE))) if scaled else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, S, E) -> the same; the root of E that attention divides by is undone."""
        x = F.normalize(x, dim=-1)
        if self.scale is None:
            return x
        scale = self.scale.clamp(max=math.log(LARGEST_SCALE)).exp() * x.shape[-1] ** 0.5
        return x * scale[:, None, None]  # type: ignore[no-any-return]


def head_norm(config: ModelConfig, heads: int, width: int, asks: bool) -> nn.Module:
    """What is done to queries (`asks`) or keys of so many heads; raises InputError for options that contradict."""
    if config.cosine_attention and not config.qk_norm:
        raise InputError("model.cosine_attention=true normalises queries and keys; model.qk_norm=false is not possible")
    if config.cosine_attention:
        return Directions(heads, scaled=asks)
    return RMSNorm(width, EPS) if config.qk_norm else nn.Identity()
