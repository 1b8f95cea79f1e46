"""One trial of a study: train, tune the sampling if asked to, sample, score, draw; and the timing of all arms."""

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback
from torch.utils.tensorboard import SummaryWriter

from ablations.study.plan import Plan, Trial
from ablations.study.search import Score, Tuner
from radar.config.load import config_hash, flatten, to_dict
from radar.config.options import Config
from radar.config.sampling import SampleConfig
from radar.editing.protocol import protocol_columns
from radar.files import locked, replacing
from radar.networks.features import extract
from radar.provenance import git_commit, hardware, source_hash, versions
from radar.scoring.curve import curve_callbacks
from radar.scoring.distances import frechet_distance
from radar.scoring.evaluation import evaluate, open_references, save_row
from radar.scoring.reference import Reference
from radar.scoring.row import Row
from radar.scoring.sample_pictures import samples_sheet, save_pictures
from radar.scoring.samples import Samples, drawing
from radar.scoring.statistics import Moments
from radar.seeding import Stream, derive
from radar.timing.rounds import measure_rounds, measure_speed, speed_columns
from radar.training.checkpoints import Generator, configured, load_generator
from radar.training.devices import pick_device
from radar.training.logs import LAST, learning_curve, validations
from radar.training.other_grid import cropped
from radar.training.runs import train_generator

Speeds = dict[str, dict[str, Any]]  # arm -> images_per_s and the like


def _with_curve(callbacks: Sequence[Callback], config: Config) -> Sequence[Callback]:
    return [*callbacks, *curve_callbacks(config)]


def run_trial(plan: Plan, trial: Trial, callbacks: Sequence[Callback], tune: Tuner) -> Row:
    """Make the row of one trial, or read the one that was saved before a stop."""
    path = plan.out / "rows" / f"{trial.key}.json"
    if (saved := read_json(path)) is not None and saved["trial"] == trial.digest:
        return saved
    run = Path(trial.config.run)
    told = callbacks if trial.config.train.devices == 1 else ()  # the processes of several do not reach the study
    with locked(run / "lock"):  # arms that differ in sampling only share a training
        checkpoint = train_generator(trial.config, trial.key, partial(_with_curve, told))
    generator = load_generator(checkpoint)
    trained, generator = generator.config, configured(generator, trial.config)
    references = open_references(generator)
    settings = tune(trial, scorer(plan, generator, references[0]))
    generator = configured(generator, replace(trial.config, sample=settings))
    pictures = plan.out / "samples" / trial.key
    row, store = evaluate(generator, references, pictures)
    row |= protocol_columns(generator, references, pictures)
    samples = store.first()
    if plan.searching and "images_per_s" in plan.objectives:
        row |= measure_speed(generator)
    save_pictures(generator, samples, settings, pictures)
    log_tensorboard(run / "tensorboard" / trial.key, generator, row, samples)
    own = to_dict(trained.sample) == to_dict(trial.config.sample)  # arms that differ in sampling share a training
    curves = {"curve": learning_curve(run), "fid_curve": validations(run, "val/fid") if own else []}
    row = {"arm": trial.arm, "trial": trial.digest, "tried": trial.params} | curves | row
    save_row(row, path)
    store.remove()
    return row


def scorer(plan: Plan, generator: Generator, reference: Reference) -> Score:
    """Score sampling options by the fid of `tune.images` images that the evaluation will not draw."""

    def score(settings: SampleConfig) -> float:
        assert plan.file.tune is not None
        fresh = replace(settings, images=plan.file.tune.images, seed=derive(Stream.TUNE, settings.seed) % 2**32)
        drawn = Moments.none(reference.network.num_features)
        own = configured(generator, replace(generator.config, sample=fresh))
        with drawing(own, fresh, generator.config.evaluate.labels) as draw:
            for start in range(0, fresh.images, fresh.batch_size):
                samples = draw(range(start, min(start + fresh.batch_size, fresh.images)))
                images = cropped(samples.images, generator.data.size, settings.place)
                drawn.add(extract(reference.network, images))
        return frechet_distance(reference.real.features, drawn)

    return score


def log_tensorboard(folder: Path, generator: Generator, row: Row, samples: Samples) -> None:
    """Log options with the figures that they led to, and the samples, for TensorBoard."""
    options = {k: v if isinstance(v, int | float | str | bool) else str(v) for k, v in flatten(row["options"]).items()}
    figures = {f"figures/{key}": value for key in ("fid", "nll", "accuracy", "steps") if (value := row.get(key))}
    writer = SummaryWriter(str(folder))
    writer.add_hparams(options, figures, run_name=".")
    writer.add_image("samples", samples_sheet(generator, samples), generator.config.train.max_steps, dataformats="HWC")
    writer.close()


def read_json(path: Path) -> dict[str, Any] | None:
    """Read a file that is written whole; None if it is missing or was damaged by something else."""
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError):
        return None


def time_arms(plan: Plan, rows: Sequence[Row]) -> None:
    """Time one trial of every arm whose checkpoint is on this machine, in turns, with nothing else running.

    Kept in timing.json, seconds of every round, until an arm, its options, the code or the hardware changes.
    """
    digests = {row["arm"]: row["trial"] for row in reversed(rows)}
    first = {trial.arm: trial for trial in reversed(plan.trials) if digests.get(trial.arm) == trial.digest}
    arms = [arm for arm in plan.arms if arm in first and (Path(first[arm].config.run) / LAST).exists()]
    if not arms:
        return
    torch.set_num_threads(plan.file.threads)
    settings = {row["arm"]: row["options"]["sample"] for row in reversed(rows)}
    wanted = {arm: config_hash({"trial": first[arm].digest, "sample": settings[arm]}) for arm in arms}
    wanted |= {
        "hardware": hardware(pick_device(first[arms[0]].config.train.device)),
        "code": source_hash(),
        **versions(),
    }
    with locked(plan.out / "timing.lock"):
        if (kept := read_json(plan.out / "timing.json")) is not None and kept["trials"] == wanted:
            return
        rounds = measure_rounds([timed_generator(first[arm], SampleConfig(**settings[arm])) for arm in arms])
        found = {"trials": wanted, "commit": git_commit(), "batch": first[arms[0]].config.evaluate.timing_batch}
        with replacing(plan.out / "timing.json") as temporary:
            temporary.write_text(json.dumps(found | {"seconds": dict(zip(arms, rounds, strict=True))}))


def stored_speeds(folder: Path, baseline: str | None) -> Speeds:
    """Images per second of every arm as timed last, if at all, and the speed-up against a baseline among them."""
    if (found := read_json(folder / "timing.json")) is None:
        return {}
    seconds = found["seconds"]
    base = seconds.get(baseline) if len(seconds) > 1 else None
    timed = {arm: speed_columns(times, found["batch"], base) for arm, times in seconds.items()}
    return {arm: {**columns, "timed_at": found["commit"]} for arm, columns in timed.items()}


def timed_generator(trial: Trial, settings: SampleConfig) -> Generator:
    """Open a trained arm with the sampling options that its row was made with."""
    return configured(load_generator(Path(trial.config.run) / LAST), replace(trial.config, sample=settings))
