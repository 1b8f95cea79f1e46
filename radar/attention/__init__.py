"""Attention variants: group sizes -> slots and a who-sees-whom rule.

A slot is one position of the transformer's sequence. Its cell is given by `rank`, the place of the cell in the
decoding sequence, so slots and mask depend on the group sizes only and serve every order, also one order per image.
Slot 0 is the class token: step -1, no cell, seen by all. The rule of a variant is one predicate; the dense boolean
mask (SDPA) and the FlexAttention block mask both come from it, and the sampler cuts its masks from the same one.

To add a variant: one function (sizes, its own options) -> Slots, one predicate, one line in VARIANTS.
"""

from collections.abc import Callable

from radar.attention.backends import BACKENDS, Mask, attend
from radar.attention.bands import Bands, banded
from radar.attention.frozen import causal, plain, relay
from radar.attention.nested import bidirectional, full, nested, nested_memory
from radar.attention.published import block_causal, instructed, neighbours
from radar.attention.slots import NONE, Predictions, Side, Slots

__all__ = [
    "BACKENDS",
    "NONE",
    "VARIANTS",
    "Bands",
    "Mask",
    "Predictions",
    "Side",
    "Slots",
    "attend",
    "banded",
    "nested",
]

VARIANTS: dict[str, Callable[..., Slots]] = {
    "causal": causal,
    "plain": plain,
    "relay": relay,
    "nested": nested,
    "full": full,
    "nested_memory": nested_memory,
    "bidirectional": bidirectional,
    "instructed": instructed,
    "neighbours": neighbours,
    "block_causal": block_causal,
}
