"""What replaces known tokens in training, so that correction is not learned as a copy [ours].

A known slot can read its own token, so a clean one would teach it to copy. Each image and step draws a rate up to
`train.corruption_rate`; that share of the known tokens is replaced, and the clean token stays the target.
To add a kind: one function, one line in CORRUPTIONS.
Legend: B images, S slots, N cells, V vocabulary.
"""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from radar.attention import Slots
from radar.parts import Draws


class Sources(NamedTuple):
    """Where other tokens can come from.

    Attributes:
        draws: random numbers.
        vocabulary: V.
        predict: gives the model's own draw of each cell, by rank (B, N).
        others: gives the tokens of other images of the batch, by rank (B, N).
    """

    draws: Draws
    vocabulary: int
    predict: Callable[[], Tensor]
    others: Callable[[], Tensor]


def uniform(slots: Slots, sources: Sources) -> Tensor:
    """Any token, all equally likely."""
    return sources.draws.integers(sources.vocabulary, len(slots))


def shuffled(slots: Slots, sources: Sources) -> Tensor:
    """The token that another image of the batch has in the same cell: right marginals, wrong context."""
    return sources.others()[:, slots.rank.clamp(min=0)]


def model(slots: Slots, sources: Sources) -> Tensor:
    """What the model itself draws for the cell from the true past: the errors that it will meet; one more pass."""
    return sources.predict()[:, slots.rank.clamp(min=0)]


class Corruption(NamedTuple):
    """A kind: tokens (B, S) to put in, and whether it takes those of other images."""

    tokens: Callable[[Slots, Sources], Tensor]
    takes_others: bool = False


CORRUPTIONS: dict[str, Corruption] = {
    "uniform": Corruption(uniform),
    "shuffled": Corruption(shuffled, takes_others=True),
    "model": Corruption(model),
}


def corruption_mask(slots: Slots, draws: Draws, rate: float) -> Tensor:
    """Choose the slots to corrupt, (B, S) bool: each image and step at its own rate, drawn from 0 to `rate`."""
    steps = int(slots.step.max()) + 1
    rates = draws.uniform(steps)[:, slots.step.clamp(min=0)] * rate
    return (draws.uniform(len(slots)) < rates) & slots.revises
