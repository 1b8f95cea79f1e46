"""The LightningModule that trains a diffusion of codes or vectors (DiT): all cells at once, out of noise.

Legend: B images, N cells, C channels, T noise levels, K levels that sampling uses.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

from radar.config.options import Config
from radar.config.sampling import SampleConfig
from radar.data.batches import Batch
from radar.data.token_arrays import TokenSplit
from radar.decoding.decoding_order import DecodingOrder
from radar.diffusion.denoiser import Denoiser
from radar.diffusion.process import Chain
from radar.diffusion.solvers import denoise, passes_of, solver_of
from radar.diffusion.spaces import Space
from radar.errors import InputError
from radar.kernels.linear import fast_products
from radar.parts import Draws
from radar.sampling.cost import Cost
from radar.sampling.sampler import Trace, product_dtype
from radar.seeding import Stream, derive
from radar.training.alignment import build_alignment
from radar.training.devices import over_devices
from radar.training.generative import Drawer, GenerativeModule, Sampling, Sketch, check_unread

# Options of sampling that a diffusion does not read, and what leaves them out.
UNREAD = (
    "guidance_schedule", "guidance_power", "top_k", "top_p", "correction", "order", "order_per_image", "steps",
    "schedule", "grid", "place", "rotary", "learned", "choice_temperature", "revise_rings", "revise_every",
)  # fmt: skip


SHOWN = 16  # passes of a film, evenly spread


class DiffusionModule(GenerativeModule):
    """A network that learns to take noise out of the codes of an image.

    Args:
        config: all options.
        space: what is drawn.
        classes: number of labels.
        grid: (h, w).
        origin: names of what options say by path; in checkpoints, compared when loading.
        step: the order of a checkpoint.
        planned: build the weights on the meta device.

    Raises InputError where options do not fit together.
    """

    judged_by = "val/loss"
    model: Denoiser

    def __init__(
        self,
        config: Config,
        space: Space,
        classes: int,
        grid: tuple[int, int],
        origin: dict[str, str] | None = None,
        step: Tensor | None = None,
        planned: bool = False,
    ) -> None:
        super().__init__(config, origin)
        self.order = DecodingOrder(config, grid, step)
        if self.order.step.any() or config.attention != "bidirectional" or config.train.permutations != "fixed":
            raise InputError(
                "generator=diffusion draws all cells at once, and all see each other: order.name=together, "
                "attention=bidirectional and train.permutations=fixed expected, as method=dit sets them"
            )
        self.chain = Chain.whole(config.diffusion)
        outputs = 2 if config.diffusion.learned_variance else 1
        with torch.device("meta") if planned else nullcontext():
            self.model = Denoiser(config.model, space.to("meta") if planned else space, classes, grid, outputs)
        self.alignment = build_alignment(config.train, self.model.shape.dim, len(self.model.blocks))
        check_unread(config.revise, "revise", ("rings", "every"), "a diffusion")
        check_unread(config.model, "model", ("class_position", "backend"), "a diffusion")
        self.check_sampling(config.sample)
        self._sums = torch.zeros(2, dtype=torch.float64)

    def blocks(self) -> Sequence[nn.Module]:
        """Those of the network."""
        return [self.model.blocks]

    @property
    def slots_per_image(self) -> int:
        """One per cell."""
        return self.cells

    def example(self, images: int) -> Tensor:
        """Inputs (B, N) or (B, N, C) of any images."""
        return self.model.space.example(images, self.cells).to(self.device)

    def learn_from(self, splits: Mapping[str, TokenSplit]) -> None:
        """Normalise: every channel has mean 0 and deviation 1 over the cells of the training images."""
        self.model.space.fit(splits["train"])

    def check_sampling(self, settings: SampleConfig) -> None:
        """Raise InputError for a solver that is unknown, or passes, channels and options that are not possible."""
        solver_of(settings)
        if passes_of(settings) > (levels := self.config.diffusion.levels):
            raise InputError(f"sample.passes={passes_of(settings)} is not possible: 1 to diffusion.levels={levels}")
        if settings.guidance_channels is not None and settings.guidance_channels > self.model.channels:
            raise InputError(
                f"sample.guidance_channels={settings.guidance_channels} is not possible: codes have "
                f"{self.model.channels} channels"
            )
        check_unread(settings, "sample", UNREAD, "a diffusion")
        if settings.solver == "ddim":
            check_unread(settings, "sample", ("temperature",), "sample.solver=ddim, which draws no fresh noise")

    def is_ordered(self, settings: SampleConfig) -> bool:
        """No cell comes before another."""
        return False

    def sampling(self, settings: SampleConfig) -> Sampling:
        """So many passes over all cells."""
        rows = 1 if settings.guidance == 1 else 2
        one, count = self.model.cost(rows), passes_of(settings)
        cost = Cost(count * one.products, count * one.attention, count * one.bytes, count)
        return Sampling(count, count * self.cells, cost)

    @contextmanager
    def ready_to_draw(self, settings: SampleConfig) -> Iterator[Drawer]:
        """Draw vectors, then what they stand for; nothing is recorded (radar/kernels)."""

        def draw(labels: Tensor, images: Sequence[int]) -> Tensor:
            with self._without_gradients(settings):
                *_, (x, _) = self._passes(settings, labels, images)
                return self.model.space.back(x)

        with fast_products(self.model, product_dtype(settings)):
            yield draw

    def drawn(self, settings: SampleConfig, labels: Tensor) -> Trace:
        """What passes take for the image without noise; cells that they see otherwise than the one shown before."""
        trace, none = Trace(), torch.zeros(len(labels), self.cells, dtype=torch.bool)
        with self._without_gradients(settings):
            passes, count = self._passes(settings, labels, range(len(labels))), passes_of(settings)
            shown = {round((i + 1) * count / min(count, SHOWN)) for i in range(min(count, SHOWN))}
            for number, (_, clean) in enumerate(passes, start=1):
                if number not in shown:
                    continue
                trace.numbers.append(number)
                tokens = self.model.space.back(clean).cpu()
                first = not trace.tokens
                changed = none if first else (tokens != trace.tokens[-1]).view(*none.shape, -1).any(-1)
                trace.revised.append(changed)
                trace.written.append(~none if first else none)
                trace.tokens.append(tokens)
        return trace

    @contextmanager
    def _without_gradients(self, settings: SampleConfig) -> Iterator[None]:
        low = settings.precision == "bf16-mixed"
        with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16, low):
            yield

    def _passes(self, settings: SampleConfig, labels: Tensor, images: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
        chain = self.chain.respaced(passes_of(settings)).to(labels.device)
        return denoise(self.model, chain, labels, settings, images)

    def sketches(self, draws: int, device: str) -> list[Sketch]:
        """All steps are alike."""
        self.model.compiled = False

        def losses(images: int) -> Tensor:
            labels = torch.zeros(images, dtype=torch.long)
            tokens = self.example(images)
            noise = torch.zeros(images, self.cells, self.model.channels)
            return sum(self.losses(tokens, labels, labels, noise))  # type: ignore[return-value]

        return [Sketch(self.cells, losses)]

    @contextmanager
    def countable(self) -> Iterator[int]:
        """Not compiled."""
        compiled, self.model.compiled = self.model.compiled, False
        try:
            yield 1
        finally:
            self.model.compiled = compiled

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss at a random level of noise for each image."""
        part = batch.place
        self.seed_batch(batch.number)
        draws = Draws(part, self.device)
        dropped = draws.uniform() < self.config.model.label_dropout
        labels = torch.where(dropped, self.model.classes, batch.labels)
        level, noise = draws.integers(len(self.chain.times)), draws.normal(self.cells, self.model.channels)
        self.seed_batch(batch.number, part.first)  # dropout draws for the images of this part alone
        with self.watching() as seen:
            squared, bound = self.losses(batch.inputs, labels, level, noise)
        cells = torch.arange(self.cells, device=self.device)
        aligned = self.aligned(seen, batch.inputs, cells[None], cells >= 0)
        if self.is_logged():
            values = {"train/loss": squared.mean(), "train/bound": bound.mean()} | self.aligned_value(aligned)
            if (means := self.over_parts(part, values)) is not None:
                self.log_values({**means, "train/images_seen": self.images_seen()})
        return self.checked(((squared + bound).mean() + aligned) * part.weight)

    def losses(self, tokens: Tensor, labels: Tensor, level: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Squared error (B,) of the predicted noise, and the variational bound (B,) that its variance learns from."""
        chain = self.chain = self.chain.to(tokens.device)
        x = self.model.space(tokens)
        noisy = chain.noisy(x, noise, level)
        predicted, *share = self.model(noisy, chain.times[level], labels).float().split(self.model.channels, dim=-1)
        squared = (predicted - noise).square().flatten(1).mean(1)
        bound = chain.bound(x, noisy, predicted, share[0], level) if share else torch.zeros_like(squared)
        return squared, bound

    def on_validation_epoch_start(self) -> None:
        """Start the sum over held-out images."""
        self._sums = torch.zeros(2, dtype=torch.float64)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add up the squared error of held-out images, at levels and with noise that are always the same for each."""
        own = [torch.Generator().manual_seed(derive(Stream.VALIDATION, image)) for image in batch.images.tolist()]
        level = torch.cat([torch.randint(len(self.chain.times), (1,), generator=one) for one in own])
        noise = torch.stack([torch.randn(self.cells, self.model.channels, generator=one) for one in own])
        squared, _ = self.losses(batch.inputs, batch.labels, level.to(self.device), noise.to(self.device))
        self._sums += batch.place.weight * torch.tensor([float(squared.sum()), len(squared)], dtype=torch.float64)

    def on_validation_epoch_end(self) -> None:
        """Log the mean."""
        self.log_validation()

    def validation_values(self) -> dict[str, float]:
        """Mean squared error of the noise in held-out images."""
        total, images = over_devices(self._sums).tolist()
        return {"val/loss": total / images}
