"""What every trained module shares: optimizer, clipping, logging, provenance, the check of the loss."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from radar.config.load import to_dict
from radar.config.lookup import choose
from radar.config.options import Config
from radar.config.renamed import upgrade
from radar.config.training import TrainConfig
from radar.errors import NonFiniteLoss
from radar.parts import Part, cut
from radar.provenance import git_commit
from radar.seeding import Stream, derive
from radar.training.devices import over_devices
from radar.training.optimizers import OPTIMIZERS, sorted_weights


def learning_rate(step: int, config: TrainConfig) -> float:
    """Factor on the learning rates: linear warm-up, then cosine to zero, or constant and linear to zero at the end."""
    warmup = config.warmup_steps
    if step < warmup:
        return (step + 1) / warmup
    if config.decay is not None:
        return min(1.0, max(0.0, (config.max_steps - step) / max(1.0, config.decay * config.max_steps)))
    done = (step - warmup) / max(1, config.max_steps - warmup)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def parts_of_a_step(config: TrainConfig) -> int:
    """Parts of a batch that every device goes through in an optimizer step."""
    return len(cut(config.batch_size, config.devices * config.nodes, config.micro_batch)[0])


class TrainedModule(LightningModule):
    """What both modules share: optimizer, clipping, logging, provenance inside checkpoints, the check of the loss.

    Attributes:
        judged_by: the validated figure by which one step's weights are better than another's; lower is better.
    """

    judged_by: str

    def __init__(self, config: Config, origin: dict[str, str] | None = None) -> None:
        super().__init__()
        self.config, self.origin = config, origin or {}
        self._found: dict[str, Tensor] = {}  # by the parts of this batch

    def blocks(self) -> Sequence[nn.Module]:
        """Parts whose matrices an optimizer may treat as such; none by default."""
        return ()

    def build_optimizer(self) -> Optimizer:
        """The optimizer of `train.optimizer`, or what fits; raises InputError where it does not fit the weights."""
        t, weights = self.config.train, sorted_weights(self, self.blocks())
        name = t.optimizer or ("muon" if weights.matrices else "adamw")
        return choose("optimizer", name, OPTIMIZERS)(weights, t)

    def configure_optimizers(self) -> Any:
        """The optimizer, under `learning_rate`."""
        optimizer = self.build_optimizer()
        schedule = LambdaLR(optimizer, lambda step: learning_rate(step, self.config.train))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(self, optimizer: Optimizer, *args: Any, **kwargs: Any) -> None:
        """Clip; check and log the norm that is computed for it anyway."""
        for number, part in enumerate(self.clipped()):
            norm = self.checked(nn.utils.clip_grad_norm_(part.parameters(), self.config.train.clip))
            if number == 0:
                self.log_values({"train/grad_norm": norm})

    def clipped(self) -> Sequence[nn.Module]:
        """Parts whose gradient is clipped by itself; the norm of the first is logged."""
        return [self]

    def log_values(self, values: dict[str, Tensor | float]) -> None:
        """Log on every `log_every`-th optimizer step, straight to the loggers (cheaper than `self.log`)."""
        step = self.global_step + 1
        if step % self.config.train.log_every == 0:
            for logger in self.loggers:
                logger.log_metrics({key: float(value) for key, value in values.items()}, step)

    def validation_values(self) -> dict[str, float]:
        """Figures of the held-out images that `validation_step` has gone through, by their names in the logs."""
        raise NotImplementedError

    def log_validation(self) -> None:
        """Log them at this optimizer step."""
        values = self.validation_values()
        self.log_dict(values, logger=False)
        for logger in self.loggers:
            logger.log_metrics(values, self.global_step)

    def is_logged(self) -> bool:
        """Tell whether this optimizer step is logged."""
        return (self.global_step + 1) % self.config.train.log_every == 0

    def images_seen(self) -> int:
        """Training images up to and with this optimizer step."""
        return (self.global_step + 1) * self.config.train.batch_size

    def seed_batch(self, number: int, *place: int) -> None:
        """Make all that is random from here on a function of (seed, number of the batch, place in it)."""
        torch.manual_seed(derive(Stream.STEP, self.config.seed, number, *place))

    def over_parts(self, part: Part, values: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        """Means of what all parts of a batch, on all devices, have found; None before the last part."""
        share = part.weight / part.parts
        for name, value in values.items():
            self._found[name] = self._found.get(name, 0) + share * value.detach()
        if not part.last:
            return None
        found, self._found = self._found, {}
        sums = over_devices(torch.cat([value.flatten() for value in found.values()]))
        parts = sums.split([value.numel() for value in found.values()])
        return {name: value.view(found[name].shape) for name, value in zip(found, parts, strict=True)}

    def checked(self, value: Tensor) -> Tensor:
        """Return a loss or gradient norm; raises NonFiniteLoss if it is NaN or infinite, before any weight changes."""
        if not torch.isfinite(value):
            raise NonFiniteLoss(
                f"loss or gradient became {float(value)} at step {self.global_step}; "
                "what was checkpointed before is kept; try a lower train.lr"
            )
        return value

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take what an older version wrote, or another number of devices: batches are counted as they are now."""
        upgrade(checkpoint)
        batches = checkpoint["global_step"] * parts_of_a_step(self.config.train)
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        for counted in (progress["total"], progress["current"]):
            counted.update(dict.fromkeys(counted, batches))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put configuration and git commit into the checkpoint as plain values."""
        checkpoint["radar"] = {
            "config": to_dict(self.config),
            "commit": git_commit(),
            "origin": self.origin,
        }
