"""`radar evaluate CHECKPOINT [sample.guidance=...]`: one JSON row of steps, NLL, quality, cost and provenance."""

import argparse
import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from experiments.sample import Samples, balanced_labels, draw_samples
from radar.attention import BACKENDS
from radar.checkpoints import Generator, load_generator
from radar.config import config_hash, result_options
from radar.cost import sampling_cost
from radar.dependence import token_field
from radar.errors import InputError
from radar.features import extract, load_features
from radar.files import replacing
from radar.graphs import warm_up_calls
from radar.independence import exponential_covariance, independence_gap
from radar.metrics import Reference, build_reference, check_metrics, frechet_distance, score
from radar.modules import GeneratorModule
from radar.options import Config, SampleConfig
from radar.orders import step_sizes
from radar.provenance import git_commit, hardware, versions
from radar.sampling import ready_to_sample, sample_tokens
from radar.tokens import OrderedBatches, cached_tokens
from radar.transformer import parameter_count

OPENED: dict[tuple[object, ...], Reference] = {}  # the last reference: all arms of a study are judged by one


def measure_nll(generator: Generator) -> float | None:
    """Mean held-out NLL in nats per image, in the layout that is sampled (teacher-forced where the variant revises).

    None where the order is an outcome of sampling.
    """
    settings = generator.config.sample
    if settings.choice_temperature is not None:
        return None
    split = cached_tokens(generator.data, generator.tokenizer, generator.config.data.cache)["held_out"]
    device, total = generator.module.device, 0.0
    with torch.inference_mode():
        for _, tokens, labels in OrderedBatches(split.gather, len(split), generator.config.train.batch_size):
            total += float(generator.module.nll(tokens.to(device), labels.to(device), settings).sum())
    return total / len(split)


def reconstruction_distance(generator: Generator, reference: Reference) -> float:
    """rFID: held-out images against themselves sent through the tokenizer and back."""
    tokenizer, device = generator.tokenizer, generator.module.device
    parts = [
        tokenizer.decode(tokenizer.encode(images.to(device)), generator.grid).cpu()
        for images in reference.held_out.split(64)
    ]
    return frechet_distance(reference.held_out_features, extract(reference.network, torch.cat(parts)))


def measure_quality(generator: Generator, samples: Samples, reference: Reference) -> dict[str, float]:
    """Compute the configured metrics, and rfid where the tokenizer is learned."""
    columns = score(generator.config.evaluate.metrics, samples.images, samples.labels, reference)
    if generator.tokenizer.learned:
        columns["rfid"] = reconstruction_distance(generator, reference)
    return columns


def synchronised(device: torch.device, work: Callable[[], object]) -> float:
    """Seconds of one call, with the device's queue empty before and after."""
    synchronise = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    synchronise()
    began = time.perf_counter()
    work()
    synchronise()
    return time.perf_counter() - began


@contextmanager
def all_ready_to_sample(modules: Iterable[GeneratorModule]) -> Iterator[None]:
    """Prepare for sampling, which is no part of its time."""
    with ExitStack() as stack:
        for module in modules:
            stack.enter_context(ready_to_sample(module.model, module.config.sample))
        yield


def timed_batch(generator: Generator) -> Callable[[], object]:
    """Prepare one batch of sampling (tokens and decoding) of `evaluate.timing_batch` images."""
    module, settings = generator.module, generator.config.sample
    numbers = range(generator.config.evaluate.timing_batch)
    labels = balanced_labels(numbers, module.model.classes).to(module.device)
    turns, sequence = module.turns(settings), module.sampled_sequence(settings)

    def work() -> object:
        tokens = sample_tokens(module.model, turns, sequence, labels, settings, numbers)
        return generator.tokenizer.decode(tokens, generator.grid)

    return work


def measure_speed(generators: list[Generator]) -> list[dict[str, float]]:
    """Images per second of each generator: rounds that go through all of them in turn, but for those of warming up.

    Run with nothing else on the machine. `speedup`, of two or more, is the median over the rounds of the ratio to the
    first generator.
    """
    works = [timed_batch(generator) for generator in generators]
    devices = [generator.module.device for generator in generators]
    repeats, batch = generators[0].config.evaluate.timing_repeats, generators[0].config.evaluate.timing_batch
    with all_ready_to_sample([generator.module for generator in generators]):
        dropped = max(map(warm_up_calls, devices))
        rounds = [
            [synchronised(device, work) for device, work in zip(devices, works, strict=True)]
            for _ in range(dropped + repeats)
        ][dropped:]
    columns = []
    for arm in range(len(works)):
        seconds = [times[arm] for times in rounds]
        column = {
            "images_per_s": batch / median(seconds),
            "images_per_s_min": batch / max(seconds),
            "images_per_s_max": batch / min(seconds),
        }
        ratio = {"speedup": median(times[0] / times[arm] for times in rounds)} if len(works) > 1 else {}
        columns.append(column | ratio)
    return columns


