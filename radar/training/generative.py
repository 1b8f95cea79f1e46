"""What every generator of images is to scoring, timing and reports: it draws tokens, in some passes, at some cost.

Legend: B images, N cells, S slots.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from radar.config.lookup import choose
from radar.config.options import Config
from radar.config.sampling import SampleConfig
from radar.data.batches import Batch
from radar.data.token_arrays import TokenSplit
from radar.decoding.decoding_order import DecodingOrder
from radar.errors import InputError
from radar.sampling.cost import Cost
from radar.sampling.sampler import Trace
from radar.training.alignment import Alignment
from radar.training.fsdp import Sharded
from radar.training.optimizers import OPTIMIZERS
from radar.training.trained import TrainedModule

Drawer = Callable[[Tensor, Sequence[int]], Tensor]  # labels (B,), numbers of images -> tokens (B, N), or vectors


class Sampling(NamedTuple):
    """Drawing one image: forward passes, slots that they encode, and cost, where guidance counts twice."""

    passes: int
    slots: int
    cost: Cost


class Sketch(NamedTuple):
    """A training step that can be run on fake tensors: slots of an image, number of images -> losses (B, ...)."""

    slots: int
    losses: Callable[[int], Tensor]


class GenerativeModule(TrainedModule):
    """A network that learns to draw the tokens of an image.

    Attributes:
        model: the network.
        order: in which its cells are decoded.
        slots_per_image: that training encodes for an image, S.
        takes_others: whether its training batches need tokens of other images, too.
        revises: whether known cells may be drawn again.
        alignment: with an encoder, where `train.align` asks for it.
    """

    model: nn.Module
    order: DecodingOrder
    alignment: Alignment | None
    takes_others = False
    revises = False

    def __init__(self, config: Config, origin: dict[str, str] | None = None) -> None:
        super().__init__(config, origin)
        if config.train.optimizer is not None:
            choose("optimizer", config.train.optimizer, OPTIMIZERS)

    @property
    def grid(self) -> tuple[int, int]:
        """Cells (h, w)."""
        return self.order.grid

    @property
    def cells(self) -> int:
        """N."""
        return self.grid[0] * self.grid[1]

    @property
    def slots_per_image(self) -> int:
        """Slots of one image in training, S."""
        raise NotImplementedError

    def configure_model(self) -> None:
        """Share the weights out where the devices shall hold a part each; called by Lightning."""
        if isinstance(shared := self.trainer.strategy, Sharded):
            shared.share_out(self.model, [block for blocks in self.blocks() for block in blocks.children()])

    @contextmanager
    def watching(self) -> Iterator[list[Tensor]]:
        """Collect what an aligned layer gives."""
        blocks = self.blocks()[0]
        assert isinstance(blocks, nn.ModuleList)
        if self.alignment is None:
            yield []
        else:
            with self.alignment.watching(blocks) as seen:
                yield seen

    def aligned(self, seen: Sequence[Tensor], tokens: Tensor, cells: Tensor, there: Tensor) -> Tensor | float:
        """Loss of the alignment (see Alignment); 0 without."""
        return self.alignment(seen, tokens, cells, there) if self.alignment else 0.0

    def aligned_value(self, aligned: Tensor | float) -> dict[str, Tensor]:
        """The mean cosine of the alignment, to be logged; nothing without."""
        weight = self.config.train.align_weight
        return {} if self.alignment is None else {"train/cosine": torch.as_tensor(1 - aligned / weight)}

    def example(self, images: int) -> Tensor:
        """Inputs (B, N) of any images."""
        return torch.zeros(images, self.cells, dtype=torch.long, device=self.device)

    def learn_from(self, splits: Mapping[str, TokenSplit]) -> None:
        """Measure what must be known of the tokens before a training begins; nothing by default."""

    def check_sampling(self, settings: SampleConfig) -> None:
        """Raise InputError for what is not possible, or has no effect."""
        raise NotImplementedError

    def is_ordered(self, settings: SampleConfig) -> bool:
        """Whether cells are decoded in an order that is known before: so that there is an NLL."""
        raise NotImplementedError

    def has_gap(self, settings: SampleConfig) -> bool:
        """Whether that order is one of places in the image: so that there is an independence gap."""
        return self.is_ordered(settings)

    def sampling(self, settings: SampleConfig) -> Sampling:
        """What drawing one image takes."""
        raise NotImplementedError

    @contextmanager
    def ready_to_draw(self, settings: SampleConfig) -> Iterator[Drawer]:
        """Give what draws many batches; in the meantime the weights must not change."""
        raise NotImplementedError

    def drawn(self, settings: SampleConfig, labels: Tensor) -> Trace:
        """Follow how the first images, of labels (B,), are drawn."""
        raise NotImplementedError

    def nll(
        self, tokens: Tensor, labels: Tensor, settings: SampleConfig | None = None, images: Tensor | None = None
    ) -> Tensor:
        """Teacher-forced NLL (B,) in nats per image, where `is_ordered`."""
        raise NotImplementedError

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of a batch, or of a part of one."""
        raise NotImplementedError

    def sketches(self, draws: int, device: str) -> list[Sketch]:
        """Steps of training on a kind of device, not compiled; so many, if they are random."""
        raise NotImplementedError

    @contextmanager
    def countable(self) -> Iterator[int]:
        """Let the operations of training steps be counted, as the mean of so many of them."""
        raise NotImplementedError

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the order itself: computed again by other code, it might be another."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["radar"] |= {
            "order": self.order.stored(),
            "sampled_order": self.order.sampled_digest(self.config.sample),
        }


def check_unread(options: Any, group: str, names: Sequence[str], what: str) -> None:
    """Raise InputError for options of a group (a dataclass) that are set and not read."""
    for name in names:
        if (value := getattr(options, name)) != getattr(type(options)(), name):
            raise InputError(f"{group}.{name}={value} has no effect on {what}")
