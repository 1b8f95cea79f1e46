"""What the sampler asks of a transformer, so that a foreign one can take the place of ours.

A foreign transformer needs `classes` and `forward`. It keeps nothing between passes then, and each pass encodes anew
all that it sees, to the same result. With `empty_cache` it is handed its own cache back in every pass.
Legend: B images, S slots, T targets, N cells, V vocabulary, C channels.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from radar.attention import NONE, Slots
from radar.attention.slots import FIELDS


class Decoder(Protocol):
    """A transformer that decodes slots.

    Attributes:
        classes: number of labels; label `classes` stands for none.
    """

    classes: int

    def __call__(
        self, slots: Slots, tokens: Tensor, labels: Tensor, permutation: Tensor, mask: Any, *cache: Any
    ) -> Tensor:
        """Logits (B, T, V) of `slots.predictions`.

        Args:
            slots: S slots: which carry a token (`is_token`), their cell (`rank`, -1 for the class token), the cell that
                they are to predict (`position`), and which are read (`predictions.first`).
            tokens: (B, S) token of each slot; of no meaning where a slot carries none.
            labels: (B,) class.
            permutation: (N,) or (B, N) cells in decoding order: slot s is of cell `permutation[slots.rank[s]]`.
            mask: (S, S) bool, True where the row's slot sees the column's, or None where all see all; in training
                whatever the caller chooses (a block mask, say). With a cache, (S, kept + S).
            cache: what `empty_cache` gave, if the transformer has that.
        """
        ...


class Rewound(Protocol):
    """Keys and values of earlier passes."""

    def rewind(self, slots: int) -> None:
        """Forget all but the first so many slots; the next pass is written behind them."""
        ...


@runtime_checkable
class Caching(Protocol):
    """A decoder with a cache of its own kind."""

    def empty_cache(self, images: int, slots: int, dtype: torch.dtype | None) -> Rewound:
        """Room for so many slots of so many images; None is the type of the weights."""
        ...


class Recomputed:
    """Stands for a decoder without a cache: runs all that a pass sees, as often as it is seen.

    The slots of earlier passes are kept with the tokens that they had. Their own predictions are not asked for again.
    """

    def __init__(self, decoder: Decoder) -> None:
        self.decoder, self.classes = decoder, decoder.classes
        self.slots: Slots | None = None
        self.tokens: Tensor | None = None

    def empty_cache(self, images: int, slots: int, dtype: torch.dtype | None) -> "Recomputed":
        """Begin anew."""
        self.slots = self.tokens = None
        return self

    def rewind(self, slots: int) -> None:
        """Nothing: what is not seen any more is left out of every pass."""

    def __call__(
        self, slots: Slots, tokens: Tensor, labels: Tensor, permutation: Tensor, mask: Tensor | None, cache: Any
    ) -> Tensor:
        """Logits (B, T, V) of the slots of a pass."""
        own = torch.ones(len(slots), dtype=torch.bool, device=tokens.device)
        if self.slots is not None and self.tokens is not None:
            quiet = torch.full_like(self.slots.target, NONE)
            before = replace(self.slots, target=quiet, second=quiet)
            own = torch.cat([torch.zeros_like(before.is_token), own])
            slots, tokens = _joined(before, slots), torch.cat([self.tokens, tokens], 1)
        self.slots, self.tokens = slots, tokens
        seen = slots.seen_by(own, slots.mask())
        part = slots.take(seen)
        return self.decoder(part, tokens[:, seen], labels, permutation, part.mask())


def _joined(first: Slots, second: Slots) -> Slots:
    merged: dict[str, Any] = {name: torch.cat([getattr(first, name), getattr(second, name)]) for name in FIELDS}
    return replace(second, **merged)


def with_cache(decoder: Decoder) -> Any:
    """A decoder that the sampler can call with a cache: itself if it has one."""
    return decoder if isinstance(decoder, Caching) else Recomputed(decoder)


def hints_reader(decoder: Decoder) -> Callable[[Slots, Tensor], Tensor | None]:
    """What tells the slots of their cells (B, S, C), by the tokens (B, N) by rank; nothing does in most decoders."""
    return getattr(decoder, "hints_of", lambda slots, known: None)
