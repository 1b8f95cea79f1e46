"""One trial of a study: train, tune the sampling if asked to, sample, score, draw; and the timing of all arms."""

import csv
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
from experiments.train import LAST, flatten, train_generator
from radar.checkpoints import Generator, load_generator, pick_device
from radar.config import SampleConfig
from radar.features import extract
from radar.files import locked, replacing
from radar.metrics import Reference, frechet_distance
from radar.provenance import hardware
from radar.seeding import Stream, derive


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


def learning_curve(run: Path) -> list[tuple[int, float]]:
    """Validation NLL by optimizer step, from all parts of an interrupted training."""
    found: dict[int, float] = {}
    for path in sorted((run / "csv").glob("version_*/metrics.csv"), key=lambda path: path.stat().st_mtime):
        with path.open() as file:
            found |= {int(line["step"]): float(line["val/nll"]) for line in csv.DictReader(file) if line.get("val/nll")}
    return sorted(found.items())


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


def time_arms(plan: Plan, rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Time one trial of every arm whose checkpoint is on this machine, in turns, with nothing else running.

    Kept in timing.json until an arm or the hardware changes. The baseline goes first: speed-up is against it.
    """
    digests = {row["arm"]: row["trial"] for row in reversed(rows)}
    first = {trial.arm: trial for trial in plan.trials if digests.get(trial.arm) == trial.digest}
    here = {arm: trial for arm, trial in first.items() if (Path(trial.config.run) / LAST).exists()}
    if not here:
        return {}
    arms = sorted(here, key=lambda arm: (arm != plan.baseline, list(plan.arms).index(arm)))
    torch.set_num_threads(plan.file.threads)
    path, wanted = plan.out / "timing.json", {arm: here[arm].digest for arm in arms}
    wanted["hardware"] = hardware(pick_device(here[arms[0]].config.train.device))
    if (kept := read_json(path)) is not None and kept["trials"] == wanted:
        return dict(kept["arms"])
    settings = {row["arm"]: row["options"]["sample"] for row in reversed(rows)}
    generators = [timed_generator(here[arm], SampleConfig(**settings[arm])) for arm in arms]
    speeds = dict(zip(arms, measure_speed(generators), strict=True))
    with replacing(path) as temporary:
        temporary.write_text(json.dumps({"trials": wanted, "arms": speeds}, indent=1))
    return speeds


def timed_generator(trial: Trial, settings: SampleConfig) -> Generator:
    """Open a trained arm with the sampling options that its row was made with."""
    return replace(load_generator(Path(trial.config.run) / LAST), config=replace(trial.config, sample=settings))
