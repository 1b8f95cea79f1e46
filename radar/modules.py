"""LightningModules: the tokenizer and the generator (transformer + order + attention variant).

Every training step draws its random numbers from (seed, batch number), so that a resumed run repeats them.
Legend: B images, N cells, S slots, T targets, K steps, V vocabulary.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from radar.attention import BACKENDS, NONE, VARIANTS, Slots
from radar.config import Config, TrainConfig, choose, to_dict
from radar.corruption import CORRUPTIONS, corruption_mask
from radar.errors import NonFiniteLoss
from radar.orders import decode_sequence, decode_steps, redraw_sequences, step_sizes
from radar.provenance import git_commit
from radar.sampling import draw
from radar.seeding import derive
from radar.tokenizers import Convolutional, codebook_use, normalise, reconstruction_loss
from radar.tokens import Batch
from radar.transformer import Transformer


def learning_rate(step: int, config: TrainConfig) -> float:
    """Factor on `train.lr`: linear warm-up, then cosine to zero at the last step."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


class TrainedModule(LightningModule):
    """What both modules share: optimizer, clipping, logging, provenance inside checkpoints, the check of the loss."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config

    def configure_optimizers(self) -> Any:
        """AdamW without decay on vectors and embeddings, under `learning_rate`."""
        t, groups = self.config.train, {True: list[Tensor](), False: list[Tensor]()}
        for module in self.modules():
            for parameter in module.parameters(recurse=False):
                if parameter.requires_grad:
                    groups[parameter.ndim > 1 and not isinstance(module, torch.nn.Embedding)].append(parameter)
        optimizer = torch.optim.AdamW(
            [
                {"params": groups[True], "weight_decay": t.weight_decay},
                {"params": groups[False], "weight_decay": 0.0},
            ],
            lr=t.lr,
            betas=(0.9, 0.95),
            fused=True,
        )
        schedule = LambdaLR(optimizer, lambda step: learning_rate(step, t))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(self, optimizer: Optimizer, *args: Any, **kwargs: Any) -> None:
        """Clip, and log the norm that is computed for it anyway."""
        norm = torch.nn.utils.clip_grad_norm_(self.parameters(), self.config.train.clip)
        self.log_values({"train/grad_norm": norm})

    def log_values(self, values: dict[str, Tensor | float]) -> None:
        """Log on every `log_every`-th optimizer step, straight to the loggers (cheaper than `self.log`)."""
        step = self.global_step + 1
        if step % self.config.train.log_every == 0:
            for logger in self.loggers:
                logger.log_metrics({key: float(value) for key, value in values.items()}, step)

    def images_seen(self) -> int:
        """Training images up to and with this optimizer step."""
        t = self.config.train
        return (self.global_step + 1) * t.batch_size * t.accumulate

    def seed_batch(self, number: int) -> None:
        """Make all that is random in this batch a function of (seed, number)."""
        torch.manual_seed(derive(self.config.seed, 2, number))

    def checked(self, loss: Tensor) -> Tensor:
        """Return the loss; raises NonFiniteLoss if it is NaN or infinite."""
        if not torch.isfinite(loss):
            raise NonFiniteLoss(
                f"the loss became {float(loss)} at step {self.global_step}; "
                "the last good checkpoint is kept; try a lower train.lr"
            )
        return loss

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put configuration and git commit into the checkpoint as plain values."""
        checkpoint["radar"] = {"config": to_dict(self.config), "commit": git_commit()}


