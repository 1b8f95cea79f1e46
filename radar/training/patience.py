"""Ending a training that gets no better, and keeping its best weights.

What was best is read from the logs, which a stop cannot part from their validations.
"""

import math
import shutil
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from radar.files import replacing
from radar.training.callbacks import TrainingClock
from radar.training.logs import validations
from radar.training.trained import TrainedModule

BEST = "best.ckpt"


class KeepBest(Callback):
    """Keeps the best validated weights in a file of their own; ends after `patience` validations without better ones.

    Args:
        run: folder of the training.
        judged_by: name of what is validated; lower is better.
        patience: validations.
    """

    def __init__(self, run: Path, judged_by: str, patience: int) -> None:
        self.run, self.judged_by, self.patience = run, judged_by, patience
        self.seen: list[float] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take up what was validated before a stop; end at once if that came after the last validation."""
        self.seen = seen_until(self.run, self.judged_by, trainer.global_step)
        trainer.should_stop = waited(self.seen) >= self.patience

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep these weights if they are the best; end if the best are too long ago."""
        assert isinstance(pl_module, TrainedModule)
        self.seen.append(pl_module.validation_values()[self.judged_by])
        if waited(self.seen) == 0:
            trainer.save_checkpoint(self.run / BEST)
        if waited(self.seen) >= self.patience:
            trainer.should_stop = True


def seen_until(run: Path, judged_by: str, step: int) -> list[float]:
    """Values of the validations up to an optimizer step, the oldest first."""
    return [value for at, value in validations(run, judged_by) if at <= step]


def waited(seen: list[float]) -> int:
    """Validations since the best one."""
    values = [math.inf if math.isnan(value) else value for value in seen]
    return len(values) - 1 - values.index(min(values)) if values else 0


def keep_if_best(last: Path, judged_by: str, step: int) -> None:
    """Keep the weights of the last checkpoint, of this step, if a stop came between their being best and being kept."""
    seen, best = seen_until(last.parent, judged_by, step), last.with_name(BEST)
    if not seen or waited(seen) or (best.exists() and _read(best)["global_step"] == step):
        return
    if validations(last.parent, judged_by)[len(seen) - 1][0] == step:
        with replacing(best) as temporary:
            shutil.copyfile(last, temporary)


def _read(path: Path) -> dict[str, Any]:
    return torch.load(path, map_location="cpu", weights_only=True)  # type: ignore[no-any-return]


def end_with_best(last: Path, trained: int) -> None:
    """Put the best weights in the place of the last, marked as the end of a training of `trained` optimizer steps."""
    best, whole = last.with_name(BEST), _read(last)
    checkpoint = _read(best) if best.exists() else whole
    checkpoint["radar"]["trained_steps"] = trained
    clock = TrainingClock.__name__  # of the whole training
    checkpoint["callbacks"] |= {clock: whole["callbacks"][clock]} if clock in whole["callbacks"] else {}
    with replacing(last) as temporary:
        torch.save(checkpoint, temporary)
    best.unlink(missing_ok=True)
