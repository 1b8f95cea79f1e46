"""`radar train CONFIG [key=value ...]`: train a generator, or go on where it was stopped."""

import argparse
import csv
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from torch import Tensor

from experiments.configs import find_config
from radar.config.load import load_config, result_options, to_config, to_dict, training_options
from radar.config.options import Config, check_training
from radar.data.tokens import Batch, BatchDataModule, cached_tokens, token_batches
from radar.decoding.decoding_order import DecodingOrder
from radar.errors import InputError
from radar.files import locked_or_refused, replacing
from radar.training.callbacks import AtomicCheckpointIO, StepCheckpoint, TrainingClock, WeightAverage, progress
from radar.training.checkpoints import (
    adopt,
    begin_with,
    build_generator,
    check_origin,
    pick_device,
    read_checkpoint,
    restore_weights,
    tell_if_changed,
)
from radar.training.trained import TrainedModule

LAST = "last.ckpt"
NOISE = (".*GPU available.*", ".*does not have many workers.*", ".*not resumable.*", ".*Checkpoint directory.*")
NOISE += (
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
        precision=t.precision,
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


def fit(
    config: Config,
    module: TrainedModule,
    batches: BatchDataModule,
    title: str,
    average: bool = True,
    more: Sequence[Callback] = (),
) -> Path:
    """Train to `train.max_steps`, from the run folder's last checkpoint if there is one; return the final checkpoint.

    Raises InputError if the run folder belongs to another configuration, or another process trains in it.
    """
    last, done = Path(config.run) / LAST, 0
    with locked_or_refused(last.with_name("training.lock"), f"run={config.run}"):
        if last.exists():
            checkpoint = read_checkpoint(last)
            check_same(config, checkpoint["radar"]["config"], last)
            check_origin(module, checkpoint, last)
            done = int(checkpoint["global_step"])
            if done % config.train.validation_steps == 0 and done not in validated_steps(last.parent):
                make_up_validation(config, module, batches, checkpoint, last)
            del checkpoint  # the Trainer reads it again
        if done < config.train.max_steps:
            quiet_lightning()
            trainer = build_trainer(config, title, average, more)
            write_config(config)
            trainer.fit(module, datamodule=batches, ckpt_path=last if done else None, weights_only=True)
            trainer.save_checkpoint(last)
    return last


def make_up_validation(
    config: Config, module: TrainedModule, batches: BatchDataModule, checkpoint: dict[str, Any], path: Path
) -> None:
    """Validate what a checkpoint holds, where a stop came between it and its validation: a curve keeps its points."""
    device = pick_device(config.train.device)
    restore_weights(module, checkpoint, path)
    module.to(device)
    low = config.train.precision == "bf16-mixed"
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=low):
        module.on_validation_epoch_start()
        for number, batch in enumerate(batches.val_dataloader()):
            on_device = [part.to(device) if isinstance(part, Tensor) else part for part in batch]
            module.validation_step(Batch(*on_device), number)
    for logger in loggers(path.parent):
        logger.log_metrics(module.validation_values(), int(checkpoint["global_step"]))
        logger.save()
        logger.finalize("success")
    module.train()


def check_same(config: Config, found: dict[str, Any], path: Path) -> None:
    """Refuse to go on with a configuration that would train other weights."""
    mine, theirs = (flatten(training_options(c)) for c in (config, to_config(found)))
    for key in sorted(mine.keys() | theirs.keys()):
        if mine.get(key) != theirs.get(key):
            raise InputError(
                f"{path} belongs to another configuration ({key}: {theirs.get(key)}, this run has {mine.get(key)}); "
                "choose another run= or delete it"
            )


def check_kept(config: Config) -> None:
    """Refuse new sampling or scoring options for a training that is finished: its checkpoint would not hold them."""
    last = Path(config.run) / LAST
    checkpoint = read_checkpoint(last) if last.exists() else {"global_step": 0}
    if checkpoint["global_step"] < config.train.max_steps:
        return
    found = checkpoint["radar"]["config"]
    check_same(adopt(config), found, last)
    mine, theirs = (flatten(result_options(c)) for c in (config, to_config(found)))
    for key in [key for key in mine | theirs if key.startswith(("sample.", "evaluate."))]:
        if mine.get(key) != theirs.get(key):
            raise InputError(
                f"{key}={mine.get(key)} has no effect on {last}: its training is finished, with {theirs.get(key)}; "
                "give it to radar sample or radar evaluate"
            )


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested options to dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def write_config(config: Config) -> None:
    """Keep the configuration beside the checkpoints."""
    with replacing(Path(config.run) / "config.yaml") as temporary:
        temporary.write_text(yaml.safe_dump(to_dict(config), sort_keys=False))


def train_generator(config: Config, title: str = "train", more: Sequence[Callback] = ()) -> Path:
    """Train a generator, with `more` callbacks; return its checkpoint."""
    check_training(config.train)
    seed_everything(config.seed, verbose=False)
    config = adopt(config)
    stored = order_to_go_on(config)
    module, data, tokenizer = build_generator(config, stored)
    if stored is not None:
        check_order(module.order, Path(config.run) / LAST)
    tokenizer.to(pick_device(config.train.device))
    splits = cached_tokens(data, tokenizer, config.data.cache, config.data.workers)
    if config.init is not None and not (Path(config.run) / LAST).exists():
        begin_with(module, config.init)
    return fit(config, module, token_batches(config, splits), title, more=more)


def order_to_go_on(config: Config) -> Tensor | None:
    """Order of the checkpoint that a training goes on from, if there is one; raises InputError for another run's."""
    last = Path(config.run) / LAST
    if not last.exists():
        return None
    found = read_checkpoint(last)["radar"]
    check_same(config, found["config"], last)
    return found.get("order")


def check_order(order: DecodingOrder, path: Path) -> None:
    """Refuse to go on where a file gives another order now; say so in one line where the code does."""
    file = order.config.order.path or order.config.order.covariance
    if file and Path(file).exists() and not order.is_current():
        raise InputError(f"{path} was trained in another order than {file} gives now; choose another run=")
    tell_if_changed(order, path)


def logged(run: Path) -> Iterator[dict[str, str]]:
    """Lines of the logs of all parts of a training, the oldest first."""
    for path in sorted((run / "csv").glob("version_*/metrics.csv"), key=lambda path: path.stat().st_mtime):
        with path.open() as file:
            yield from csv.DictReader(file)


def validated_steps(run: Path) -> set[int]:
    """Optimizer steps at which a training was validated."""
    return {int(line["step"]) for line in logged(run) if any(v for k, v in line.items() if k.startswith("val/"))}


def learning_curve(run: Path) -> list[tuple[int, float]]:
    """Validation NLL by optimizer step, from all parts of an interrupted training."""
    return sorted({int(line["step"]): float(line["val/nll"]) for line in logged(run) if line.get("val/nll")}.items())


def main(args: argparse.Namespace) -> None:
    """Run `radar train`."""
    config = load_config(find_config(args.config), args.options)
    check_kept(config)
    print(train_generator(config))
