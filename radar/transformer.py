"""The transformer: embeds slots, runs pre-norm blocks under a mask, returns logits where a slot has a target.

It sees slots, cells and a mask, and never the name of an order or a variant. RMSNorm, SwiGLU, QK-norm, 2-D rotary
positions by cell; shapes follow LlamaGen's presets.
Legend: B images, S slots, T slots with a target, N cells, V vocabulary, D width, H heads, E head width, L layers.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import ParamSpec, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask
from torch.utils.checkpoint import checkpoint

from radar.attention import NONE, Slots, attend
from radar.cache import Cache, cached_attention
from radar.config import ModelConfig
from radar.errors import InputError
from radar.variants import choose

EPS = 1e-5  # of RMSNorm, as LlamaGen
P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Shape:
    """Width, depth and heads of a trunk."""

    dim: int
    layers: int
    heads: int


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
    return Shape(dim, layers, heads)


def feed_forward_width(dim: int) -> int:
    """SwiGLU width: 8/3 of D, rounded up to a multiple of 256 (LlamaGen), or of D where D is smaller."""
    unit = min(256, dim)
    return -(-(8 * dim // 3) // unit) * unit


def rotary_table(h: int, w: int, width: int, base: float = 10_000.0) -> Tensor:
    """Cosine and sine (1 + N, E / 2, 2) to rotate by: half of the pairs turn by row, half by column.

    Row 0 is the class token; cell (r, c) stands at (r + 1, c + 1), so that no cell shares its place.
    """
    frequency = base ** (-torch.arange(0, width // 2, 2).float() / (width // 2))
    rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    places = F.pad(torch.stack([rows.flatten(), columns.flatten()], 1) + 1, (0, 0, 1, 0)).float()
    angles = (places[:, :, None] * frequency).flatten(1)
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
    """Pre-norm block: attention with optional QK-norm and 2-D rotary positions, then SwiGLU."""

    def __init__(self, shape: Shape, config: ModelConfig) -> None:
        super().__init__()
        width, hidden = shape.dim // shape.heads, feed_forward_width(shape.dim)
        self.heads = shape.heads
        self.qkv = nn.Linear(shape.dim, 3 * shape.dim, bias=False)
        self.out = nn.Linear(shape.dim, shape.dim, bias=False)
        self.q_norm = nn.RMSNorm(width, EPS) if config.qk_norm else nn.Identity()
        self.k_norm = nn.RMSNorm(width, EPS) if config.qk_norm else nn.Identity()
        self.gate_up = nn.Linear(shape.dim, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, shape.dim, bias=False)
        self.norm1, self.norm2 = nn.RMSNorm(shape.dim, EPS), nn.RMSNorm(shape.dim, EPS)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, angles: Tensor, mask: Tensor | BlockMask | None) -> Tensor:
        """(B, S, D) -> (B, S, D)."""
        return self.finish(x, attend(*self.project(x, angles), mask).transpose(1, 2).flatten(2))

    def project(self, x: Tensor, angles: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (B, H, S, E) of x (B, S, D)."""
        qkv = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).transpose(1, 3)
        q, k, v = qkv.unbind(2)
        q, k = rotate(self.q_norm(q.float()), angles), rotate(self.k_norm(k.float()), angles)
        return q.to(v.dtype), k.to(v.dtype), v  # autocast leaves norms in float32

    def finish(self, x: Tensor, mixed: Tensor) -> Tensor:
        """Add what attention mixed (B, S, D), then the feed-forward layer, to x (B, S, D)."""
        x = x + self.dropout(self.out(mixed))
        gate, up = self.gate_up(self.norm2(x)).chunk(2, dim=-1)
        return x + self.dropout(self.down(F.silu(gate) * up))  # type: ignore[no-any-return]


def _store_by_column(layer: nn.Linear) -> None:
    """Lay the weight out by input, which products of few rows read a third faster on CPU; its values stay the same.

    Not where rows would lie a multiple of 4 KB apart and collide in the processor's cache.
    """
    if layer.out_features % 1024:
        layer.weight.data = layer.weight.data.t().contiguous().t()


@functools.cache
def _compiled(function: Callable[P, R], dynamic: bool | None = None) -> Callable[P, R]:
    torch._dynamo.config.cache_size_limit = 64  # of all models of one process
    return torch.compile(function, dynamic=dynamic)