def training_flops(module: GeneratorModule, draws: int = 16) -> float:
    """Count the operations of training on one image: forward and backward of the layout in use, mean of `draws`.

    Matrix products only; attention counts as dense, as SDPA computes it, also where FlexAttention would skip blocks;
    what activation checkpointing computes twice counts once. Exact for the packed layout, an estimate for the sampled.
    """
    tokens = torch.zeros(1, len(module.step), dtype=torch.long, device=module.device)
    labels = torch.zeros(1, dtype=torch.long, device=module.device)
    # The counter knows attention only by its matrix products, which the MATH backend shows, and sees no compiled code.
    backend, module.backend = module.backend, BACKENDS["sdpa"]
    compiled, module.model.compiled = module.model.compiled, False
    with torch.random.fork_rng(devices=[]), FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        draws = 1 if module.layout(module).share == 1 else draws
        for number in range(draws):
            module.training_step((number, tokens, labels), number).backward()
    module.backend, module.model.compiled = backend, compiled
    module.zero_grad()
    return float(counter.get_total_flops()) / draws


def gap_columns(step: Tensor, grid: tuple[int, int], settings: SampleConfig) -> dict[str, Any]:
    """Independence gap in nats: total, mean over the steps, and each step's; none where sampling finds the order."""
    if settings.choice_temperature is not None:
        return {"gap": None, "gap_per_step": None, "gaps": None}
    gaps = independence_gap(step, exponential_covariance(*grid))
    return {"gap": float(gaps.sum()), "gap_per_step": float(gaps.mean()), "gaps": gaps.tolist()}


def field_gap(generator: Generator) -> dict[str, float | None]:
    """Independence gap in nats in the field of the training tokens, given the class."""
    settings = generator.config.sample
    if settings.choice_temperature is not None:
        return {"gap_data": None}
    data, tokenizer = generator.data, generator.tokenizer
    split = cached_tokens(data, tokenizer, generator.config.data.cache)["train"]
    field = token_field(split, tokenizer, generator.grid)
    return {"gap_data": float(independence_gap(generator.module.sampled_step(settings), field).sum())}


def describe(config: Config, module: GeneratorModule) -> dict[str, Any]:
    """Name what was compared, at what size: columns that need no trained weights."""
    step, grid = module.sampled_step(config.sample), module.model.grid
    sizes, t = step_sizes(step), config.train
    images = t.steps * t.batch_size * t.accumulate
    turns, rows = module.turns(config.sample), 1 if config.sample.guidance == 1 else 2
    return {
        "order": config.sample.order or config.order.name,
        "variant": config.attention,
        "seed": config.seed,
        "steps": len(sizes),
        "largest_group": max(sizes),
        **gap_columns(step, grid, config.sample),
        "params": parameter_count(module.model),
        "slots": len(module.slots),
        "sampled_slots": sum(len(turn.slots) for turn in turns),
        "sample_gflop": sampling_cost(module.model.shape, module.model.vocabulary, turns, rows).flops / 1e9,
        "train_tflops": training_flops(module) * images / 1e12,
        "images_seen": images,
        "step_map": step.view(grid).tolist() if config.sample.choice_temperature is None else None,
        "guidance": config.sample.guidance,
        "guidance_schedule": config.sample.guidance_schedule,
        "temperature": config.sample.temperature,
        "top_k": config.sample.top_k,
        "top_p": config.sample.top_p,
        "correction": config.sample.correction if module.slots.revises.any() else 0.0,
    }


def provenance(generator: Generator, reference: Reference) -> dict[str, Any]:
    """Say where the figures come from."""
    config = generator.config
    return {
        "fid_feature": reference.network.title,
        "reference": reference.title,
        "held_out": len(reference.held_out),
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


def evaluate(generator: Generator, reference: Reference) -> tuple[dict[str, Any], Samples]:
    """Score a generator without timing it: its row and the samples."""
    config = generator.config
    began = time.perf_counter()
    samples = draw_samples(generator, replace(config.sample, images=config.evaluate.images))
    row = describe(config, generator.module)
    row |= field_gap(generator)
    row |= {"train_seconds": generator.train_seconds, "nll": measure_nll(generator)}
    row |= measure_quality(generator, samples, reference)
    row["evaluate_seconds"] = time.perf_counter() - began
    return row | provenance(generator, reference), samples


def open_reference(generator: Generator) -> Reference:
    """Open the feature network and the real images that a generator is judged by."""
    config = generator.config
    check_metrics(config.evaluate.metrics)
    key = (repr(config.data), generator.data.identity, config.evaluate.features, generator.module.device)
    if key not in OPENED:
        OPENED.clear()
        network = load_features(config.evaluate.features, generator.data, config.data.cache)
        OPENED[key] = build_reference(generator.data, network.to(generator.module.device))
    return OPENED[key]


def save_row(row: dict[str, Any], path: Path) -> None:
    """Write a row as JSON."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(row, indent=1))


def main(args: argparse.Namespace) -> None:
    """Run `radar evaluate`."""
    for text in args.options:
        if text.startswith("sample.images="):
            raise InputError(f"'{text}' has no effect on radar evaluate; it scores evaluate.images")
    generator = load_generator(args.checkpoint, args.options)
    reference = open_reference(generator)
    row, _ = evaluate(generator, reference)
    row |= measure_speed([generator])[0]
    path = Path(args.out or Path(args.checkpoint).parent) / "evaluation.json"
    save_row(row, path)
    for key, value in row.items():
        if key in ("step_map", "options", "gaps"):
            continue
        title = f"{key}[{reference.network.label}]" if key in ("fid", "kid", "rfid", "fid_floor") else key
        print(f"{title:28} {value:.4g}" if isinstance(value, float) else f"{title:28} {value}")
    print(path)
