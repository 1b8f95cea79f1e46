"""Lightning callbacks and the checkpoint writer: weight average, progress in plain lines, atomic files."""

import multiprocessing
import sys
import time
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar
from torch import Tensor

from radar import clock
from radar.files import replacing
from radar.training.loggers import show_table
from radar.training.logs import validation_table
from radar.training.shares import kept, put_back, share

FIRST_WAIT, LONGEST_WAIT = 30.0, 3600.0  # seconds without a line of progress: it doubles


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its target and renames it: a kill leaves the old one."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Save whole or not at all."""
        with replacing(Path(path)) as temporary:
            torch.save(checkpoint, temporary)


class StepCheckpoint(ModelCheckpoint):
    """Keeps the newest checkpoint, written between optimizer steps only.

    Lightning forgets on resume at which step it saved last, and would save again after the first micro-batch of the
    next optimizer step: a checkpoint from which accumulated gradients are missing.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember that the restored step is saved."""
        super().on_train_start(trainer, pl_module)
        self._last_global_step_saved = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Leave the last step out: `fit` saves it, after its validation, and then there is nothing to make up."""
        if trainer.global_step < trainer.max_steps:
            super().on_train_batch_end(trainer, *args, **kwargs)


class WeightAverage(Callback):
    """Exponential average of the trainable parameters, in their place during validation.

    Own, because Lightning's EMAWeightAveraging averages integer buffers too and does not resume exactly when stopped in
    validation. The decay warms up as (1 + n) / (10 + n), so that the average of a short run is not that of its start.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.average: list[Tensor] = []
        self.updates = 0
        self.swapped = False

    @staticmethod
    def parameters(module: LightningModule) -> list[Tensor]:
        """Trainable parameters in a fixed order, or this device's share of each."""
        put_back(module)
        return [p.data for p in module.parameters() if p.requires_grad]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start from the weights, or move what was restored to the device."""
        weights = self.parameters(pl_module)
        if self.average:
            self.average = [share(a.to(w.device), w) for a, w in zip(self.average, weights, strict=True)]
        else:
            self.average = [w.clone() for w in weights]

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Update once per optimizer step."""
        if trainer.global_step > self.updates:
            self.updates = trainer.global_step
            decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
            torch._foreach_lerp_(self.average, self.parameters(pl_module), 1 - decay)

    def swap(self, module: LightningModule) -> None:
        """Exchange weights and average."""
        for weight, average in zip(self.parameters(module), self.average, strict=True):
            kept = weight.clone()
            weight.copy_(average)
            average.copy_(kept)
        self.swapped = not self.swapped

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validate the average."""
        if self.average:
            self.swap(pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go back to the weights."""
        if self.swapped:
            self.swap(pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Go back to the weights if validation was interrupted."""
        self.on_validation_end(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """Save the average, or the weights if a swap is on (then `average` holds the weights)."""
        return {"average": [kept(average) for average in self.average], "updates": self.updates}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore."""
        self.average, self.updates = state_dict["average"], state_dict["updates"]


class MadeUp(Callback):
    """Validates what a training goes on from, where a stop came between a checkpoint and its validation.

    So that curves keep their points. To stand behind all callbacks that validate.

    Args:
        missed: whether it did.
    """

    def __init__(self, missed: bool) -> None:
        self.missed = missed

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validate as Lightning does between two steps, on all devices."""
        if trainer.strategy.broadcast(self.missed):
            validation = trainer.fit_loop.epoch_loop.val_loop
            validation.restarting = False  # else it would go on behind the batches of the one before
            trainer.validating = True
            validation.run()
            trainer.training = True


class TrainingClock(Callback):
    """Seconds spent in training and validation, added up over restarts.

    What a kill undid is not counted, nor the time in which the process was stopped.
    """

    def __init__(self) -> None:
        self.spent = 0.0
        self.began = clock.seconds()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start counting."""
        self.began = clock.seconds()

    def state_dict(self) -> dict[str, Any]:
        """Save the seconds so far."""
        return {"seconds": self.spent + clock.seconds() - self.began}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self.spent = state_dict["seconds"]


class ValidationTable(Callback):
    """Logs all validations as a table when a training ends, wherever tables can be shown."""

    def __init__(self, run: Path) -> None:
        self.run = run

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read them from the CSV files, which hold those before a stop as well."""
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                logger.save()
            show_table(trainer.loggers, "validations", validation_table(self.run))


class PlainProgress(Callback):
    """One line per tenth of the steps and, where those take long, after a while; for logs and pipes."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.began: tuple[float, int] | None = None
        self.printed, self.at, self.wait = 0, 0.0, FIRST_WAIT
        self.parts = list[tuple[Tensor, float]]()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say what is begun, before the first step has taken its time."""
        if trainer.is_global_zero:
            print(f"{self.title}: step {trainer.global_step}/{int(trainer.max_steps)}", flush=True)
            self.printed, self.at = trainer.global_step, time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Print where a line is due, with an estimate of the time that is left."""
        step, total, now = trainer.global_step, int(trainer.max_steps), time.monotonic()
        if not trainer.is_global_zero:
            return
        parts = trainer.accumulate_grad_batches
        self.parts = [*self.parts, (outputs["loss"], batch.place.weight)][-parts:]  # shares of a step
        if not batch.place.last:
            return
        if self.began is None:
            self.began = (now, step)
            return
        due = not step % max(1, total // 10) or now - self.at > self.wait
        if not due or step in (self.began[1], self.printed):
            return
        if now - self.at > self.wait:
            self.wait = min(2 * self.wait, LONGEST_WAIT)
        self.printed, self.at = step, now
        left = (now - self.began[0]) / (step - self.began[1]) * (total - step)
        losses, weights = zip(*self.parts, strict=True)  # of the images of this device, which may be a few less or more
        loss = parts * float(sum(losses)) / sum(weights)
        print(f"{self.title}: step {step}/{total}, loss {loss:.3f}, {left:.0f} s left", flush=True)


def progress(title: str) -> Callback:
    """Choose a bar on a terminal, plain lines elsewhere and in worker processes, whose bars would overwrite others."""
    alone = multiprocessing.parent_process() is None
    return TQDMProgressBar(refresh_rate=10) if alone and sys.stdout.isatty() else PlainProgress(title)
