"""Parts of the transformer: sizes, rotary positions, blocks.

Legend: B images, S slots, N cells, D width, H heads, E head width, L layers.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, ParamSpec, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from radar.attention import Mask, attend
from radar.config.lookup import choose
from radar.config.options import ModelConfig
from radar.errors import InputError
from radar.kernels.fused import fused_heads
from radar.kernels.linear import Linear
from radar.model.conditioning import CONDITIONING, Effect, build_conditioning, enter, leave
from radar.model.trunks import TRUNKS, Trunk, head_norm

P = ParamSpec("P")
R = TypeVar("R")


ROTARY_BASE = 10_000.0


class Positions(NamedTuple):
    """What a model knows a cell by: an embedding of its own, rotary angles of its row and column."""

    learned: bool
    rotary: bool


POSITIONS = {"both": Positions(True, True), "learned": Positions(True, False), "rotary": Positions(False, True)}


@functools.cache
def compile_once(function: Callable[P, R], dynamic: bool | None = None) -> Callable[P, R]:
    """Compile a function, for all models of one process."""
    torch._dynamo.config.cache_size_limit = 64
    return torch.compile(function, dynamic=dynamic)


@dataclass(frozen=True)
class Shape:
    """Width, depth and heads of a trunk; how many layers run on queries alone; what conditions a part of a block.

    Attributes:
        effects: vectors that the condition gives each part.
        hints: channels of what a slot that asks is told of its cell.
        trunk: name of what blocks are made of.
    """

    dim: int
    layers: int
    heads: int
    query_layers: int = 0
    effects: int = 0
    hints: int = 0
    trunk: str = "llama"

    @property
    def parts(self) -> Trunk:
        """What blocks are made of."""
        return TRUNKS[self.trunk]

    @property
    def hidden(self) -> int:
        """Feed-forward width, F."""
        return self.parts.hidden(self.dim)

    def norm(self) -> nn.Module:
        """A norm of the width; where a condition scales and shifts, it may do without weights."""
        return self.parts.norm(self.dim, not self.effects)


# B to 3B as in LlamaGen's table of class-conditional models; tiny and small are ours, for CPUs.
PRESETS: dict[str, Shape] = {
    "tiny": Shape(64, 4, 2),
    "small": Shape(384, 6, 6),
    "B": Shape(768, 12, 12),
    "L": Shape(1024, 24, 16),
    "XL": Shape(1280, 36, 20),
    "XXL": Shape(1536, 48, 24),
    "3B": Shape(3200, 24, 32),
}


def model_shape(config: ModelConfig) -> Shape:
    """Resolve preset and overrides; raises InputError where the width does not split into heads of 4n."""
    preset = choose("model preset", config.preset, PRESETS)
    dim = preset.dim if config.dim is None else config.dim
    layers = preset.layers if config.layers is None else config.layers
    heads = preset.heads if config.heads is None else config.heads
    if min(dim, layers, heads) < 1 or dim % (4 * heads):
        raise InputError(
            f"model.dim={dim} with model.heads={heads} is not possible: "
            "dim must be a multiple of 4 * heads (2-D rotary positions), layers at least 1"
        )
    asking = min(layers - 1, round(layers * config.query_share))
    if config.query_share and not asking:
        raise InputError(f"model.query_share={config.query_share} of {layers} layers is no layer")
    effects = choose("conditioning", config.conditioning, CONDITIONING).vectors
    choose("trunk", config.trunk, TRUNKS)
    return Shape(dim, layers, heads, asking, effects, trunk=config.trunk)


def rotary_table(
    h: int, w: int, width: int, origin: tuple[int, int] = (0, 0), slower: tuple[float, float] = (1.0, 1.0)
) -> Tensor:
    """Cosine and sine (1 + N, E / 2, 2) to rotate by: half of the pairs turn by row, half by column.

    Row 0 is the class token, at (0, 0). The cell `origin` stands at (1, 1), so that no trained cell shares its place.
    Where rows or columns are to turn s times `slower`, their frequencies are NTK-aware (as YaRN, arXiv 2309.00071,
    gives them): the base grows by s^(d / (d - 2)), d features per axis, so that the slowest does, and the fastest not.
    """
    along = width // 2
    base = ROTARY_BASE * torch.tensor(slower) ** (along / (along - 2) if along > 2 else 1)
    frequency = base[:, None] ** (-torch.arange(0, along, 2).float() / along)
    rows, columns = torch.meshgrid(torch.arange(h) - origin[0], torch.arange(w) - origin[1], indexing="ij")
    positions = F.pad(torch.stack([rows.flatten(), columns.flatten()], 1) + 1, (0, 0, 1, 0)).float()
    angles = (positions[:, :, None] * frequency).flatten(1)
    return torch.stack([angles.cos(), angles.sin()], -1)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Rotate pairs of neighbouring features: x (B, H, S, E), angles (B or 1, 1, S, E / 2, 2).

    Complex products are fastest by themselves, but the compiler cannot fuse them.
    """
    pairs = x.float().unflatten(-1, (-1, 2))
    if torch.compiler.is_compiling():
        (a, b), (cos, sin) = pairs.unbind(-1), angles.unbind(-1)
        turned = torch.stack([a * cos - b * sin, a * sin + b * cos], -1)
    else:
        turned = torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(angles))
    return turned.flatten(-2).type_as(x)