class GeneratorModule(TrainedModule):
    """A transformer that learns to decode in one order under one attention variant.

    Args:
        config: all options.
        vocabulary: V.
        classes: number of labels.
        grid: (h, w).

    Raises InputError if order, variant and grid do not fit together.
    """

    def __init__(self, config: Config, vocabulary: int, classes: int, grid: tuple[int, int]) -> None:
        super().__init__(config)
        self.step = decode_steps(config.order, *grid)
        self.slots = choose("attention", config.attention, VARIANTS)(step_sizes(self.step))
        self.mask = self.slots.mask()
        self.backend = choose("attention backend", config.model.backend, BACKENDS)
        self._packed: tuple[torch.device, Tensor | BlockMask] | None = None
        self.corrupt = choose("corruption", config.train.corruption, CORRUPTIONS)
        self.layout = choose("layout", config.train.layout, LAYOUTS)
        if config.train.redraw_order:
            redraw_sequences(config.order, *grid, images=1, seed=0)  # fails here, not in mid-training
        self.model = Transformer(config.model, vocabulary, classes, grid)
        self._sums = torch.zeros(2, dtype=torch.float64)

    def packed_mask(self) -> Tensor | BlockMask:
        """Build the mask of the whole layout for the backend, once per device."""
        if self._packed is None or self._packed[0] != self.device:
            self._packed = (self.device, self.backend(self.slots, self.device))
        return self._packed[1]

    @property
    def steps(self) -> int:
        """K."""
        return int(self.step.max()) + 1

    @property
    def sequence(self) -> Tensor:
        """(N,) cells in decoding order."""
        return decode_sequence(self.step).to(self.device)

    def cross_entropy(
        self, slots: Slots, mask: Tensor | BlockMask, content: Tensor, labels: Tensor, sequence: Tensor, known: Tensor
    ) -> Tensor:
        """Loss (B, T) in nats of every target, given the content (B, S) and the true tokens (B, N) by rank."""
        logits = self.model(slots, content, labels, sequence, mask)
        truth = known[:, slots.target[slots.target != NONE]]
        return F.cross_entropy(logits.flatten(0, 1).float(), truth.flatten(), reduction="none").view(truth.shape)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss = mean over the asked cells + correction_weight * mean over the revised ones."""
        number, tokens, labels = batch
        self.seed_batch(number)
        t = self.config.train
        slots, mask, share = self.layout(self)
        slots, mask, sequence = (
            slots.to(self.device),
            mask.to(self.device),
            self._sequences(len(tokens), number),
        )
        known = tokens.gather(1, sequence) if sequence.ndim == 2 else tokens[:, sequence]
        labels = torch.where(
            torch.rand(labels.shape, device=self.device) < self.config.model.label_dropout,
            self.model.classes,
            labels,
        )
        content = self._corrupted(known[:, slots.rank.clamp(min=0)], slots, known, labels, sequence)
        losses = self.cross_entropy(slots, mask, content, labels, sequence, known)
        revises = slots.revises[slots.target != NONE]
        # Divided by what the whole layout holds, so that a sampled part estimates the loss of the packed one.
        asked = losses[:, ~revises].sum() / (len(tokens) * int(self.slots.asks.sum()) * share)
        revised = losses[:, revises].sum() / (len(tokens) * max(1, int(self.slots.revises.sum())) * share)
        self._log_training(losses, slots, asked, revised)
        return self.checked(asked + t.correction_weight * revised)

    def _sequences(self, images: int, number: int) -> Tensor:
        if not self.config.train.redraw_order:
            return self.sequence
        seed = derive(self.config.seed, 3, number)
        return redraw_sequences(self.config.order, *self.model.grid, images=images, seed=seed).to(self.device)

    def _corrupted(self, content: Tensor, slots: Slots, known: Tensor, labels: Tensor, sequence: Tensor) -> Tensor:
        rate = self.config.train.corruption_rate
        if not rate or not slots.revises.any():
            return content

        @torch.no_grad()
        def predict() -> Tensor:
            whole = self.slots.to(self.device)
            logits = self.model(whole, known[:, whole.rank.clamp(min=0)], labels, sequence, self.mask.to(self.device))
            asks = whole.asks[whole.target != NONE]
            drawn = draw(
                logits[:, asks].float().softmax(-1),
                torch.rand(len(known), int(asks.sum()), device=self.device),
            )
            return torch.empty_like(known).index_copy_(1, whole.target[whole.asks], drawn)

        bad = corruption_mask(slots, len(content), rate)
        return torch.where(bad, self.corrupt(content, slots, self.model.vocabulary, predict), content)

    def _log_training(self, losses: Tensor, slots: Slots, asked: Tensor, revised: Tensor) -> None:
        if (self.global_step + 1) % self.config.train.log_every:
            return
        values: dict[str, Tensor | float] = {
            "train/loss": asked.detach(),
            "train/images_seen": self.images_seen(),
        }
        if slots.revises.any():
            values["train/correction_loss"] = revised.detach()
        values |= {f"order/step_{k:03d}": v for k, v in self._per_step(losses.detach(), slots).items()}
        self.log_values(values)

    def _per_step(self, losses: Tensor, slots: Slots) -> dict[int, Tensor]:
        targets = slots.target[slots.target != NONE]
        asks = ~slots.revises[slots.target != NONE]
        step = self.step.sort().values.to(targets.device)[targets]
        return {k: losses[:, asks & (step == k)].mean() for k in step[asks].unique().tolist()}

    def nll(self, tokens: Tensor, labels: Tensor) -> Tensor:
        """Teacher-forced NLL (B,) in nats per image of the new cells; exact where the variant has no revision."""
        slots, sequence = self.slots.to(self.device), self.sequence
        known = tokens[:, sequence]
        content = known[:, slots.rank.clamp(min=0)]
        losses = self.cross_entropy(slots, self.mask.to(self.device), content, labels, sequence, known)
        return losses[:, slots.asks[slots.target != NONE]].double().sum(1)

    def on_validation_epoch_start(self) -> None:
        """Start the sum over held-out images."""
        self._sums = torch.zeros(2, dtype=torch.float64)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add up the NLL of held-out images."""
        _, tokens, labels = batch
        self._sums += torch.tensor([float(self.nll(tokens, labels).sum()), len(tokens)], dtype=torch.float64)

    def on_validation_epoch_end(self) -> None:
        """Log the mean held-out NLL in nats per image."""
        value = float(self._sums[0] / self._sums[1])
        self.log("val/nll", value, logger=False)
        for logger in self.loggers:
            logger.log_metrics({"val/nll": value}, self.global_step)


