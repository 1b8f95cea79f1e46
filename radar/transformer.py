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

from radar.attention import NONE, Predictions, Slots, attend
from radar.cache import Cache, cached_attention
from radar.config import ModelConfig
from radar.errors import InputError
from radar.variants import choose

EPS = 1e-5  # of RMSNorm, as LlamaGen
P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Shape:
    """Width, depth and heads of a trunk, and how many of the layers run on queries alone."""

    dim: int
    layers: int
    heads: int
    query_layers: int = 0


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
    return Shape(dim, layers, heads, asking)


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


class QueryBlock(Block):
    """Pre-norm block that queries run alone: cross-attention to keys and values made once for all such blocks."""

    def __init__(self, shape: Shape, config: ModelConfig) -> None:
        super().__init__(shape, config)
        self.qkv = nn.Linear(shape.dim, shape.dim, bias=False)
        del self.k_norm

    def ask(self, x: Tensor, angles: Tensor) -> Tensor:
        """Queries (B, H, S, E) of x (B, S, D)."""
        q = self.qkv(self.norm1(x)).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return rotate(self.q_norm(q.float()), angles).to(q.dtype)

    def cross(self, x: Tensor, angles: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """x (B, S, D), k and v (B, H, N, E) -> (B, S, D)."""
        return self.finish(x, attend(self.ask(x, angles), k, v, mask).transpose(1, 2).flatten(2))


class Memory(nn.Module):
    """Keys and values of the content for all query blocks (ARPG, arXiv 2503.10568)."""

    def __init__(self, shape: Shape, config: ModelConfig) -> None:
        super().__init__()
        self.heads = shape.heads
        self.norm = nn.RMSNorm(shape.dim, EPS)
        self.kv = nn.Linear(shape.dim, 2 * shape.dim, bias=False)
        self.k_norm = nn.RMSNorm(shape.dim // shape.heads, EPS) if config.qk_norm else nn.Identity()

    def forward(self, x: Tensor, angles: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (B, H, S, E) of x (B, S, D)."""
        k, v = self.kv(self.norm(x)).unflatten(-1, (2, self.heads, -1)).transpose(1, 3).unbind(2)
        return rotate(self.k_norm(k.float()), angles).to(v.dtype), v


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
        mixes: whether slots have second targets, for which there is a second head.
    """

    angles: Tensor

    def __init__(
        self, config: ModelConfig, vocabulary: int, classes: int, grid: tuple[int, int], mixes: bool = False
    ) -> None:
        super().__init__()
        self.shape = shape = model_shape(config)
        self.vocabulary, self.classes, self.grid = vocabulary, classes, grid
        self.recompute, self.compiled = config.checkpoint_activations, config.compile
        self.tokens = nn.Embedding(vocabulary, shape.dim)
        self.labels = nn.Embedding(classes + 1, shape.dim)
        self.query = nn.Parameter(torch.empty(shape.dim))
        self.places = nn.Embedding(grid[0] * grid[1], shape.dim)
        self.query_layers = shape.query_layers
        self.blocks = nn.ModuleList(Block(shape, config) for _ in range(shape.layers - self.query_layers))
        self.query_blocks = nn.ModuleList(QueryBlock(shape, config) for _ in range(self.query_layers))
        self.memory = Memory(shape, config) if self.query_layers else None
        self.norm = nn.RMSNorm(shape.dim, EPS)
        self.head = nn.Linear(shape.dim, vocabulary, bias=False)
        self.second_head = nn.Linear(shape.dim, vocabulary, bias=False) if mixes else None
        angles = rotary_table(*grid, shape.dim // shape.heads)
        angles[0] *= config.class_position
        self.register_buffer("angles", angles, persistent=False)
        self.apply(self._initialise)
        nn.init.normal_(self.query, std=0.02)
        nn.init.zeros_(self.head.weight)  # a new model is exactly uniform: NLL = N log V
        if self.second_head is not None:
            nn.init.zeros_(self.second_head.weight)
        for block in cast(list[Block], [*self.blocks, *self.query_blocks]):
            for layer in (block.qkv, block.out, block.down):
                _store_by_column(layer)

    @property
    def cache_layers(self) -> int:
        """Keys and values to keep: of every block, but one for all query blocks."""
        return len(self.blocks) + bool(self.query_layers)

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
        """Predict every target (see Slots.predictions): logits (B, T, V).

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
            carriers = int(slots.content.sum()) if self.query_layers else len(slots)
            return decode(self, inputs, mask, slots.predictions, carriers, cache.buffer, cache.start)
        x, angles = self.embed(*inputs)
        if self.query_layers:
            return self.predict(self._crossed(x, angles, slots, mask), slots.predictions)
        return self.predict(self._through(x, angles, mask), slots.predictions)

    def _through(self, x: Tensor, angles: Tensor, mask: Tensor | BlockMask | None) -> Tensor:
        for block in cast(list[Block], self.blocks):
            x = self._run(Block.forward, block, x, angles, mask)
        return x

    def _run(self, function: Callable[..., Tensor], *args: object) -> Tensor:
        """Run a block as configured: compiled, or computed again in the backward pass."""
        function = _compiled(function) if self.compiled else function
        if self.recompute and self.training:
            return checkpoint(function, *args, use_reentrant=False)  # type: ignore[no-any-return]
        return function(*args)

    def _crossed(self, x: Tensor, angles: Tensor, slots: Slots, mask: Tensor | BlockMask | None) -> Tensor:
        """Run the content through the blocks, then the queries through theirs."""
        assert self.memory is not None and isinstance(mask, Tensor), "a dense mask"
        known, asking = (torch.nonzero(kind).flatten() for kind in (slots.content, ~slots.content))
        seen = self._through(x[:, known], angles[:, :, known], mask[known][:, known])
        k, v = self.memory(seen, angles[:, :, known])
        y, places, rows = x[:, asking], angles[:, :, asking], mask[asking][:, known]
        for block in cast(list[QueryBlock], self.query_blocks):
            y = self._run(QueryBlock.cross, block, y, places, k, v, rows)
        return x.index_copy(1, asking, y)

    def decode(
        self,
        inputs: tuple[Tensor, ...],
        mask: Tensor | None,
        predictions: Predictions,
        carriers: int,
        buffer: Tensor,
        start: Tensor,
    ) -> Tensor:
        """Logits (B, T, V) of `inputs` (see `embed`), with the cache; in one piece, to compile.

        `carriers` is the number of slots, from the first, that run through all but the query blocks.
        """
        x, angles = self.embed(*inputs)
        y, places = x[:, carriers:], angles[:, :, carriers:]
        x, angles = x[:, :carriers], angles[:, :, :carriers]
        rows = columns = None
        if mask is not None:
            seen = mask.shape[1] - y.shape[1]
            rows, columns = mask[:carriers, :seen], mask[carriers:, :seen]
        for layer, block in enumerate(cast(list[Block], self.blocks)):
            q, k, v = block.project(x, angles)
            x = block.finish(x, cached_attention(q, k, v, rows, buffer, start, layer))
        if self.memory is not None:
            k, v = self.memory(x, angles)
            for other in cast(list[QueryBlock], self.query_blocks):
                mixed = cached_attention(other.ask(y, places), k, v, columns, buffer, start, len(self.blocks))
                y = other.finish(y, mixed)
            x = torch.cat([x, y], 1)
        return self.predict(x, predictions)

    def predict(self, x: Tensor, predictions: Predictions) -> Tensor:
        """Logits (B, T, V) from the last features (B, S, D): of one slot each, or the mean of one with each head."""
        logits = self.head(self.norm(x[:, predictions.first]))
        if self.second_head is None or predictions.second is None:
            return logits  # type: ignore[no-any-return]
        others = self.second_head(self.norm(x[:, predictions.second]))
        has = torch.stack([predictions.first, predictions.second], -1) != NONE
        share = has / has.sum(-1, keepdim=True)
        return logits * share[:, :1] + others * share[:, 1:]  # type: ignore[no-any-return]

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
