"""Builds the arms, times them in turns, and describes what was measured."""

import os
import re
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import product
from statistics import mean, median
from typing import Any

import torch

from radar.config.load import load_config
from radar.config.lookup import choose
from radar.errors import InputError
from radar.kernels.build import kernels
from radar.kernels.cuda_graphs import warm_up_calls
from radar.model.transformer import parameter_count
from radar.progress import Bar
from radar.provenance import git_commit, hardware, versions
from radar.sampling.sampler import ready_to_sample
from radar.timing.rates import Rates, free_bytes, measure_rates, peak_bytes
from radar.timing.rounds import synchronised
from radar.timing.utilisation import utilisation
from radar.timing.works import SAME_FOR_ALL_ARMS, SAMPLED, TRAINED, WORKS, Work, sample
from radar.training.devices import pick_device
from radar.training.generator import GeneratorModule

Row = dict[str, Any]
Timing = tuple[float, float]  # seconds, floor in seconds
Arms = list[tuple[str, GeneratorModule]]
MAX_BATCH = "max"
# Environment that changes speed, by how the names begin; of paths the name alone is kept.
SETTINGS = ("MALLOC_", "OMP_", "GOMP_", "KMP_", "MKL_", "ATEN_CPU_", "ONEDNN_", "LD_PRELOAD", "CXX", "RADAR_")


def build_arm(
    name: str, vocabulary: int, classes: int, grid: tuple[int, int], options: Sequence[str]
) -> GeneratorModule:
    """Build `order/variant` with random weights, options after colons; raises InputError.

    `halton:steps=13:schedule=cosine/plain`, `radial/nested:rings=1`.
    """
    order, slash, variant = name.partition("/")
    if not slash:
        raise InputError(f"arm '{name}' is not of the form order/variant (example: radial/plain)")
    title, *details = order.split(":")
    attention, *revise = variant.split(":")
    chosen = [f"order.name={title}", *(f"order.{d}" for d in details)]
    chosen += [f"attention={attention}", *(f"revise.{d}" for d in revise)]
    config = load_config(None, [*options, *chosen])  # an arm's own options win
    if config.generator != "autoregressive":
        raise InputError(
            f"generator={config.generator} is not possible here: radar bench times autoregressive generators"
        )
    torch.manual_seed(0)
    module = GeneratorModule(config, vocabulary, classes, grid)
    torch.nn.init.normal_(module.model.head.weight, std=0.02)
    return module.to(pick_device(config.train.device)).eval()


def rates_of(module: GeneratorModule, low: bool, repeats: int) -> Rates:
    """Measure the rates for layers of the width of a model, in bfloat16 or float32."""
    dtype = torch.bfloat16 if low else torch.float32
    return measure_rates(module.model.shape.dim, parameter_count(module.model), module.device, dtype, repeats)


def time_once(work: Work, module: GeneratorModule) -> Timing:
    """Seconds of one call, and its floor by the rates just before and after: others may slow the device for a while."""
    before = rates_of(module, work.low, 2)
    seconds = synchronised(module.device, work.call)
    floors = [work.cost.seconds(r.flops_per_s, r.bytes_per_s) for r in (before, rates_of(module, work.low, 2))]
    return seconds, mean(floors)


def describe(work: Work, timings: Sequence[Timing], batch: int) -> Row:
    """Median and range of images per second, cost on paper, and the median of the ratios to the floor."""
    seconds = [timing[0] for timing in timings]
    middle = median(seconds)
    row: Row = {
        "dtype": "bfloat16" if work.low else "float32", "steps": work.steps, "slots": work.slots,
        "seconds": middle, "images_per_s": batch / middle, "images_per_s_min": batch / max(seconds),
        "images_per_s_max": batch / min(seconds), "flops_per_image": work.cost.flops / batch,
        "bytes_per_image": work.cost.bytes / batch, "cost": vars(work.cost),
        "floor_seconds": median(floor for _, floor in timings), "over_floor": median(s / floor for s, floor in timings),
    }  # fmt: skip
    return row | ({"ms_per_step": 1e3 * middle / work.cost.passes} if work.cost.passes else {})


