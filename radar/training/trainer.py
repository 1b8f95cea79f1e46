"""The Trainer: by optimizer steps, atomic checkpoints, two loggers, exact resume."""

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from radar.config.options import Config
from radar.training.callbacks import AtomicCheckpointIO, StepCheckpoint, TrainingClock, WeightAverage, progress
from radar.training.checkpoints import pick_device

NOISE = (
    ".*GPU available.*",
    ".*does not have many workers.*",
    ".*not resumable.*",
    ".*Checkpoint directory.*",
    ".*ModelCheckpoint.*same monitor.*",
    ".*litlogger.*",
    ".*isinstance.treespec.*",
    ".*Found .* module.*",
    ".*smaller than the logging.*",
)


def quiet_lightning() -> None:
    """Silence Lightning's banners, and the warnings about what is done on purpose here."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    for message in NOISE:
        warnings.filterwarnings("ignore", message)


def loggers(run: Path) -> list[Logger]:
    """TensorBoard, and CSV files from which curves are read."""
    return [TensorBoardLogger(run, "tensorboard"), CSVLogger(run, "csv", flush_logs_every_n_steps=1)]


def build_trainer(config: Config, title: str, average: bool = True, more: Sequence[Callback] = ()) -> Trainer:
    """Set up the Trainer: iteration-based, atomic checkpoints, both loggers, exact resume, and `more` callbacks."""
    t, run = config.train, Path(config.run)
    saver = StepCheckpoint(
        run, "last", every_n_train_steps=t.checkpoint_every, save_top_k=1, enable_version_counter=False
    )
    callbacks: list[Callback] = [TrainingClock(), saver, progress(title), *more]
    if average and t.ema:
        callbacks.insert(0, WeightAverage(t.ema))
    return Trainer(
        default_root_dir=run,
        accelerator=pick_device(t.device).type,
        devices=1,
        precision=cast(Any, t.precision),
        max_steps=t.max_steps,
        max_epochs=-1,
        accumulate_grad_batches=t.accumulate,
        val_check_interval=t.validation_steps * t.accumulate,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        log_every_n_steps=t.log_every,
        logger=loggers(run),
        callbacks=callbacks,
        plugins=[AtomicCheckpointIO()],
        enable_model_summary=False,
        enable_progress_bar=any(isinstance(c, ProgressBar) for c in callbacks),
    )
