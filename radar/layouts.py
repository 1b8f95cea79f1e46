"""An order under an attention variant, for any transformer: slots, masks, passes, losses, samples.

The trainer, the commands and the reports are not needed for it (docs: Your own transformer).
Legend: B images, N cells, S slots, T predictions, K steps, V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from radar.attention import VARIANTS, Slots
from radar.attention.slots import check_leaks
from radar.config.load import parse_order, structured
from radar.config.lookup import call
from radar.config.sampling import SampleConfig
from radar.decoding.groups import decode_permutation, step_sizes
from radar.decoding.orders import decode_steps
from radar.errors import InputError
from radar.sampling.decoder import Decoder
from radar.sampling.passes import Pass, plan_passes
from radar.sampling.sampler import sample_tokens

MOST_CELLS = 64 * 64
Variant = Callable[..., Slots]  # group sizes, its own options -> slots


@dataclass(frozen=True, eq=False)
class Layout:
    """Which cell is decoded when, in which slots, and who sees whom.

    Attributes:
        grid: (h, w).
        step: (N,) step of each cell, row by row.
        slots: S slots; `slots.predictions` says what they predict.
    """

    grid: tuple[int, int]
    step: Tensor
    slots: Slots

    def __repr__(self) -> str:
        """What it is, in a line."""
        return f"<layout of {self.grid[0]}x{self.grid[1]} cells: {len(self.sizes)} steps, {len(self.slots)} slots>"

    @cached_property
    def permutation(self) -> Tensor:
        """(N,) cells in decoding order: slot s is of cell `permutation[slots.rank[s]]`."""
        return decode_permutation(self.step)

    @cached_property
    def sizes(self) -> list[int]:
        """Cells of each step, K."""
        return step_sizes(self.step)

    @cached_property
    def mask(self) -> Tensor:
        """(S, S) bool: True where the row's slot sees the column's; for scaled_dot_product_attention."""
        return self.slots.mask()

    def mask_mod(self, device: torch.device | str = "cpu") -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
        """The same rule for FlexAttention's `create_block_mask`."""
        return self.slots.mask_mod(device)

    def block_mask(self, device: torch.device | str) -> BlockMask:
        """The same rule as a FlexAttention block mask."""
        return self.slots.block_mask(device)

    @cached_property
    def passes(self) -> list[Pass]:
        """Forward passes of sampling, where known cells are revised if the variant does that."""
        return plan_passes(self.slots, revise=True)

    def by_rank(self, tokens: Tensor) -> Tensor:
        """Tokens (B, N) of the cells, row by row, in decoding order."""
        return tokens[:, self.permutation.to(tokens.device)]

    def inputs(self, tokens: Tensor) -> Tensor:
        """Token (B, S) of every slot, of tokens (B, N); of no meaning where a slot carries none."""
        return self.by_rank(tokens)[:, self.slots.rank.clamp(min=0).to(tokens.device)]

    def targets(self, tokens: Tensor) -> Tensor:
        """Right token (B, T) of every prediction."""
        return self.by_rank(tokens)[:, self.slots.predictions.target.to(tokens.device)]

    def losses(self, model: Decoder, tokens: Tensor, labels: Tensor, mask: Any = None) -> Tensor:
        """Cross-entropy (B, T) in nats of every prediction, all steps in one forward pass.

        Args:
            model: see Decoder.
            tokens: (B, N) of the cells, row by row.
            labels: (B,) class, or `model.classes` for none.
            mask: in place of the dense one, what the model takes (`block_mask`).
        """
        device = tokens.device
        mask = self.mask.to(device) if mask is None else mask
        slots, permutation = self.slots.to(device), self.permutation.to(device)
        logits = model(slots, self.inputs(tokens), labels, permutation, mask)
        return F.cross_entropy(logits.flatten(0, 1).float(), self.targets(tokens).flatten(), reduction="none").view(
            len(tokens), -1
        )

    def nll(self, model: Decoder, tokens: Tensor, labels: Tensor) -> Tensor:
        """Teacher-forced NLL (B,) in nats per image; what is predicted again (correction) does not count."""
        new = self.slots.predicts_new[self.slots.predictions.source].to(tokens.device)
        return self.losses(model, tokens, labels)[:, new].double().sum(1)

    def sample(self, model: Decoder, labels: Tensor, images: Sequence[int] | None = None, **options: Any) -> Tensor:
        """Draw tokens (B, N) of the cells, row by row: one forward pass per step.

        Args:
            model: in eval mode, on the device of the labels.
            labels: (B,) class.
            images: numbers of the images, 0 to B-1 by default: image i depends on (seed, i) and its label alone.
            options: of `radar options sample`: seed, guidance, temperature, top_k, top_p, correction, ...

        Raises InputError for an option that is unknown or without effect here.
        """
        if other := sorted(options.keys() & OF_GENERATORS):
            raise InputError(f"sample.{other[0]} has no effect on a layout; it takes: {', '.join(TAKEN)}")
        settings = structured(SampleConfig, options, "sample")
        if options.get("correction") and not self.slots.revises.any():
            raise InputError(f"sample.correction={settings.correction} has no effect: this variant revises nothing")
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) <= model.classes:
            raise InputError(f"labels {labels.tolist()[:8]} are not possible: 0..{model.classes} expected")
        if images is not None and len(images) != len(labels):
            raise InputError(f"{len(images)} numbers of {len(labels)} images: one for each label expected")
        device, revise = labels.device, settings.correction > 0
        passes = plan_passes(self.slots, revise, device)
        numbers = range(len(labels)) if images is None else images
        return sample_tokens(model, passes, self.permutation.to(device), labels, settings, numbers)


