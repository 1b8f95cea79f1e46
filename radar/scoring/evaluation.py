"""Scoring a generator: one row of steps, NLL, quality, cost and provenance."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from radar.config.load import config_hash, result_options
from radar.config.lookup import choose
from radar.config.options import Config
from radar.config.sampling import EvaluateConfig, SampleConfig
from radar.data.batches import OrderedBatches
from radar.data.tokens import cached_tokens
from radar.decoding.fields import token_field
from radar.decoding.groups import step_sizes
from radar.decoding.total_correlation import exponential_covariance, independence_gap
from radar.errors import InputError
from radar.files import replacing
from radar.model.transformer import parameter_count
from radar.networks.features import check_features
from radar.progress import Bar
from radar.provenance import git_commit, hardware, versions
from radar.scoring.labels import LABELS, label_gap
from radar.scoring.metrics import Scores, check_metrics
from radar.scoring.probe import probe_columns
from radar.scoring.reference import Reference, build_references
from radar.scoring.reference_file import check_reference
from radar.scoring.restoration import restored_distances
from radar.scoring.sample_store import SampleStore, draw_store
from radar.scoring.samples import class_counts
from radar.training.checkpoints import Generator
from radar.training.counts import training_flops
from radar.training.generative import GenerativeModule
from radar.training.other_grid import cropped

ORDERS_SHOWN = 32  # orders of single images that a gap is averaged over
MOST_LABEL_GAP, LEAST_ACCURACY, LEAST_HELD_OUT = 5.0, 0.8, 500  # beyond these a row is to be read with care
OPENED: dict[tuple[object, ...], list[Reference]] = {}  # the last: all arms of a study are judged by the same


def measure_nll(generator: Generator) -> float | None:
    """Mean held-out NLL in nats per image, in the layout that is sampled (teacher-forced where the variant revises).

    None where the order is an outcome of sampling, or the grid is not that of the images.
    """
    settings, train = generator.config.sample, generator.config.train
    if not generator.module.is_ordered(settings) or off_grid(generator):
        return None
    split = cached_tokens(generator.data, generator.tokenizer, generator.config.data.cache)["held_out"]
    device, total = generator.module.device, 0.0
    with torch.inference_mode():
        batches = OrderedBatches(split.gather, len(split), train.micro_batch or train.batch_size)
        for batch in (batches[number] for number in range(len(batches))):
            tokens, labels = batch.inputs.to(device), batch.labels.to(device)
            total += float(generator.module.nll(tokens, labels, settings, batch.images).sum())
    return total / len(split)


def off_grid(generator: Generator) -> bool:
    """Whether samples have another grid than the images of the data set."""
    return generator.grid != generator.tokenizer.grid(generator.data.size)


def measure_quality(generator: Generator, store: SampleStore, references: Sequence[Reference]) -> dict[str, Any]:
    """Compute the configured metrics, by every feature network, and rfid where the tokenizer is learned.

    Of samples on a larger grid the part that the trained one covers is scored. No more than a part of them is in
    memory. Also how far their labels are from those of the data.
    """
    config, labels = generator.config, []
    scores = Scores(config.evaluate.metrics, references, store.images)
    for samples in Bar(store, "score", len(store.paths)):
        scores.add(cropped(samples.images, generator.data.size, config.sample.place), samples.labels)
        labels.append(samples.labels)
    columns: dict[str, Any] = {"label_gap": label_gap(torch.cat(labels), class_counts(generator))}
    columns |= scores.columns()
    if generator.tokenizer.learned:
        count, cache = store.images, config.data.cache
        columns |= restored_distances(generator.tokenizer, references, generator.module.device, count, cache)
    return columns


def mean_gaps(module: GenerativeModule, settings: SampleConfig, covariance: Tensor) -> Tensor:
    """Independence gap (K,) in nats of every step; where images have orders of their own, the mean of the first."""
    return independence_gap(module.order.of_images(settings, torch.arange(ORDERS_SHOWN)), covariance)


def gap_columns(module: GenerativeModule, settings: SampleConfig) -> dict[str, Any]:
    """Independence gap in nats: total, mean over the steps, and each step's; none without a known order."""
    if not module.has_gap(settings):
        return {"gap": None, "gap_per_step": None, "gaps": None}
    gaps = mean_gaps(module, settings, exponential_covariance(*module.grid))
    return {"gap": float(gaps.sum()), "gap_per_step": float(gaps.mean()), "gaps": gaps.tolist()}


def field_gap(generator: Generator) -> dict[str, float | None]:
    """Independence gap in nats in the field of the training tokens, given the class."""
    settings = generator.config.sample
    if not generator.module.has_gap(settings) or off_grid(generator):
        return {"gap_data": None}
    data, tokenizer = generator.data, generator.tokenizer
    split = cached_tokens(data, tokenizer, generator.config.data.cache)["train"]
    field = token_field(split, tokenizer, generator.grid)
    return {"gap_data": float(mean_gaps(generator.module, settings, field).sum())}


def step_map(module: GenerativeModule, settings: SampleConfig) -> list[list[int]] | None:
    """Step of each cell (h, w); None where images have orders of their own, or sampling finds them."""
    step = module.order.sampled(settings)
    own = not module.has_gap(settings) or settings.order_per_image or step.ndim > 1
    return None if own else step.view(module.grid).tolist()


