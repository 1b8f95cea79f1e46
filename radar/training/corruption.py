"""What replaces known tokens in training, so that correction is not learned as a copy [ours].

A known slot can read its own token, so a clean one would teach it to copy. Each image and step draws a rate up to
`train.corruption_rate`; that share of the known tokens is replaced, and the clean token stays the target.
To add a kind: one function, one line in CORRUPTIONS.
Legend: B images, S slots, N cells, V vocabulary.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from radar.attention import Slots

# (content (B, S), slots, vocabulary, predict) -> tokens (B, S) to put in; `predict()` gives the model's own draw of
# each cell, by rank (B, N).
Corruption = Callable[[Tensor, Slots, int, Callable[[], Tensor]], Tensor]


def uniform(tokens: Tensor, slots: Slots, vocabulary: int, predict: Callable[[], Tensor]) -> Tensor:
    """Any token, all equally likely."""
    return torch.randint_like(tokens, vocabulary)


def shuffled(tokens: Tensor, slots: Slots, vocabulary: int, predict: Callable[[], Tensor]) -> Tensor:
    """The token that another image of the batch has in the same slot: right marginals, wrong context."""
    return tokens[torch.randperm(len(tokens), device=tokens.device)]


def model(tokens: Tensor, slots: Slots, vocabulary: int, predict: Callable[[], Tensor]) -> Tensor:
    """What the model itself draws for the cell from the true past: the errors that it will meet; one more pass."""
    return predict()[:, slots.rank.clamp(min=0)]


CORRUPTIONS: dict[str, Corruption] = {"uniform": uniform, "shuffled": shuffled, "model": model}


def corruption_mask(slots: Slots, images: int, rate: float) -> Tensor:
    """Choose the slots to corrupt, (B, S) bool: each image and step at its own rate, drawn from 0 to `rate`."""
    steps = int(slots.step.max()) + 1
    rates = torch.rand(images, steps, device=slots.step.device)[:, slots.step.clamp(min=0)] * rate
    return (torch.rand_like(rates) < rates) & slots.revises