TAKEN = (
    "seed", "temperature", "top_k", "top_p", "guidance", "guidance_schedule", "guidance_power", "correction",
    "precision",
)  # fmt: skip
OF_GENERATORS = set(SampleConfig.__dataclass_fields__) - set(TAKEN)


def layout(
    order: str | Tensor = "radial",
    variant: str | Variant = "plain",
    grid: tuple[int, int] = (16, 16),
    **options: Any,
) -> Layout:
    """Lay out an order under an attention variant.

    Args:
        order: a name, with options behind colons (`halton:steps=13:schedule=cosine`), or the step (N,) of each cell.
        variant: a name, or a function from group sizes to Slots.
        grid: (h, w), N = h * w.
        options: of the variant (`rings`, `every` of nested).

    Raises InputError for an unknown name or option, or where the two do not fit together.

    >>> ours = layout("radial", "nested", (8, 8))
    >>> len(ours.sizes), len(ours.slots), tuple(ours.mask.shape), len(ours.passes)
    (7, 223, (223, 223), 7)
    """
    check_grid(grid)
    step = decode_steps(parse_order(order), *grid) if isinstance(order, str) else checked_steps(order, grid)
    if step.ndim > 1:
        raise InputError(f"order '{order}' gives every image another order: lay out one row of its steps")
    if not (isinstance(variant, str) or callable(variant)):
        raise InputError(
            f"attention {variant!r} is not possible: a name, or a function from group sizes to Slots, expected"
        )
    table, name = (VARIANTS, variant) if isinstance(variant, str) else ({"given": variant}, "given")
    slots = call("attention", name, table, step_sizes(step), **options)
    if not isinstance(slots, Slots):
        raise InputError(
            f"attention {variant!r} gives {type(slots).__name__}: Slots expected (radar.attention.slots.join)"
        )
    check_leaks(slots)
    return Layout(grid, step, slots)


def check_grid(grid: object) -> None:
    """Raise InputError for what is no pair of sides."""
    pair = isinstance(grid, tuple | list) and len(grid) == 2 and all(type(side) is int and side > 0 for side in grid)
    if not pair or grid[0] * grid[1] > MOST_CELLS:  # type: ignore[index]
        raise InputError(
            f"grid {grid!r} is not possible: rows and columns, at least 1 each, at most {MOST_CELLS} cells"
        )


def checked_steps(step: Tensor, grid: tuple[int, int]) -> Tensor:
    """Steps (N,) or (h, w) as int64 (N,); raises InputError where they are not those of the grid, 0 to K-1."""
    try:
        given = torch.as_tensor(step).flatten()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"order {step!r} is not possible: a name, or the step of each cell, expected") from error
    if given.is_floating_point() or given.dtype == torch.bool:
        raise InputError(f"steps of type {given.dtype} are not possible: whole numbers expected")
    found = given.long()
    if len(found) != grid[0] * grid[1]:
        raise InputError(f"{len(found)} steps for a grid of {grid[0]}x{grid[1]} cells: one per cell expected")
    if not torch.equal(found.unique(), torch.arange(int(found.max()) + 1)):
        raise InputError(f"steps {sorted(set(found.tolist()))[:8]} are not possible: all of 0 to K-1 expected")
    return found
