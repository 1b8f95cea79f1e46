"""The transformer: embeds slots, runs pre-norm blocks under a mask, returns logits where a slot has a target.

It sees slots, cells and a mask, and never the name of an order or a variant. RMSNorm, SwiGLU, QK-norm, 2-D rotary
positions by cell; shapes follow LlamaGen's presets.
Legend: B images, S slots, T slots with a target, N cells, V vocabulary, D width, H heads, E head width, L layers.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask
from torch.utils.checkpoint import checkpoint

from radar.attention import NONE, Slots, attend
from radar.config import ModelConfig
from radar.errors import InputError
from radar.variants import choose


@dataclass(frozen=True)
class Shape:
    """Width, depth and heads of a trunk."""

    dim: int
    layers: int
    heads: int


# B to XXL as in LlamaGen's table of class-conditional models; tiny and small are ours, for CPUs.
PRESETS: dict[str, Shape] = {
    "tiny": Shape(64, 4, 2),
    "small": Shape(384, 6, 6),
    "B": Shape(768, 12, 12),
    "L": Shape(1024, 24, 16),
    "XL": Shape(1280, 36, 20),
    "XXL": Shape(1536, 48, 24),
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
    """Unit complex numbers (1 + N, E / 2) to rotate by: half of the pairs turn by row, half by column.

    Row 0 is the class token; cell (r, c) stands at (r + 1, c + 1), so that no cell shares its place.
    """
    frequency = base ** (-torch.arange(0, width // 2, 2).float() / (width // 2))
    rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    places = F.pad(torch.stack([rows.flatten(), columns.flatten()], 1) + 1, (0, 0, 1, 0)).float()
    angles = (places[:, :, None] * frequency).flatten(1)
    return torch.polar(torch.ones_like(angles), angles)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Rotate pairs of neighbouring features: x (B, H, S, E), angles complex (B or 1, 1, S, E / 2)."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * angles).flatten(-2).type_as(x)


class Cache:
    """Keys and values of earlier passes, in one buffer that never grows: (L, 2, B, H, most slots, E)."""

    def __init__(self, shape: Shape, batch: int, slots: int, like: Tensor) -> None:
        width = shape.dim // shape.heads
        self.buffer = like.new_empty(shape.layers, 2, batch, shape.heads, slots, width)
        self.length = 0

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write this pass behind what is kept and return all keys and values seen so far plus these."""
        end = self.length + k.shape[2]
        self.buffer[layer, 0, :, :, self.length : end] = k
        self.buffer[layer, 1, :, :, self.length : end] = v
        return self.buffer[layer, 0, :, :, :end], self.buffer[layer, 1, :, :, :end]


class Attention(nn.Module):
    """Multi-head attention with optional QK-norm and 2-D rotary positions."""

    def __init__(self, shape: Shape, qk_norm: bool) -> None:
        super().__init__()
        width = shape.dim // shape.heads
        self.heads = shape.heads
        self.qkv = nn.Linear(shape.dim, 3 * shape.dim, bias=False)
        self.out = nn.Linear(shape.dim, shape.dim, bias=False)
        self.q_norm = nn.RMSNorm(width) if qk_norm else nn.Identity()
        self.k_norm = nn.RMSNorm(width) if qk_norm else nn.Identity()

    def forward(
        self, x: Tensor, angles: Tensor, mask: Tensor | BlockMask | None, cache: Cache | None, layer: int
    ) -> Tensor:
        """(B, S, D) -> (B, S, D)."""
        q, k, v = rearrange(self.qkv(x), "b s (three h e) -> three b h s e", three=3, h=self.heads)
        q, k = rotate(self.q_norm(q), angles), rotate(self.k_norm(k), angles)
        if cache is not None:
            k, v = cache.extend(layer, k, v)
        mixed = attend(q.to(v.dtype), k.to(v.dtype), v, mask)  # autocast leaves norms in float32
        return self.out(rearrange(mixed, "b h s e -> b s (h e)"))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Pre-norm block: attention, then SwiGLU."""

    def __init__(self, shape: Shape, qk_norm: bool, dropout: float) -> None:
        super().__init__()
        hidden = feed_forward_width(shape.dim)
        self.attention = Attention(shape, qk_norm)
        self.gate_up = nn.Linear(shape.dim, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, shape.dim, bias=False)
        self.norm1, self.norm2 = nn.RMSNorm(shape.dim), nn.RMSNorm(shape.dim)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, angles: Tensor, mask: Tensor | BlockMask | None, cache: Cache | None, layer: int
    ) -> Tensor:
        """(B, S, D) -> (B, S, D)."""
        x = x + self.dropout(self.attention(self.norm1(x), angles, mask, cache, layer))
        gate, up = self.gate_up(self.norm2(x)).chunk(2, dim=-1)
        return x + self.dropout(self.down(F.silu(gate) * up))  # type: ignore[no-any-return]


class Transformer(nn.Module):
    """Slots in, logits out.

    Args:
        config: shape, dropout, QK-norm, activation checkpointing.
        vocabulary: V.
        classes: number of labels; label `classes` means "no label".
        grid: (h, w), N = h * w.
    """

    angles: Tensor

    def __init__(self, config: ModelConfig, vocabulary: int, classes: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.shape = shape = model_shape(config)
        self.vocabulary, self.classes, self.grid = vocabulary, classes, grid
        self.recompute = config.checkpoint_activations
        self.tokens = nn.Embedding(vocabulary, shape.dim)
        self.labels = nn.Embedding(classes + 1, shape.dim)
        self.query = nn.Parameter(torch.empty(shape.dim))
        self.places = nn.Embedding(grid[0] * grid[1], shape.dim)
        self.blocks = nn.ModuleList(Block(shape, config.qk_norm, config.dropout) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.dim)
        self.head = nn.Linear(shape.dim, vocabulary, bias=False)
        self.register_buffer("angles", rotary_table(*grid, shape.dim // shape.heads), persistent=False)
        self.apply(self._initialise)
        nn.init.normal_(self.query, std=0.02)
        nn.init.zeros_(self.head.weight)  # a new model is exactly uniform: NLL = N log V

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
            mask: (S, kept + S) dense, or a block mask; None where every slot sees all.
            cache: keys and values of the `kept` slots of earlier passes.
        """
        cells = torch.atleast_2d(sequence)
        angles = self.angles[torch.where(slots.rank == NONE, 0, cells[:, slots.rank.clamp(min=0)] + 1)][:, None]
        x = self.embed(slots, content, labels, cells)
        for layer, block in enumerate(self.blocks):
            if self.recompute and self.training:
                x = checkpoint(block, x, angles, mask, cache, layer, use_reentrant=False)
            else:
                x = block(x, angles, mask, cache, layer)
        return self.head(self.norm(x[:, slots.target != NONE]))  # type: ignore[no-any-return]

    def embed(self, slots: Slots, content: Tensor, labels: Tensor, cells: Tensor) -> Tensor:
        """Embed slots (B, S, D): token, query or class embedding, plus that of the cell to predict, or else its own.

        A slot must know which cell it fills (method.md, section 4: NAR without it 66 against 3.06).
        """
        x = torch.where(slots.content[:, None], self.tokens(content), self.query)
        x = torch.where((slots.rank == NONE)[:, None], self.labels(labels)[:, None], x)
        goal = torch.where(slots.target == NONE, slots.rank, slots.target)
        place: Tensor = self.places(cells[:, goal.clamp(min=0)])
        return place * (goal != NONE)[:, None] + x


def parameter_count(model: nn.Module) -> int:
    """Count the trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
