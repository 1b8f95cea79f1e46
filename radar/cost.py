"""What sampling costs on paper: matrix operations and bytes of every forward pass, read off the planned turns [ours].

Per slot and layer: 2 (4 D^2 + 3 D F) operations for the projections and SwiGLU of width F, and 4 D for every slot that
the dense attention covers; 2 D V for every predicted target. Bytes: all weights once per pass, keys and values of all
covered slots once per pass and image. Activations are left out: they fit the cache of the processor.
Legend: B images, S slots, T targets, D width, F feed-forward width, L layers, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from radar.sampling import Turn
from radar.transformer import Shape, feed_forward_width


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


def weight_count(shape: Shape, vocabulary: int) -> int:
    """Weights that every pass reads: projections, SwiGLU, head; of embeddings only the rows in use are read."""
    d, f = shape.dim, feed_forward_width(shape.dim)
    return shape.layers * (4 * d * d + 3 * d * f) + d * vocabulary


def pass_cost(shape: Shape, vocabulary: int, turn: Turn, batch: int, element: int = 4) -> Cost:
    """Cost of one forward pass for `batch` rows (guidance doubles them); `element` bytes per number."""
    d, f, layers = shape.dim, feed_forward_width(shape.dim), shape.layers
    slots, covered, targets = len(turn.slots), turn.covered, len(turn.targets)
    products = batch * (layers * 2 * slots * (4 * d * d + 3 * d * f) + 2 * targets * d * vocabulary)
    moved = weight_count(shape, vocabulary) + batch * layers * 2 * covered * d
    return Cost(float(products), float(batch * layers * 4 * slots * covered * d), float(moved * element), 1)


def sampling_cost(shape: Shape, vocabulary: int, turns: Sequence[Turn], batch: int, element: int = 4) -> Cost:
    """Cost of drawing `batch` images without guidance."""
    return sum((pass_cost(shape, vocabulary, turn, batch, element) for turn in turns), Cost(0.0, 0.0, 0.0, 0))
