"""Training until it is done, from wherever it was stopped; what a run folder may be used for."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import Callback

from radar.config.load import DEVICE, flatten, result_options, to_config, to_dict, training_options
from radar.config.options import Config
from radar.data.batches import BatchDataModule
from radar.errors import InputError
from radar.files import locked_or_refused, remove_unfinished, replacing
from radar.training.callbacks import MadeUp
from radar.training.checkpoints import (
    adopt,
    check_origin,
    has_ended,
    read_checkpoint,
)
from radar.training.devices import is_first
from radar.training.logs import LAST, validations
from radar.training.patience import BEST, KeepBest, end_with_best, keep_if_best
from radar.training.trained import TrainedModule
from radar.training.trainer import build_trainer, quiet_lightning


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
    module.build_optimizer()  # fails here, before anything is written
    last, done, first = Path(config.run) / LAST, 0, is_first(config.train)
    ended = missed = False
    with alone(config, last):
        if first:
            for path in (last, last.with_name(BEST)):
                remove_unfinished(path)
        if last.exists():
            checkpoint = read_checkpoint(last)
            check_same(config, checkpoint["radar"]["config"], last)
            check_origin(module, checkpoint, last)
            done, ended = int(checkpoint["global_step"]), has_ended(checkpoint)
            validated = {step for step, _ in validations(last.parent, module.judged_by)}
            missed = done % config.train.validation_steps == 0 and done not in validated
            if first and not ended and config.train.patience is not None:
                keep_if_best(last, module.judged_by, done)
            del checkpoint  # the Trainer reads it again
        if not ended and done < config.train.max_steps:
            quiet_lightning()
            trainer = build_trainer(config, title, average, [*patient(config, module), *more, MadeUp(missed)])
            if first:
                write_config(config)
            trainer.fit(module, datamodule=batches, ckpt_path=last if done else None, weights_only=True)
            trainer.save_checkpoint(last)
            done = trainer.global_step
        if first and not ended and config.train.patience is not None:
            end_with_best(last, done)
    return last


def alone(config: Config, last: Path) -> AbstractContextManager[None]:
    """Hold the lock of a training's folder; of several devices' processes the first does."""
    lock, what = last.with_name("training.lock"), f"run={last.parent}"
    return locked_or_refused(lock, what) if is_first(config.train) else nullcontext()


def patient(config: Config, module: TrainedModule) -> list[Callback]:
    """What ends a training that gets no better, if that is asked for."""
    patience = config.train.patience
    return [] if patience is None else [KeepBest(Path(config.run), module.judged_by, patience)]


def check_same(config: Config, found: dict[str, Any], path: Path) -> None:
    """Refuse to go on with a configuration that would train other weights."""
    mine, theirs = (flatten(training_options(c)) for c in (config, to_config(found)))
    for key in sorted(mine.keys() | theirs.keys()):
        if key != DEVICE and mine.get(key) != theirs.get(key):
            raise InputError(
                f"{path} belongs to another configuration ({key}: {theirs.get(key)}, this run has {mine.get(key)}); "
                "choose another folder (run=, of a tokenizer tokenizer.checkpoint=), or delete it"
            )


def check_kept(config: Config) -> None:
    """Refuse new sampling or scoring options for a training that is finished: its checkpoint would not hold them."""
    last = Path(config.run) / LAST
    if not last.exists():
        return
    checkpoint = read_checkpoint(last)
    if not has_ended(checkpoint):
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


def write_config(config: Config) -> None:
    """Keep the configuration beside the checkpoints."""
    with replacing(Path(config.run) / "config.yaml") as temporary:
        temporary.write_text(yaml.safe_dump(to_dict(config), sort_keys=False))
