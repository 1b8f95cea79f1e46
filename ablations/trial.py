"""One trial of a study: train, tune the sampling if asked to, sample, score, draw; and the timing of all arms."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback
from torch.utils.tensorboard import SummaryWriter

from ablations.plan import Plan, Trial
from ablations.study import Row, Score, Tuner
from experiments.evaluate import evaluate, measure_speed, open_reference, save_row
from experiments.pictures import pixel_scale, tile
from experiments.sample import Samples, draw_samples, save_pictures
from experiments.train import LAST, flatten, learning_curve, train_generator
from radar.checkpoints import Generator, load_generator, pick_device
from radar.features import extract
from radar.files import locked, replacing
from radar.metrics import Reference, frechet_distance
from radar.options import SampleConfig
from radar.provenance import hardware
from radar.seeding import Stream, derive

Speeds = dict[str, dict[str, float]]  # arm -> images_per_s and the like


def run_trial(plan: Plan, trial: Trial, callbacks: Sequence[Callback], tune: Tuner) -> Row:
    """Make the row of one trial, or read the one that was saved before a stop."""
    path = plan.out / "rows" / f"{trial.key}.json"
    if (saved := read_json(path)) is not None and saved["trial"] == trial.digest:
        return saved
    run = Path(trial.config.run)
    with locked(run / "lock"):  # arms that differ in sampling only share a training
        checkpoint = train_generator(trial.config, trial.key, callbacks)
    generator = replace(load_generator(checkpoint), config=trial.config)
    reference = open_reference(generator)
    settings = tune(trial, scorer(plan, generator, reference))
    generator = replace(generator, config=replace(trial.config, sample=settings))
    row, samples = evaluate(generator, reference)
    if plan.searching and "images_per_s" in plan.objectives:
        row |= measure_speed([generator])[0]
    save_pictures(generator, samples, settings, plan.out / "samples" / trial.key)
    log_tensorboard(run / "tensorboard" / trial.key, generator, row, samples)
    row = {"arm": trial.arm, "trial": trial.digest, "tried": trial.params, "curve": learning_curve(run)} | row
    save_row(row, path)
    return row


def scorer(plan: Plan, generator: Generator, reference: Reference) -> Score:
    """Score sampling options by the fid of `tune.images` images that the evaluation will not draw."""

    def score(settings: SampleConfig) -> float:
        assert plan.file.tune is not None
        fresh = replace(settings, images=plan.file.tune.images, seed=derive(Stream.TUNE, settings.seed) % 2**32)
        images = draw_samples(generator, fresh).images
        return frechet_distance(reference.features, extract(reference.network, images))

    return score


def log_tensorboard(folder: Path, generator: Generator, row: Row, samples: Samples) -> None:
    """Log options with the figures that they led to, and the samples, for TensorBoard."""
    options = {k: v if isinstance(v, int | float | str | bool) else str(v) for k, v in flatten(row["options"]).items()}
    figures = {f"figures/{key}": value for key in ("fid", "nll", "accuracy", "steps") if (value := row.get(key))}
    writer = SummaryWriter(str(folder))
    writer.add_hparams(options, figures, run_name=".")
    sheet = tile(samples.images[:100], 10, pixel_scale(samples.images.shape[3]))
    writer.add_image("samples", sheet, generator.config.train.steps, dataformats="HWC")
    writer.close()


def read_json(path: Path) -> dict[str, Any] | None:
    """Read a file that is written whole; None if it is missing or was damaged by something else."""
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError):
        return None


def time_arms(plan: Plan, rows: Sequence[Row]) -> Speeds:
    """Time one trial of every arm whose checkpoint is on this machine, in turns, with nothing else running.

    Kept in timing.json until an arm or the hardware changes. The baseline goes first: speed-up is against it.
    """
    digests = {row["arm"]: row["trial"] for row in reversed(rows)}
    first = {trial.arm: trial for trial in reversed(plan.trials) if digests.get(trial.arm) == trial.digest}
    arms = [arm for arm in plan.arms if arm in first and (Path(first[arm].config.run) / LAST).exists()]
    arms.sort(key=lambda arm: arm != plan.baseline)
    if not arms:
        return {}
    torch.set_num_threads(plan.file.threads)
    wanted = {arm: first[arm].digest for arm in arms}
    wanted["hardware"] = hardware(pick_device(first[arms[0]].config.train.device))
    with locked(plan.out / "timing.lock"):
        if (kept := read_json(plan.out / "timing.json")) is None or kept["trials"] != wanted:
            settings = {row["arm"]: row["options"]["sample"] for row in reversed(rows)}
            speeds = measure_speed([timed_generator(first[arm], SampleConfig(**settings[arm])) for arm in arms])
            if arms[0] != plan.baseline:  # it was trained on another machine
                speeds = [{key: value for key, value in speed.items() if key != "speedup"} for speed in speeds]
            with replacing(plan.out / "timing.json") as temporary:
                temporary.write_text(json.dumps({"trials": wanted, "arms": dict(zip(arms, speeds, strict=True))}))
    return stored_speeds(plan)


def stored_speeds(plan: Plan) -> Speeds:
    """What was timed last, if anything."""
    return dict((read_json(plan.out / "timing.json") or {"arms": {}})["arms"])


def timed_generator(trial: Trial, settings: SampleConfig) -> Generator:
    """Open a trained arm with the sampling options that its row was made with."""
    return replace(load_generator(Path(trial.config.run) / LAST), config=replace(trial.config, sample=settings))
