"""What sampling costs on paper: matrix operations and bytes of every forward pass, read off the planned passes [ours].

Per slot and layer: 2 (4 D^2 + 3 D F) operations for the projections and SwiGLU of width F, and 4 D for every slot that
the dense attention covers; 2 D V for every predicted target. Bytes: all weights once per pass, keys and values of all
covered slots once per pass and image. adaLN adds 12 D^2 operations per layer and 4 D^2 at the end per image and pass,
and their weights. Left out are activations, which fit the cache of the processor, and what a tokenizer of scales makes
of them for the next.
Legend: B images, S slots, T targets, D width, F feed-forward width, L layers, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from radar.model.blocks import Shape
from radar.sampling.passes import Pass


@dataclass(frozen=True)
class Cost:
    """Operations (of weights, of attention), bytes and number of some passes, for a batch."""

    products: float
    attention: float
    bytes: float
    passes: int

    @property
    def flops(self) -> float:
        """All operations."""
        return self.products + self.attention

    def __add__(self, other: "Cost") -> "Cost":
        """One after the other."""
        return Cost(
            self.products + other.products,
            self.attention + other.attention,
            self.bytes + other.bytes,
            self.passes + other.passes,
        )

    def seconds(self, flops_per_s: float, bytes_per_s: float) -> float:
        """Roofline floor: no device with these rates can be faster."""
        return max(self.flops / flops_per_s, self.bytes / bytes_per_s)


def weight_count(shape: Shape, vocabulary: int, heads: int = 1) -> int:
    """Weights that every pass reads, without biases: of embeddings only the rows in use are read."""
    d, late = shape.dim, shape.query_layers
    blocks = block_weights(shape) - late * 2 * d * d
    return blocks + 2 * d * d * bool(late) + heads * d * vocabulary + conditioning_weights(shape) + shape.hints * d


def block_weights(shape: Shape) -> int:
    """Weights of all layers that every slot goes through."""
    return shape.layers * _block(shape)


def _block(shape: Shape) -> int:
    """Weights of one: projections, feed-forward layer."""
    return 4 * shape.dim**2 + (shape.parts.gates + 1) * shape.dim * shape.hidden


def conditioning_weights(shape: Shape) -> int:
    """Weights that turn the condition into effects: on both parts of a block, and, without a gate, at the end."""
    return (2 * shape.effects * shape.layers + max(0, shape.effects - 1)) * shape.dim**2


def pass_cost(shape: Shape, vocabulary: int, step: Pass, batch: int, element: int = 4) -> Cost:
    """Cost of one forward pass for `batch` rows (guidance doubles them); `element` bytes per number.

    With query layers, tokens run through the other layers and make keys and values once more (2 D^2), queries run
    through the query layers, which make none (2 D^2 less).
    """
    d, late = shape.dim, shape.query_layers
    early, block, memory = shape.layers - late, _block(shape), 2 * d * d * bool(late)
    queries = len(step.slots) - step.slots.num_tokens if late else 0
    tokens, covered = len(step.slots) - queries, step.covered - queries
    heads = 2 if step.slots.mixes else 1
    layered = (
        tokens * (early * block + memory) + queries * late * (block - 2 * d * d) + len(step.slots) * shape.hints * d
    )
    products = batch * 2 * (layered + len(step.targets) * heads * d * vocabulary + conditioning_weights(shape))
    attention = batch * 4 * d * covered * (early * tokens + late * queries)
    moved = weight_count(shape, vocabulary, heads) + batch * (early + bool(late)) * 2 * covered * d
    return Cost(float(products), float(attention), float(moved * element), 1)


def sampling_cost(shape: Shape, vocabulary: int, passes: Sequence[Pass], batch: int, element: int = 4) -> Cost:
    """Cost of drawing `batch` images without guidance."""
    return sum((pass_cost(shape, vocabulary, step, batch, element) for step in passes), Cost(0.0, 0.0, 0.0, 0))