class Block(nn.Module):
    """Pre-norm block: attention with optional QK-norm and 2-D rotary positions, then a feed-forward layer."""

    def __init__(self, shape: Shape, config: ModelConfig) -> None:
        super().__init__()
        width, bias = shape.dim // shape.heads, shape.parts.bias
        self.heads, self.activate = shape.heads, shape.parts.activate
        self.qkv = Linear(shape.dim, 3 * shape.dim, bias)
        self.out = Linear(shape.dim, shape.dim, bias)
        self.q_norm, self.k_norm = (head_norm(config, shape.heads, width, asks) for asks in (True, False))
        self.gate_up = Linear(shape.dim, shape.parts.gates * shape.hidden, bias)
        self.down = Linear(shape.hidden, shape.dim, bias)
        self.norm1, self.norm2 = shape.norm(), shape.norm()
        self.dropout = nn.Dropout(config.dropout)
        self.conditioning = build_conditioning(config.conditioning, shape.dim, parts=2)

    def forward(self, compiled: bool, *inputs: object) -> Tensor:
        """Do `run`, by compiled code or not: called as a module, so that FSDP can fetch the weights before."""
        return (compile_once(type(self).run) if compiled else type(self).run)(self, *inputs)  # type: ignore[arg-type]

    def run(self, x: Tensor, condition: Tensor, angles: Tensor, mask: Mask | None) -> Tensor:
        """(B, S, D) -> (B, S, D), under a condition (B, D)."""
        first, second = self.conditioning(condition)
        return self.finish(x, attend(*self.project(x, first, angles), mask).transpose(1, 2).flatten(2), first, second)

    def project(self, x: Tensor, effect: Effect | None, angles: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (B, H, S, E) of x (B, S, D)."""
        return self.split(self.qkv(enter(self.norm1(x), effect)), angles)

    def split(self, qkv: Tensor, angles: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The same of their products (B, S, 3 D)."""
        if (found := fused_heads(qkv, self.q_norm, self.k_norm, angles, self.heads)) is not None:
            return found
        q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).transpose(1, 3).unbind(2)
        q, k = rotate(self.q_norm(q.float()), angles), rotate(self.k_norm(k.float()), angles)
        return q.to(v.dtype), k.to(v.dtype), v  # autocast leaves norms in float32

    def finish(self, x: Tensor, mixed: Tensor, first: Effect | None, second: Effect | None) -> Tensor:
        """Add what attention mixed (B, S, D), then the feed-forward layer, to x (B, S, D)."""
        x = x + self.dropout(leave(self.out(mixed), first))
        hidden = self.activate(self.gate_up(enter(self.norm2(x), second)))
        return x + self.dropout(leave(self.down(hidden), second))  # type: ignore[no-any-return]


def run_block(block: Block, compiled: bool, recompute: bool, *inputs: object) -> Tensor:
    """Run a block: by compiled code or not; computed again in the backward pass, or not."""
    if recompute and block.training:
        return checkpoint(block, compiled, *inputs, use_reentrant=False)  # type: ignore[no-any-return]
    return block(compiled, *inputs)  # type: ignore[no-any-return]


class QueryBlock(Block):
    """Pre-norm block that queries run alone: cross-attention to keys and values made once for all such blocks."""

    def __init__(self, shape: Shape, config: ModelConfig) -> None:
        super().__init__(shape, config)
        self.qkv = Linear(shape.dim, shape.dim, shape.parts.bias)
        del self.k_norm

    def ask(self, x: Tensor, effect: Effect | None, angles: Tensor) -> Tensor:
        """Queries (B, H, S, E) of x (B, S, D)."""
        q = self.qkv(enter(self.norm1(x), effect)).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return rotate(self.q_norm(q.float()), angles).to(q.dtype)

    def run(  # type: ignore[override]
        self, x: Tensor, condition: Tensor, angles: Tensor, k: Tensor, v: Tensor, mask: Tensor | None
    ) -> Tensor:
        """x (B, S, D), k and v (B, H, N, E) -> (B, S, D)."""
        first, second = self.conditioning(condition)
        return self.finish(x, attend(self.ask(x, first, angles), k, v, mask).transpose(1, 2).flatten(2), first, second)


class Memory(nn.Module):
    """Keys and values of the content for all query blocks (ARPG, arXiv 2503.10568)."""

    def __init__(self, shape: Shape, config: ModelConfig) -> None:
        super().__init__()
        self.heads = shape.heads
        self.norm = shape.parts.norm(shape.dim, True)
        self.kv = Linear(shape.dim, 2 * shape.dim, shape.parts.bias)
        self.k_norm = head_norm(config, shape.heads, shape.dim // shape.heads, asks=False)

    def forward(self, x: Tensor, angles: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (B, H, S, E) of x (B, S, D)."""
        k, v = self.kv(self.norm(x)).unflatten(-1, (2, self.heads, -1)).transpose(1, 3).unbind(2)
        return rotate(self.k_norm(k.float()), angles).to(v.dtype), v