def packed(module: GeneratorModule) -> tuple[Slots, Tensor | BlockMask, float]:
    """All steps in one sequence: slots, mask, share of the steps."""
    return module.slots, module.packed_mask(), 1.0


def sampled(module: GeneratorModule) -> tuple[Slots, Tensor | BlockMask, float]:
    """`train.layout_steps` random steps and what they can see: shorter sequences, a noisier loss."""
    count = min(module.config.train.layout_steps, module.steps)
    part = module.slots.only(torch.randperm(module.steps)[:count])
    return part, part.mask().to(module.device), count / module.steps


LAYOUTS = {"packed": packed, "sampled": sampled}


class TokenizerModule(TrainedModule):
    """A convolutional tokenizer that learns to restore images."""

    def __init__(self, config: Config, tokenizer: Convolutional) -> None:
        super().__init__(config)
        self.tokenizer = tokenizer
        self._counts = torch.zeros(tokenizer.vocabulary)
        self._error = torch.zeros(2, dtype=torch.float64)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Reconstruction loss plus the quantiser's own."""
        number, images, _ = batch
        self.seed_batch(number)
        restored, tokens, quantiser = self.tokenizer(images)
        loss = reconstruction_loss(restored, images)
        counts = torch.bincount(tokens.flatten(), minlength=self.tokenizer.vocabulary)
        use = {f"train/{key}": value for key, value in codebook_use(counts).items()}
        self.log_values({"train/loss": loss.detach(), "train/images_seen": self.images_seen(), **use})
        return self.checked(loss + quantiser)

    def on_validation_epoch_start(self) -> None:
        """Start counting codes and errors."""
        self._counts, self._error = (
            torch.zeros(self.tokenizer.vocabulary),
            torch.zeros(2, dtype=torch.float64),
        )

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count codes and squared errors of held-out images."""
        _, images, _ = batch
        tokens = self.tokenizer.encode(images)
        restored = self.tokenizer.decode(tokens, self.tokenizer.grid((images.shape[2], images.shape[3])))
        self._counts += torch.bincount(tokens.flatten().cpu(), minlength=self.tokenizer.vocabulary)
        squared = (normalise(restored) - normalise(images)).double().square()
        self._error += torch.tensor([float(squared.sum()), squared.numel()], dtype=torch.float64)

    def on_validation_epoch_end(self) -> None:
        """Log mean squared error on [-1, 1], codebook use and perplexity of the held-out images."""
        values = {"val/mse": float(self._error[0] / self._error[1])}
        values |= {f"val/{key}": value for key, value in codebook_use(self._counts).items()}
        self.log_dict(values, logger=False)
        for logger in self.loggers:
            logger.log_metrics(values, self.global_step)
