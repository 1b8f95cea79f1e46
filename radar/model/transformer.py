"""The transformer: embeds slots, runs pre-norm blocks under a mask, returns logits where a slot has a target.

It sees slots, cells and a mask, and never the name of an order or a variant. By default RMSNorm, SwiGLU, QK-norm, 2-D
rotary positions by cell; shapes follow LlamaGen's presets.
Legend: B images, S slots, T slots with a target, N cells, V vocabulary, D width, H heads, E head width, L layers.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from radar.attention import NONE, Mask, Predictions, Slots
from radar.config.lookup import choose
from radar.config.options import ModelConfig
from radar.kernels.fused import cross_entropy
from radar.kernels.linear import Linear
from radar.model.blocks import POSITIONS, Block, Memory, QueryBlock, compile_once, model_shape, rotary_table, run_block
from radar.model.conditioning import Effect, build_conditioning, enter, initialise
from radar.model.kv_cache import Cache, cached_attention, empty_cache

R = TypeVar("R")
Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None]  # of `Transformer.embed`
MOST_LOGITS = 2**26  # that a loss holds at once in float32: 256 MiB; the others are made again in the backward pass


class Transformer(nn.Module):
    """Slots in, logits out.

    Args:
        config: shape, dropout, QK-norm, activation checkpointing, compilation.
        vocabulary: V.
        classes: number of labels; label `classes` means "no label".
        grid: (h, w), N = h * w.
        mixes: whether slots have second targets, for which there is a second head.
        reader: what tells slots that ask of their cells: tokens (B, N) by rank, number of ranks -> features of at least
            the first so many (B, ..., C), those of a cell by the tokens of earlier steps alone.
        hints: C.
    """

    angles: Tensor

    def __init__(
        self,
        config: ModelConfig,
        vocabulary: int,
        classes: int,
        grid: tuple[int, int],
        mixes: bool = False,
        reader: Callable[[Tensor, int], Tensor] | None = None,
        hints: int = 0,
    ) -> None:
        super().__init__()
        self.shape = shape = replace(model_shape(config), hints=hints)
        self.reader = reader
        self.hint = Linear(hints, shape.dim, shape.parts.bias) if reader else None
        self.vocabulary, self.classes, self.grid = vocabulary, classes, grid
        self.recompute, self.compiled = config.checkpoint_activations, config.compile
        self.tokens = nn.Embedding(vocabulary, shape.dim)
        self.labels = nn.Embedding(classes + 1, shape.dim)
        self.query = nn.Parameter(torch.empty(shape.dim))
        self.known_by = choose("positions", config.positions, POSITIONS)
        self.positions = nn.Embedding(grid[0] * grid[1], shape.dim) if self.known_by.learned else None
        self.query_layers = shape.query_layers
        self.blocks = nn.ModuleList(Block(shape, config) for _ in range(shape.layers - self.query_layers))
        self.query_blocks = nn.ModuleList(QueryBlock(shape, config) for _ in range(self.query_layers))
        self.memory = Memory(shape, config) if self.query_layers else None
        self.norm = shape.norm()
        self.conditioning = build_conditioning(config.conditioning, shape.dim, parts=1, gated=False)
        self.head = Linear(shape.dim, vocabulary, shape.parts.bias)
        self.second_head = Linear(shape.dim, vocabulary, shape.parts.bias) if mixes else None
        self.class_position = config.class_position
        self.register_buffer("angles", self.rotary_angles(), persistent=False)
        if not self.query.is_meta:  # of a model that is only planned, there is nothing to initialise
            self._initialise()

    def rotary_angles(self, origin: tuple[int, int] = (0, 0), slower: tuple[float, float] = (1.0, 1.0)) -> Tensor:
        """Table of `rotary_table` for this grid; no rotation at all where cells are known by embeddings alone."""
        angles = rotary_table(*self.grid, self.shape.dim // self.shape.heads, origin, slower)
        if not self.known_by.rotary:
            angles[:] = torch.tensor([1.0, 0.0])
        angles[0] *= self.class_position
        return angles

    @property
    def cache_layers(self) -> int:
        """Keys and values to keep: of every block, but one for all query blocks."""
        return len(self.blocks) + bool(self.query_layers)

    def empty_cache(self, images: int, slots: int, dtype: torch.dtype | None = None) -> Cache:
        """Room for the keys and values of `slots` slots; the type is by default that of the weights."""
        heads, device = self.shape.heads, self.query.device
        each = self.shape.dim // heads
        return empty_cache(self.cache_layers, images, heads, slots, each, device, dtype or self.query.dtype)

    def _initialise(self) -> None:
        """Normal with deviation 0.02, but for the heads: a new model is exactly uniform, NLL = N log V."""
        initialise(self)
        nn.init.normal_(self.query, std=0.02)
        nn.init.zeros_(self.head.weight)
        if self.second_head is not None:
            nn.init.zeros_(self.second_head.weight)

    def forward(
        self,
        slots: Slots,
        tokens: Tensor,
        labels: Tensor,
        permutation: Tensor,
        mask: Mask | None,
        cache: Cache | None = None,
        truth: Tensor | None = None,
        hints: Tensor | None = None,
    ) -> Tensor:
        """Predict every target (see Slots.predictions): logits (B, T, V); where the `truth` is given, losses (B, T).

        Args:
            slots: S slots.
            tokens: (B, S) token of each slot; ignored for queries and the class token.
            labels: (B,) class, or `classes` for none.
            permutation: (N,) or (B, N) cells in decoding order.
            mask: (S, cached + S) dense, or a block mask or bands; None where every slot sees all.
            cache: keys and values of the slots of earlier passes.
            truth: (B, T) right token of every target, for its cross-entropy in nats.
            hints: (B, S, C) of `hints_of`, where there is a reader.
        """
        inputs = slots.is_token, slots.rank, slots.position, tokens, labels, torch.atleast_2d(permutation), hints
        if cache is not None:
            assert mask is None or isinstance(mask, Tensor)
            whole = self.compiled and tokens.device.type == "cpu"
            decode = compile_once(Transformer.decode, dynamic=True) if whole else Transformer.decode
            carriers = slots.num_tokens if self.query_layers else len(slots)
            return decode(self, inputs, mask, slots.predictions, carriers, cache.buffer, cache.start)
        x, angles = self.embed(*inputs)
        condition = self.labels(labels)
        if self.query_layers:
            x = self._crossed(x, condition, angles, slots, mask)
        else:
            x = self._through(x, condition, angles, mask)
        if truth is None:
            return self.predict(x, condition, slots.predictions)
        return self._losses(x, condition, slots.predictions, truth)

    def _losses(self, x: Tensor, condition: Tensor, predictions: Predictions, truth: Tensor) -> Tensor:
        """Cross-entropies (B, T) of features (B, S, D), of so many images at once that their logits fit in memory."""
        images = max(1, MOST_LOGITS // (truth.shape[1] * self.vocabulary))

        def of(x: Tensor, condition: Tensor, truth: Tensor) -> Tensor:
            logits = self.predict(x, condition, predictions).flatten(0, 1).float()
            return cross_entropy(logits, truth.flatten()).view(truth.shape)

        if len(x) <= images:
            return of(x, condition, truth)
        parts = zip(*(part.split(images) for part in (x, condition, truth)), strict=True)
        return torch.cat([checkpoint(of, *part, use_reentrant=False, preserve_rng_state=False) for part in parts])

    def _through(self, x: Tensor, condition: Tensor, angles: Tensor, mask: Mask | None) -> Tensor:
        for block in cast(list[Block], self.blocks):
            x = run_block(block, self.compiled, self.recompute, x, condition, angles, mask)
        return x

    def _part(self, function: Callable[..., R], *args: object) -> R:
        """Run a part of a pass with the cache: compiled by itself, where the pass is not as a whole."""
        alone = self.compiled and not torch.compiler.is_compiling()
        return (compile_once(function, dynamic=True) if alone else function)(*args)

    def _crossed(self, x: Tensor, condition: Tensor, angles: Tensor, slots: Slots, mask: Mask | None) -> Tensor:
        """Run the content through the blocks, then the queries through theirs."""
        assert self.memory is not None and isinstance(mask, Tensor), "a dense mask"
        known, asking = slots.kinds
        seen = self._through(x[:, known], condition, angles[:, :, known], mask[known][:, known])
        k, v = self.memory(seen, angles[:, :, known])
        y, where, rows = x[:, asking], angles[:, :, asking], mask[asking][:, known]
        for block in cast(list[QueryBlock], self.query_blocks):
            y = run_block(block, self.compiled, self.recompute, y, condition, where, k, v, rows)
        return x.index_copy(1, asking, y)

    def decode(
        self,
        inputs: "Inputs",
        mask: Tensor | None,
        predictions: Predictions,
        carriers: int,
        buffer: Tensor,
        start: Tensor,
    ) -> Tensor:
        """Logits (B, T, V) of `inputs` (see `embed`), with the cache.

        Compiled in one piece on a CPU, where calls cost most, and otherwise in parts that all blocks share: that takes
        seconds, and calls cost nothing in a recording (radar/kernels). `carriers` is the number of slots, from the
        first, that run through all but the query blocks.
        """
        x, angles = self.embed(*inputs)
        condition = self.labels(inputs[4])
        y, where = x[:, carriers:], angles[:, :, carriers:]
        x, angles = x[:, :carriers], angles[:, :, :carriers]
        rows = columns = None
        if mask is not None:
            seen = mask.shape[1] - y.shape[1]
            rows, columns = mask[:carriers, :seen], mask[carriers:, :seen]
        for layer, block in enumerate(cast(list[Block], self.blocks)):
            first, second = self._part(_effects, block, condition)
            q, k, v = self._part(Block.project, block, x, first, angles)
            mixed = cached_attention(q, k, v, rows, buffer, start, layer)
            x = self._part(Block.finish, block, x, mixed, first, second)
        if self.memory is not None:
            k, v = self._part(Memory.forward, self.memory, x, angles)
            for other in cast(list[QueryBlock], self.query_blocks):
                first, second = self._part(_effects, other, condition)
                q = self._part(QueryBlock.ask, other, y, first, where)
                mixed = cached_attention(q, k, v, columns, buffer, start, len(self.blocks))
                y = self._part(Block.finish, other, y, mixed, first, second)
            x = torch.cat([x, y], 1)
        return self.predict(x, condition, predictions)

    def predict(self, x: Tensor, condition: Tensor, predictions: Predictions) -> Tensor:
        """Logits (B, T, V) from the last features (B, S, D): of one slot each, or the mean of one with each head."""
        (effect,) = self.conditioning(condition)
        logits = self.head(enter(self.norm(x[:, predictions.first]), effect))
        if self.second_head is None or predictions.second is None:
            return logits  # type: ignore[no-any-return]
        others = self.second_head(enter(self.norm(x[:, predictions.second]), effect))
        has = torch.stack([predictions.first, predictions.second], -1) != NONE
        share = has / has.sum(-1, keepdim=True)
        return logits * share[:, :1] + others * share[:, 1:]  # type: ignore[no-any-return]

    def hints_of(self, slots: Slots, known: Tensor) -> Tensor | None:
        """What slots are told of their cells (B, S, C), by the tokens (B, N) by rank that are known; None without."""
        return self.reader(known, slots.last_rank + 1)[:, slots.rank.clamp(min=0)] if self.reader else None

    def embed(
        self,
        is_token: Tensor,
        rank: Tensor,
        position: Tensor,
        tokens: Tensor,
        labels: Tensor,
        cells: Tensor,
        hints: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Embed slots (B, S, D): token, query or class embedding, plus that of the cell to predict, or else its own.

        A slot must know which cell it fills: without, parallel decoding fails (NAR, arXiv 2503.10696). Also returned
        are the rotary angles of its own cell. The first three are `content`, `rank` and `place` of the slots.
        """
        asks = self.query if self.hint is None else self.query + self.hint(hints)
        x = torch.where(is_token[:, None], self.tokens(tokens), asks)
        x = torch.where((rank == NONE)[:, None], self.labels(labels)[:, None], x)
        if self.positions is not None:
            x = self.positions(cells[:, position.clamp(min=0)]) * (position != NONE)[:, None] + x
        angles = self.angles[torch.where(rank == NONE, 0, cells[:, rank.clamp(min=0)] + 1)]
        return x, angles[:, None]


def _effects(block: Block, condition: Tensor) -> list[Effect | None]:
    return block.conditioning(condition)  # type: ignore[no-any-return]


def parameter_count(model: nn.Module) -> int:
    """Count the trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
