"""The order that a generator is trained in, as data, and the orders that it is sampled in.

Legend: N cells, M orders of a file, B images.
"""

from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256

import torch
from torch import Tensor

from radar.config.load import parse_order
from radar.config.lookup import choose, takes
from radar.config.options import Config, OrderConfig
from radar.config.sampling import SampleConfig
from radar.decoding.given import Restricted, cut_again, given_first, known_first
from radar.decoding.groups import decode_permutation, step_sizes
from radar.decoding.orders import ORDERS, decode_steps
from radar.decoding.permutations import PERMUTATIONS, image_steps
from radar.errors import InputError
from radar.parts import Part
from radar.seeding import Stream, derive


class DecodingOrder:
    """Which cell is decoded when: in training, and in sampling.

    Args:
        config: all options.
        grid: (h, w).
        step: what a checkpoint holds, in place of what the options give now.

    Attributes:
        step: (N,) step of each cell, or (M, N), where image i has row i modulo M.
        varies: whether training images are given other orders than that.
        adjust: what is done to the options of another order, in sampling.

    Raises InputError for an order that is not possible on this grid.
    """

    def __init__(self, config: Config, grid: tuple[int, int], step: Tensor | None = None) -> None:
        self.config, self.grid = config, grid
        self.adjust: Callable[[OrderConfig], OrderConfig] = _as_they_are
        self.step = decode_steps(config.order, *grid) if step is None else step.long()
        self.permutation = decode_permutation(self.step)
        self.permute = choose("permutations", config.train.permutations, PERMUTATIONS)
        first = torch.atleast_2d(self.permutation)[:1]
        self.varies = (
            self.permute(config.order, first, *grid, Part.all(1), 0, 0.0) is not None
        )  # fails here, not in mid-training
        self.check_per_image(config.sample)

    @property
    def digest(self) -> str:
        """12 hex digits of the step vector."""
        return order_hash(self.step)

    def stored(self) -> Tensor:
        """Return the step vector for a checkpoint, as small as it can be."""
        return self.step.to(torch.int16 if int(self.step.max()) < 2**15 else torch.int32)

    def is_current(self) -> bool:
        """Whether the options still give this order: neither the code nor a file behind them has changed."""
        return torch.equal(decode_steps(self.config.order, *self.grid), self.step)

    def in_training(self, index: Tensor, number: int, part: Part) -> Tensor:
        """Cells in decoding order for the training images `index` (B,), part of batch `number`: (N,) or (B, N)."""
        own, progress = rows_of(self.permutation, index), number / self.config.train.max_steps
        seed = derive(Stream.ORDER, self.config.seed, number)
        drawn = self.permute(self.config.order, own, *self.grid, part, seed, progress)
        return own if drawn is None else drawn

    def sampled(self, settings: SampleConfig) -> Tensor:
        """(N,) or (M, N) step at which the sampler decodes each cell: as trained, or the order and steps of `settings`.

        With `order_per_image` the images have others, of the same group sizes. Raises InputError where not possible.
        """
        if settings.order is None and settings.steps is None and settings.schedule is None:
            return self.step
        try:
            if settings.order is None and not self.is_current():
                raise InputError("the options do not give the trained order any more, so that it cannot be cut anew")
            return decode_steps(self.sampled_options(settings), *self.grid)
        except InputError as error:
            given = {key: getattr(settings, key) for key in ("order", "steps", "schedule")}
            asked = ", ".join(f"sample.{key}={value}" for key, value in given.items() if value is not None)
            raise InputError(f"{asked}: {error}") from error

    def sampled_options(self, settings: SampleConfig) -> OrderConfig:
        """Options of the order that is sampled in; raises InputError if the model was trained on one order alone."""
        if settings.order is not None and not self.varies:
            raise InputError(
                f"sample.order={settings.order} needs a model that was trained on many orders, and here is "
                "train.permutations=fixed"
            )
        order = self.config.order
        if settings.order is not None:
            order = self.adjust(parse_order(settings.order, self.config.order))
        if settings.steps is None and settings.schedule is None:
            return order
        steps = order.steps if settings.steps is None else settings.steps
        return replace(order, steps=steps, schedule=settings.schedule or order.schedule, sizes=None, sizes_of=None)

    def of_images(self, settings: SampleConfig, images: Tensor) -> Tensor:
        """Step (N,) of all, or (B, N) of each of the images that the sampler numbers `images` (B,)."""
        if not settings.order_per_image:
            return rows_of(self.sampled(settings), images)
        steps = image_steps(self.sampled_options(settings), *self.grid, settings.seed, images.tolist())
        if step_sizes(steps) != step_sizes(self.sampled(settings)):
            raise InputError(
                "the options do not give the trained group sizes any more: no order per image can be drawn"
            )
        return steps

    def with_given(self, hidden: Tensor, settings: SampleConfig, images: Tensor) -> list[Restricted]:
        """Orders of images of which all cells are given but those `hidden` (B, N).

        The hole is decoded in `settings.steps` groups, or in those of the order. Where nothing is given, as sampling
        does. Where sampling finds the order, the hole takes the steps that are left of all when the others are known.
        Raises InputError where not possible.
        """
        asked = self.of_images(settings, images).expand(hidden.shape)
        if settings.choice_temperature is not None:
            return [known_first(step, row) for step, row in zip(asked, hidden, strict=True)]
        own = self._of_holes(hidden, replace(settings, steps=None, schedule=None), images)
        natural = [given_first(step, row) for step, row in zip(own, hidden, strict=True)]
        if settings.steps is None and settings.schedule is None:
            kept = natural
        else:
            ranking, order = self._ranking(hidden, settings, images), self.sampled_options(settings)
            schedule = order.schedule or ("cosine" if takes(order.name, ORDERS, "sizes") else "constant")
            kept = [
                one if settings.steps == one.steps and settings.schedule is None
                else cut_again(step, row, ranks, settings.steps or one.steps, schedule)
                for one, step, row, ranks in zip(natural, own, hidden, ranking, strict=True)
            ]  # fmt: skip
        return [given_first(asked[i], row) if row.all() else kept[i] for i, row in enumerate(hidden)]

    def _of_holes(self, hidden: Tensor, settings: SampleConfig, images: Tensor) -> Tensor:
        """Step (B, N) of each image; an order that looks at the hole has groups of its own around it."""
        order = self.sampled_options(settings)
        if not self.varies or not takes(order.name, ORDERS, "given"):
            return self.of_images(settings, images).expand(hidden.shape)
        order = replace(order, steps=settings.steps, schedule=settings.schedule, sizes=None, sizes_of=None)
        return torch.stack([decode_steps(order, *self.grid, given=~row) for row in hidden])

    def _ranking(self, hidden: Tensor, settings: SampleConfig, images: Tensor) -> Tensor:
        """Ranking (B, N) that holes are cut from: cell by cell; of an order that is made for group sizes, for these."""
        if takes(self.sampled_options(settings).name, ORDERS, "sizes"):
            return self.of_images(settings, images).expand(hidden.shape)
        return self._of_holes(hidden, replace(settings, steps=hidden.shape[1], schedule="constant"), images)

    def sampled_digest(self, settings: SampleConfig) -> str:
        """12 hex digits of the order that is sampled in; of the first images' where each has its own."""
        own = settings.order_per_image
        return order_hash(self.of_images(settings, torch.arange(8)) if own else self.sampled(settings))

    def check_per_image(self, settings: SampleConfig) -> None:
        """Refuse an order per image where it means nothing; raises InputError."""
        if not settings.order_per_image:
            return
        order = self.sampled_options(settings)
        choose("order", order.name, ORDERS)
        if not self.varies or not takes(order.name, ORDERS, "seed"):
            able = ", ".join(name for name in ORDERS if takes(name, ORDERS, "seed"))
            raise InputError(
                f"sample.order_per_image needs an order with a seed ({able}) and a model that was trained on many "
                f"orders, not order '{order.name}' with train.permutations={self.config.train.permutations}; set it to "
                "false for one order of all images"
            )


def _as_they_are(order: OrderConfig) -> OrderConfig:
    return order


def order_hash(step: Tensor) -> str:
    """Name a step vector (N,), or several (M, N), by 12 hex digits."""
    return sha256(str(tuple(step.shape)).encode() + step.cpu().to(torch.int64).numpy().tobytes()).hexdigest()[:12]


def rows_of(values: Tensor, images: Tensor) -> Tensor:
    """(N,) for all images, or (B, N): row i modulo M of (M, N) for image i."""
    return values if values.ndim == 1 else values[images.cpu() % len(values)]