def bench(what: str, arms: Arms, batch: int, repeats: int) -> list[Row]:
    """Time one kind of work for all arms and grids in turns, but for the rounds of warming up: a row for each."""
    if what in SAME_FOR_ALL_ARMS:
        arms = [*{module.model.grid: ("(any)", module) for _, module in arms}.values()]
    works = [(WORKS[what](module, batch), module) for _, module in arms]
    dropped = warm_up_calls(arms[0][1].device)
    calls = Bar((dropped + repeats) * works, f"{what}, batch {batch}")
    timings = [time_once(*work) for work in calls][dropped * len(works) :]
    rows = [
        {"what": what, "arm": name, "batch": batch}
        | {"guidance": module.config.sample.guidance if what in SAMPLED else None}
        | {"grid": "{}x{}".format(*module.model.grid)}
        | describe(work, timings[number :: len(works)], batch)
        | {"peak_bytes": peak_bytes(module.device, work.call)}
        for number, ((name, module), (work, _)) in enumerate(zip(arms, works, strict=True))
    ]
    if what == TRAINED:
        return [row | utilisation(module, row) for row, (_, module) in zip(rows, arms, strict=True)]
    return rows


def largest_batch(module: GeneratorModule, kept: int = 1) -> int:
    """Largest power of two of images that sampling has memory for, from the growth between 16 and 64 images.

    `kept` batches must fit at once: on a GPU, the recordings of all arms.

    Raises InputError where the memory in use cannot be read.
    """
    works = [sample(module, batch) for batch in (16, 64)]
    works[1].call()  # what is allocated once is not counted
    small, large = (peak_bytes(module.device, work.call) for work in works)
    free = free_bytes(module.device)
    if small is None or large is None or free is None:
        raise InputError(f"--batch {MAX_BATCH} is not possible: the memory in use cannot be read on this system")
    least = (works[1].cost.bytes - works[0].cost.bytes) / 48 / works[1].cost.passes
    batch, per_image = 64, max(least, (large - small) / 48)
    while 2 * batch * per_image * kept < 0.8 * free:
        batch *= 2
    return batch


@dataclass(frozen=True)
class Bench:
    """What is to be measured: kinds of work, arms (`order/variant`), batches (or MAX_BATCH), guidance scales, grids."""

    kinds: Sequence[str]
    arms: Sequence[str]
    batches: Sequence[int | str]
    scales: Sequence[float]
    grids: Sequence[tuple[int, int]]
    vocabulary: int
    classes: int
    repeats: int
    options: Sequence[str]

    def __post_init__(self) -> None:
        """Check what fits together; raises InputError."""
        for what in self.kinds:
            choose("kind of work", what, WORKS)
            if MAX_BATCH in self.batches and what not in SAMPLED:
                raise InputError(
                    f"--batch {MAX_BATCH} with --what {what} is not possible: it is for {', '.join(SAMPLED)}"
                )
        if list(self.scales) != [1.0] and not any(what in SAMPLED for what in self.kinds):
            given = ",".join(f"{scale:g}" for scale in self.scales)
            raise InputError(
                f"--guidance {given} has no effect on {','.join(self.kinds)}; it is for {', '.join(SAMPLED)}"
            )

    def built(self, scale: float) -> Arms:
        """Build all arms on all grids, with this guidance."""
        options = [*self.options, f"sample.guidance={scale}"]
        names = product(self.grids, self.arms)
        return [(name, build_arm(name, self.vocabulary, self.classes, grid, options)) for grid, name in names]


def run_bench(asked: Bench) -> Row:
    """Measure everything that is asked for."""
    arms = {scale: asked.built(scale) for scale in asked.scales}
    first = arms[asked.scales[0]][0][1]
    rates = {low: rates_of(first, low, 7) for low in (False, True)}
    rows: list[Row] = []
    for what, wanted, scale in product(asked.kinds, asked.batches, asked.scales):
        if scale != asked.scales[0] and what not in SAMPLED:
            continue  # guidance is a matter of sampling
        modules = [module for _, module in arms[scale]]
        with ExitStack() as stack:
            for module in modules if what in SAMPLED else ():
                stack.enter_context(ready_to_sample(module.model, module.config.sample))
            kept = len(modules) if first.device.type == "cuda" else 1
            batch = min(largest_batch(module, kept) for module in modules) if wanted == MAX_BATCH else int(wanted)
            rows += bench(what, arms[scale], batch, asked.repeats)
    return {
        "date": datetime.now(UTC).date().isoformat(), "commit": git_commit(), "hardware": hardware(first.device),
        "threads": torch.get_num_threads(), "kernels": first.device.type == "cpu" and kernels() is not None,
        "versions": versions(),
        "environment": {
            key: re.sub(r"(?<!\S)/\S*/", "", value) for key, value in os.environ.items() if key.startswith(SETTINGS)
        },
        "params": parameter_count(first.model), "gflops_per_s": rates[False].flops_per_s / 1e9,
        "gflops_per_s_bfloat16": rates[True].flops_per_s / 1e9,
        "copy_gbytes_per_s": rates[False].bytes_per_s / 1e9, "vocabulary": asked.vocabulary, "classes": asked.classes,
        "repeats": asked.repeats, "options": list(asked.options), "rows": rows,
    }  # fmt: skip
