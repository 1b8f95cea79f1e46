"""A transformer that decodes in one order under one attention variant, and how it is sampled; generator.py trains it.

Legend: B images, N cells, S slots, K steps, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cached_property

import torch
from torch import Tensor, nn

from radar.attention import VARIANTS, Slots
from radar.attention.slots import check_leaks
from radar.config.lookup import call
from radar.config.options import Config, ReviseConfig
from radar.config.sampling import SampleConfig
from radar.config.training import DiffusionConfig
from radar.decoding.decoding_order import DecodingOrder
from radar.decoding.groups import decode_permutation, step_sizes
from radar.errors import InputError
from radar.model.transformer import Transformer
from radar.sampling.cost import sampling_cost
from radar.sampling.passes import Pass, plan_passes
from radar.sampling.sampler import Trace, ready_to_sample, sample_tokens
from radar.tokenizers.multiscale import Pyramid
from radar.training.fitting import (
    check_directions,
    check_query_blocks,
    check_reader,
    check_rotary,
    check_row,
    with_sides,
)
from radar.training.generative import Drawer, GenerativeModule, Sampling, check_unread

UNREAD = ("passes", "solver", "guidance_channels")  # options of sampling that are for others


class OrderedGenerator(GenerativeModule):
    """Order, slots and transformer that fit together, and the parallel sampler.

    Args:
        config: all options.
        vocabulary: V.
        classes: number of labels.
        grid: (h, w).
        origin: names of what options say by path (tokenizer, images); in checkpoints, compared when loading.
        step: the order of a checkpoint, in place of what the options give now.
        planned: build the weights on the meta device: for what does not depend on them.
        reader: scales of the tokenizer, where it has them.

    Raises InputError if order, variant and grid do not fit together.
    """

    model: Transformer

    def __init__(
        self,
        config: Config,
        vocabulary: int,
        classes: int,
        grid: tuple[int, int],
        origin: dict[str, str] | None = None,
        step: Tensor | None = None,
        planned: bool = False,
        reader: Pyramid | None = None,
    ) -> None:
        super().__init__(config, origin)
        self.reader = reader
        self.order = DecodingOrder(with_sides(config, reader), grid, step)
        self.slots = call("attention", config.attention, VARIANTS, step_sizes(self.step), **vars(config.revise))
        check_leaks(self.slots)
        if self.slots.mixes:
            if self.order.varies:
                raise InputError(f"attention '{config.attention}' needs train.permutations=fixed")
            check_directions(self.slots, torch.atleast_2d(self.order.permutation), config.attention, grid[1])
        if config.model.query_share:
            check_query_blocks(self.slots, config)
        if config.model.positions == "rotary":
            check_rotary(self.slots, config, self.order.varies)
        check_reader(self.slots, reader, config)
        check_row(self.order, reader)
        if config.diffusion != DiffusionConfig():
            raise InputError("options diffusion.* have no effect on an autoregressive generator")
        with torch.device("meta") if planned else nullcontext():
            self.model = Transformer(
                config.model, vocabulary, classes, grid, self.slots.mixes,
                reader.features if reader else None, reader.code if reader else 0,
            )  # fmt: skip
        self.check_sampling(config.sample)  # fails here, not after training

    def blocks(self) -> Sequence[nn.Module]:
        """Those of the transformer."""
        return [self.model.blocks, self.model.query_blocks]

    @cached_property
    def mask(self) -> Tensor:
        """Dense mask (S, S) of the whole layout."""
        return self.slots.mask()

    @property
    def step(self) -> Tensor:
        """(N,) step of each cell, or (M, N)."""
        return self.order.step

    @property
    def steps(self) -> int:
        """K."""
        return int(self.step.max()) + 1

    @property
    def slots_per_image(self) -> int:
        """Those of the whole layout."""
        return len(self.slots)

    @property
    def revises(self) -> bool:  # type: ignore[override]
        """Whether its variant does."""
        return bool(self.slots.revises.any())

    def sampled_step(self, settings: SampleConfig) -> Tensor:
        """(N,) or (M, N) step at which the sampler decodes each cell; raises InputError where not possible."""
        return self.order.sampled(settings)

    def sampled_permutation(self, settings: SampleConfig, images: Sequence[int]) -> Tensor:
        """(N,) cells in the sequence of the sampler, or (B, N), one for each of the images that it numbers so."""
        return decode_permutation(self.order.of_images(settings, torch.tensor(images))).to(self.device)

    def sampled_slots(self, settings: SampleConfig) -> Slots:
        """Slots of the sampler; raises InputError where they are not possible."""
        self.order.check_per_image(settings)
        slots = self.slots_of(step_sizes(self.sampled_step(settings)), settings)
        check_reader(slots, self.reader, self.config)
        if settings.choice_temperature is not None and not slots.is_candidate.any():
            raise InputError(
                f"sample.choice_temperature={settings.choice_temperature} needs an attention that predicts all unknown "
                f"cells in every step (bidirectional) and two steps at least, not '{self.config.attention}' in "
                f"{int(slots.in_pass.max()) + 1}"
            )
        return slots

    def passes(self, settings: SampleConfig) -> list[Pass]:
        """Plan the sampler's forward passes, on this module's device."""
        candidates = settings.choice_temperature is not None
        return plan_passes(self.sampled_slots(settings), settings.correction > 0, self.device, candidates)

    def check_sampling(self, settings: SampleConfig) -> None:
        """Plan the slots."""
        check_unread(settings, "sample", UNREAD, "an autoregressive generator")
        self.sampled_slots(settings)

    def is_ordered(self, settings: SampleConfig) -> bool:
        """Unless confidence chooses the cells."""
        return settings.choice_temperature is None

    def has_gap(self, settings: SampleConfig) -> bool:
        """Where every token is one place of the image."""
        return self.is_ordered(settings) and self.model.reader is None

    def sampling(self, settings: SampleConfig) -> Sampling:
        """Read off the planned passes."""
        passes, rows = self.passes(settings), 1 if settings.guidance == 1 else 2
        cost = sampling_cost(self.model.shape, self.model.vocabulary, passes, rows)
        return Sampling(len(passes), sum(len(one.slots) for one in passes), cost)

    @contextmanager
    def ready_to_draw(self, settings: SampleConfig) -> Iterator[Drawer]:
        """The parallel sampler; with products and recordings of its own (radar/kernels)."""
        passes, alike = self.passes(settings), not settings.order_per_image and self.sampled_step(settings).ndim == 1
        shared = self.sampled_permutation(settings, [0]) if alike else None

        def draw(labels: Tensor, images: Sequence[int]) -> Tensor:
            permutation = self.sampled_permutation(settings, images) if shared is None else shared
            return sample_tokens(self.model, passes, permutation, labels, settings, images)

        with ready_to_sample(self.model, settings):
            yield draw

    def drawn(self, settings: SampleConfig, labels: Tensor) -> Trace:
        """The state after every pass."""
        trace, images = Trace(), range(len(labels))
        permutation = self.sampled_permutation(settings, images)
        with ready_to_sample(self.model, settings):
            sample_tokens(self.model, self.passes(settings), permutation, labels, settings, images, trace)
        return trace

    def slots_of(self, sizes: Sequence[int], settings: SampleConfig) -> Slots:
        """Slots to sample groups of such sizes; raises InputError where the variant cannot."""
        revise = vars(_revised(self.config.revise, settings))
        return call("attention", self.config.attention, VARIANTS, sizes, **revise)


def _revised(trained: ReviseConfig, settings: SampleConfig) -> ReviseConfig:
    rings, every = settings.revise_rings, settings.revise_every
    return ReviseConfig(
        rings=trained.rings if rings is None else rings, every=trained.every if every is None else every
    )
