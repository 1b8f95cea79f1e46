"""What one training iteration goes through: all steps of an order in one sequence, or some of them.

To add a layout: one function, one line in LAYOUTS. Legend: S slots, N cells.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from radar.attention import BACKENDS, Mask, Slots
from radar.training.generative import Sketch

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


def layout_sketches(module: "GeneratorModule", draws: int, device: str) -> list[Sketch]:
    """Training steps in the layouts of a module, under masks whose operations can be counted."""
    if module.backend is BACKENDS["flex"] or (module.backend is BACKENDS["auto"] and device == "cuda"):
        module.backend = BACKENDS["sdpa"]  # what FlexAttention leaves out is not known to the counter
    module.model.compiled = False
    permutation = torch.atleast_2d(module.order.permutation)[0]
    layouts = [module.layout(module) for _ in range(draws)]

    def sketch(layout: Layout) -> Sketch:
        slots = layout.slots
        _ = slots.kinds, slots.predictions  # found from values, which fake tensors do not have

        def losses(images: int) -> Tensor:
            tokens, truth = (
                torch.zeros(images, count, dtype=torch.long) for count in (len(slots), len(slots.predictions.target))
            )
            labels = torch.zeros(images, dtype=torch.long)
            hints = torch.zeros(images, len(slots), module.model.shape.hints) if module.model.reader else None
            return module.model(slots, tokens, labels, permutation, layout.mask, truth=truth, hints=hints)  # type: ignore[no-any-return]

        return Sketch(len(slots), losses)

    return [sketch(layout) for layout in (layouts[:1] if layouts[0].share == 1 else layouts)]