def describe(
    config: Config,
    module: GenerativeModule,
    trained_steps: int | None = None,
    as_trained: GenerativeModule | None = None,
) -> dict[str, Any]:
    """Name what was compared, at what size and cost: columns that need no weights.

    The training is of `trained_steps` optimizer steps, by default of all that the options give, and of the generator
    `as_trained`, where it is sampled on another grid.
    """
    trained = as_trained or module
    sizes, t, sampling = step_sizes(module.order.sampled(config.sample)), config.train, module.sampling(config.sample)
    images = (t.max_steps if trained_steps is None else trained_steps) * t.batch_size
    return {
        "order": config.sample.order or config.order.name,
        "variant": config.attention,
        "seed": config.seed,
        "steps": sampling.passes,
        "group_sizes": sizes if len(sizes) == sampling.passes else None,
        "largest_group": max(sizes),
        "order_hash": trained.order.digest,
        "sampled_order_hash": module.order.sampled_digest(config.sample),
        "order_per_image": config.sample.order_per_image,
        **gap_columns(module, config.sample),
        "params": parameter_count(trained.model),
        "slots": trained.slots_per_image,
        "sampled_slots": sampling.slots,
        "sample_gflop": sampling.cost.flops / 1e9,
        "train_tflops": training_flops(trained) * images / 1e12,
        "images_seen": images,
        "step_map": step_map(module, config.sample),
        "guidance": config.sample.guidance,
        "guidance_schedule": config.sample.guidance_schedule,
        "temperature": config.sample.temperature,
        "top_k": config.sample.top_k,
        "top_p": config.sample.top_p,
        "correction": config.sample.correction if module.revises else 0.0,
    }


def provenance(generator: Generator, references: Sequence[Reference]) -> dict[str, Any]:
    """Say where the figures come from."""
    config, (reference, *further) = generator.config, references
    return {
        "fid_feature": reference.network.title,
        "further_features": [one.network.title for one in further],
        "feature_accuracy": reference.accuracy,
        "classes": len(generator.data.classes),
        "reference": reference.title,
        "held_out": reference.held_out_images,
        "samples": config.evaluate.images,
        "sample_seed": config.sample.seed,
        "options": result_options(config),
        "config": config_hash(result_options(config)),
        "commit": git_commit(),
        "trained_at": generator.commit,
        "hardware": hardware(generator.module.device),
        "dtype": str(next(generator.module.parameters()).dtype).removeprefix("torch."),
        "train_precision": config.train.precision,
        "sample_precision": config.sample.precision,
        "timing_batch": config.evaluate.timing_batch,
        **versions(),
    }


def evaluate(generator: Generator, references: Sequence[Reference], folder: Path) -> tuple[dict[str, Any], SampleStore]:
    """Score a generator without timing it: its row, and the samples, below `folder`, to be removed when it is saved."""
    config = generator.config
    began = time.perf_counter()
    settings = replace(config.sample, images=config.evaluate.images)
    store = draw_store(generator, settings, config.evaluate.labels, folder)
    row = describe(config, generator.module, generator.trained_steps, generator.as_trained)
    row |= {"kept_step": generator.kept_step, "labels": config.evaluate.labels}
    row |= field_gap(generator)
    row |= {"train_seconds": generator.train_seconds, "nll": measure_nll(generator)}
    row |= measure_quality(generator, store, references)
    row |= probe_columns(generator)
    row["evaluate_seconds"] = time.perf_counter() - began
    return row | provenance(generator, references), store


def check_scoring(config: EvaluateConfig) -> None:
    """Raise InputError for an unknown metric, feature network or rule of labels: before any work."""
    check_metrics(config.metrics)
    check_features(config.features)
    choose("labels", config.labels, LABELS)
    if config.reference and len(config.reference) != len(config.features):
        raise InputError(
            f"evaluate.reference={config.reference} is not possible: one file for each of the "
            f"{len(config.features)} evaluate.features expected"
        )
    for path in config.reference:
        check_reference(path, config.metrics)


def open_references(generator: Generator) -> list[Reference]:
    """Open the feature networks and the real images that a generator is judged by; the last are kept open."""
    config, data, device = generator.config, generator.data, generator.module.device
    if data.counts is not None:
        raise InputError(f"{generator.path} came without its images, which scores compare with: give data.root=FOLDER")
    e = config.evaluate
    asked = (e.features, e.reference, e.reference_images, "sfid" in e.metrics)
    key = (repr(config.data), data.identity, repr(asked), device)
    if key not in OPENED:
        OPENED.clear()
        OPENED[key] = build_references(config, data, device)
    return OPENED[key]


def cautions(row: Mapping[str, Any]) -> list[str]:
    """Say what makes the figures of a row hard to trust: the labels of the samples, the judge, too few images."""
    said, accuracy = [], row.get("feature_accuracy")
    if (gap := row.get("label_gap", 0.0)) > MOST_LABEL_GAP:
        said.append(
            f"the samples' classes differ from those of the reference by up to {gap:.0f} points, which fid counts "
            "as an error; evaluate.labels=as_data draws them in its shares"
        )
    if accuracy is not None and accuracy < LEAST_ACCURACY:
        said.append(f"the feature network {row['fid_feature']} knows only {accuracy:.0%} of the held-out images")
    if 0 < row["held_out"] < LEAST_HELD_OUT:
        said.append(
            f"only {row['held_out']} images are held out: NLL, the floor and the judge's accuracy are uncertain"
        )
    if row.get("classes") == 1:
        said.append("there is one class: the feature network has learned nothing from labels")
    return said


def save_row(row: dict[str, Any], path: Path) -> None:
    """Write a row as JSON."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(row, indent=1))