class Transformer(nn.Module):
    """Slots in, logits out.

    Args:
        config: shape, dropout, QK-norm, activation checkpointing, compilation.
        vocabulary: V.
        classes: number of labels; label `classes` means "no label".
        grid: (h, w), N = h * w.
    """

    angles: Tensor

    def __init__(self, config: ModelConfig, vocabulary: int, classes: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.shape = shape = model_shape(config)
        self.vocabulary, self.classes, self.grid = vocabulary, classes, grid
        self.recompute, self.compiled = config.checkpoint_activations, config.compile
        self.tokens = nn.Embedding(vocabulary, shape.dim)
        self.labels = nn.Embedding(classes + 1, shape.dim)
        self.query = nn.Parameter(torch.empty(shape.dim))
        self.places = nn.Embedding(grid[0] * grid[1], shape.dim)
        self.blocks = nn.ModuleList(Block(shape, config) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.dim, EPS)
        self.head = nn.Linear(shape.dim, vocabulary, bias=False)
        angles = rotary_table(*grid, shape.dim // shape.heads)
        angles[0] *= config.class_position
        self.register_buffer("angles", angles, persistent=False)
        self.apply(self._initialise)
        nn.init.normal_(self.query, std=0.02)
        nn.init.zeros_(self.head.weight)  # a new model is exactly uniform: NLL = N log V
        for block in cast(list[Block], self.blocks):
            for layer in (block.qkv, block.out, block.down):
                _store_by_column(layer)

    @staticmethod
    def _initialise(module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)

    def forward(
        self,
        slots: Slots,
        content: Tensor,
        labels: Tensor,
        sequence: Tensor,
        mask: Tensor | BlockMask | None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Predict the target of every slot that has one: logits (B, T, V) in slot order.

        Args:
            slots: S slots.
            content: (B, S) token of each slot; ignored for queries and the class token.
            labels: (B,) class, or `classes` for none.
            sequence: (N,) or (B, N) cells in decoding order.
            mask: (S, cached + S) dense, or a block mask; None where every slot sees all.
            cache: keys and values of the slots of earlier passes.
        """
        inputs = slots.content, slots.rank, slots.place, content, labels, torch.atleast_2d(sequence)
        if cache is not None:
            assert not isinstance(mask, BlockMask)
            decode = _compiled(Transformer.decode, dynamic=True) if self.compiled else Transformer.decode
            return decode(self, inputs, mask, slots.goals, cache.buffer, cache.start)
        x, angles = self.embed(*inputs)
        step = _compiled(Block.forward) if self.compiled else Block.forward
        for block in cast(list[Block], self.blocks):
            if self.recompute and self.training:
                x = checkpoint(step, block, x, angles, mask, use_reentrant=False)
            else:
                x = step(block, x, angles, mask)
        return self.head(self.norm(x[:, slots.goals]))  # type: ignore[no-any-return]

    def decode(
        self, inputs: tuple[Tensor, ...], mask: Tensor | None, goals: Tensor, buffer: Tensor, start: Tensor
    ) -> Tensor:
        """Logits (B, T, V) of the slots `goals` of `inputs` (see `embed`), with the cache; in one piece, to compile."""
        x, angles = self.embed(*inputs)
        for layer, block in enumerate(cast(list[Block], self.blocks)):
            q, k, v = block.project(x, angles)
            x = block.finish(x, cached_attention(q, k, v, mask, buffer, start, layer))
        return self.head(self.norm(x[:, goals]))  # type: ignore[no-any-return]

    def embed(
        self, carries: Tensor, rank: Tensor, place: Tensor, content: Tensor, labels: Tensor, cells: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Embed slots (B, S, D): token, query or class embedding, plus that of the cell to predict, or else its own.

        A slot must know which cell it fills (method.md, section 4: NAR without it 66 against 3.06). Also returned are
        the rotary angles of its own cell. The first three are `content`, `rank` and `place` of the slots.
        """
        x = torch.where(carries[:, None], self.tokens(content), self.query)
        x = torch.where((rank == NONE)[:, None], self.labels(labels)[:, None], x)
        x = self.places(cells[:, place.clamp(min=0)]) * (place != NONE)[:, None] + x
        angles = self.angles[torch.where(rank == NONE, 0, cells[:, rank.clamp(min=0)] + 1)]
        return x, angles[:, None]


def parameter_count(model: nn.Module) -> int:
    """Count the trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
