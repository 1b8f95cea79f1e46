"""What one training iteration goes through: all steps of an order in one sequence, or some of them.

To add a layout: one function, one line in LAYOUTS. Legend: S slots, N cells.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from radar.attention import Mask, Slots

if TYPE_CHECKING:
    from radar.training.generator import GeneratorModule


class Layout(NamedTuple):
    """What one iteration trains on: slots, their mask, which of them count (S,) bool, their share of the steps."""

    slots: Slots
    mask: Mask
    scored: Tensor
    share: float


def packed(module: "GeneratorModule") -> Layout:
    """All steps in one sequence."""
    return module.packed()


def sampled(module: "GeneratorModule") -> Layout:
    """`train.layout_steps` random steps and what they can see: shorter sequences, a noisier loss."""
    count = min(module.config.train.layout_steps, module.steps)
    chosen = torch.randperm(module.steps)[:count]
    part = module.slots.only(chosen, module.mask)
    return Layout(part, part.mask().to(module.device), torch.isin(part.in_pass, chosen), count / module.steps)


def auto(module: "GeneratorModule") -> Layout:
    """Packed where all steps together take at most about 2N slots, otherwise sampled.

    The study `layouts` compares them at equal wall time; sampling also bounds the length of the sequence.
    """
    return (packed if len(module.slots) <= 2 * module.cells + 1 else sampled)(module)


LAYOUTS: dict[str, Callable[["GeneratorModule"], Layout]] = {"packed": packed, "sampled": sampled, "auto": auto}
