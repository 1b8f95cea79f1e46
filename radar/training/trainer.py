"""The Trainer: by optimizer steps, atomic checkpoints, loggers, exact resume."""

import logging
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.strategies import DDPStrategy, Strategy

from radar.config.options import Config
from radar.config.training import TrainConfig
from radar.training.callbacks import (
    AtomicCheckpointIO,
    StepCheckpoint,
    TrainingClock,
    ValidationTable,
    WeightAverage,
    progress,
)
from radar.training.devices import pick_device
from radar.training.fsdp import Sharded
from radar.training.loggers import open_loggers
from radar.training.profile import Profile
from radar.training.trained import parts_of_a_step

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
    ".*sync_dist.*",  # is summed before
    ".*returned a view tensor.*",  # nothing is written into it
)


def quiet_lightning() -> None:
    """Silence Lightning's banners, and the warnings about what is done on purpose here."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for message in NOISE:
        warnings.filterwarnings("ignore", message)


def ddp(devices: int) -> Strategy:
    """Every device holds all weights."""
    return DDPStrategy()


STRATEGIES: dict[str, Callable[[int], Strategy]] = {"auto": ddp, "ddp": ddp, "fsdp": Sharded}


def strategy(train: TrainConfig) -> Strategy | str:
    """How several devices train together; Lightning's choice for one."""
    devices = train.devices * train.nodes
    return "auto" if devices == 1 else STRATEGIES[train.strategy](devices)


def build_trainer(config: Config, title: str, average: bool = True, more: Sequence[Callback] = ()) -> Trainer:
    """Set up the Trainer: iteration-based, atomic checkpoints, loggers, exact resume, and `more` callbacks."""
    t, run = config.train, Path(config.run)
    saver = StepCheckpoint(
        run, "last", every_n_train_steps=t.checkpoint_every, save_top_k=1, enable_version_counter=False
    )
    callbacks: list[Callback] = [TrainingClock(), saver, progress(title), *more, ValidationTable(run)]
    if t.profile:
        callbacks.append(Profile(run / "profile"))
    if average and t.ema:
        callbacks.insert(0, WeightAverage(t.ema))
    parts = parts_of_a_step(t)
    return Trainer(
        default_root_dir=run,
        accelerator=pick_device(t.device).type,
        devices=t.devices,
        num_nodes=t.nodes,
        strategy=strategy(t),
        use_distributed_sampler=False,
        inference_mode=t.strategy != "fsdp",
        precision=cast(Any, t.precision),
        max_steps=t.max_steps,
        max_epochs=-1,
        accumulate_grad_batches=parts,
        val_check_interval=t.validation_steps * parts,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        log_every_n_steps=t.log_every,
        logger=open_loggers(config),
        callbacks=callbacks,
        plugins=[AtomicCheckpointIO()],
        enable_model_summary=False,
        enable_progress_bar=any(isinstance(c, ProgressBar) for c in callbacks),
    )
