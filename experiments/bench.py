"""`radar bench`: how fast arms sample and train, against the roofline floor of this device, measured in the same run.

Random weights, tokens only. All arms take turns within a round, and the first round is dropped.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib.pyplot as plt
import torch

from experiments.evaluate import synchronised, training_flops
from experiments.orders import parse_grid
from experiments.pictures import save_figure
from radar.checkpoints import pick_device
from radar.config import load_config
from radar.cost import sampling_cost
from radar.errors import InputError
from radar.files import replacing
from radar.modules import GeneratorModule
from radar.orders import step_sizes
from radar.provenance import git_commit, hardware, versions
from radar.sampling import sample_tokens
from radar.transformer import parameter_count

Row = dict[str, Any]
OPTIONS = ("model.", "order.", "train.precision=", "train.device=", "sample.")


@dataclass(frozen=True)
class Rates:
    """What this device does at best: operations per second of matrix products, bytes moved per second by a copy."""

    flops_per_s: float
    bytes_per_s: float


def measure_rates(width: int, weights: int, device: torch.device, dtype: torch.dtype, repeats: int = 7) -> Rates:
    """Best of matrix products of D x 4D with up to 4096 rows, and of copying a buffer as large as the weights."""
    right, flops = torch.randn(width, 4 * width, device=device, dtype=dtype), 0.0
    for rows in (256, 1024, 4096):
        left = torch.randn(rows, width, device=device, dtype=dtype)
        seconds = min(synchronised(device, lambda left=left: left @ right) for _ in range(repeats))
        flops = max(flops, 2 * rows * width * 4 * width / seconds)
    source = torch.randn(weights, device=device, dtype=dtype)
    target = torch.empty_like(source)
    seconds = min(synchronised(device, lambda: target.copy_(source)) for _ in range(repeats))
    return Rates(flops, 2 * source.numel() * source.element_size() / seconds)


def build_arm(name: str, args: argparse.Namespace, options: Sequence[str]) -> GeneratorModule:
    """Build `order/variant` or `order:steps=13:schedule=cosine/variant` with random weights; raises InputError."""
    order, slash, variant = name.partition("/")
    if not slash:
        raise InputError(f"arm '{name}' is not of the form order/variant (example: radial/plain)")
    title, *details = order.split(":")
    config = load_config(
        None, [f"order.name={title}", *(f"order.{d}" for d in details), f"attention={variant}", *options]
    )
    torch.manual_seed(0)
    module = GeneratorModule(config, args.vocabulary, args.classes, parse_grid(args.grid))
    torch.nn.init.normal_(module.model.head.weight, std=0.02)
    return module.to(pick_device(config.train.device)).eval()


def sampling_work(module: GeneratorModule, batch: int) -> Callable[[], object]:
    """One batch of sampling, tokens only."""
    settings, numbers = module.config.sample, range(batch)
    labels = torch.arange(batch, device=module.device) % module.model.classes
    turns, sequence = module.turns(settings), module.sequence
    return lambda: sample_tokens(module.model, turns, sequence, labels, settings, numbers)


def training_work(module: GeneratorModule, batch: int) -> Callable[[], object]:
    """One optimizer step, with everything but loading."""
    optimizer = module.configure_optimizers()["optimizer"]
    tokens = torch.randint(module.model.vocabulary, (batch, len(module.step)), device=module.device)
    labels = torch.arange(batch, device=module.device) % module.model.classes
    low = module.config.train.precision == "bf16-mixed"

    def work() -> None:
        with torch.autocast(module.device.type, torch.bfloat16, enabled=low):
            loss = module.train().training_step((0, tokens, labels), 0)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        module.eval()

    return work


def time_in_turns(works: Sequence[Callable[[], object]], device: torch.device, repeats: int) -> list[list[float]]:
    """Seconds of every work in every round, the first round dropped: (works, repeats)."""
    rounds = [[synchronised(device, work) for work in works] for _ in range(repeats + 1)][1:]
    return [list(column) for column in zip(*rounds, strict=True)]


def peak_bytes(device: torch.device, work: Callable[[], object]) -> int | None:
    """Most memory in use during one call: allocated on CUDA, resident on Linux, otherwise unknown."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        work()
        return torch.cuda.max_memory_allocated(device)
    try:
        Path("/proc/self/clear_refs").write_text("5")
        work()
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


def describe_times(seconds: Sequence[float], batch: int, floor: float) -> Row:
    """Median and range of images per second, and the ratio to the floor."""
    middle = median(seconds)
    return {
        "seconds": middle, "images_per_s": batch / middle, "images_per_s_min": batch / max(seconds),
        "images_per_s_max": batch / min(seconds), "floor_seconds": floor, "over_floor": middle / floor,
    }  # fmt: skip


def bench_sampling(arms: dict[str, GeneratorModule], batch: int, rates: Rates, repeats: int) -> list[Row]:
    """A row per arm."""
    device = next(iter(arms.values())).device
    works = [sampling_work(module, batch) for module in arms.values()]
    rows = []
    for (name, module), work, seconds in zip(arms.items(), works, time_in_turns(works, device, repeats), strict=True):
        turns, model, guided = module.turns(module.config.sample), module.model, module.config.sample.guidance != 1
        cost = sampling_cost(model.shape, model.vocabulary, turns, batch * (1 + guided), element_size(module))
        row = {"what": "sample", "arm": name, "batch": batch, "guidance": module.config.sample.guidance}
        row |= {"steps": len(turns), "slots": sum(len(turn.slots) for turn in turns)}
        row |= {"flops_per_image": cost.flops / batch, "bytes_per_image": cost.bytes / batch}
        row |= describe_times(seconds, batch, cost.seconds(rates.flops_per_s, rates.bytes_per_s))
        rows.append(row | {"ms_per_step": 1e3 * row["seconds"] / len(turns), "peak_bytes": peak_bytes(device, work)})
    return rows


def bench_training(arms: dict[str, GeneratorModule], batch: int, rates: Rates, repeats: int) -> list[Row]:
    """A row per arm; the floor is that of its matrix products."""
    device = next(iter(arms.values())).device
    works = [training_work(module, batch) for module in arms.values()]
    rows = []
    for (name, module), work, seconds in zip(arms.items(), works, time_in_turns(works, device, repeats), strict=True):
        flops = training_flops(module, draws=1) * batch
        row = {"what": "train", "arm": name, "batch": batch, "guidance": None, "steps": len(step_sizes(module.step))}
        row |= {"slots": len(module.slots), "flops_per_image": flops / batch}
        row |= describe_times(seconds, batch, flops / rates.flops_per_s)
        rows.append(
            row | {"tokens_per_s": row["images_per_s"] * len(module.step), "peak_bytes": peak_bytes(device, work)}
        )
    return rows


def element_size(module: GeneratorModule) -> int:
    """Bytes per number of the weights."""
    return next(module.parameters()).element_size()


def table(rows: Sequence[Row]) -> str:
    """Lay the rows out as text."""
    lines = [f"{'':6} {'arm':28} {'batch':>5} {'s':>4} {'steps':>5} {'slots':>6} {'ms/step':>8} {'images/s':>9} "
             f"{'(min..max)':>17} {'GFLOP/im':>9} {'over floor':>10} {'peak MB':>8}"]  # fmt: skip
    for row in rows:
        spread = f"({row['images_per_s_min']:.2f}..{row['images_per_s_max']:.2f})"
        peak = "" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 1e6:.0f}"
        scale = "" if row["guidance"] is None else f"{row['guidance']:g}"
        step = f"{row['ms_per_step']:.2f}" if "ms_per_step" in row else ""
        lines.append(
            f"{row['what']:6} {row['arm']:28} {row['batch']:5} {scale:>4} {row['steps']:5} {row['slots']:6} {step:>8} "
            f"{row['images_per_s']:9.2f} {spread:>17} {row['flops_per_image'] / 1e9:9.2f} {row['over_floor']:10.2f} "
            f"{peak:>8}"
        )
    return "\n".join(lines)


def draw(rows: Sequence[Row], title: str, path: Path) -> None:
    """Draw images per second of every row, and how far the floor would allow it."""
    figure, axis = plt.subplots(figsize=(7, 0.35 * len(rows) + 1.6))
    names = [f"{row['what']} {row['arm']}, batch {row['batch']}" for row in rows]
    speeds, floors = [r["images_per_s"] for r in rows], [r["images_per_s"] * r["over_floor"] for r in rows]
    axis.barh(names, floors, color="0.85", label="roofline floor")
    axis.barh(names, speeds, height=0.5, color="#0072B2", label="measured (median)")
    axis.invert_yaxis()
    axis.set_xscale("log")
    axis.set_xlabel("images per second")
    axis.set_title(title, fontsize=8)
    axis.legend(
        fontsize=8, loc="upper center", bbox_to_anchor=(0.4, -1.2 / (0.35 * len(rows) + 1.6)), ncol=2, frameon=False
    )
    save_figure(figure, path)


def compare(first: Path, second: Path) -> str:
    """List the ratio of images per second, second to first, of the rows that both files hold; raises InputError."""
    files = []
    for path in (first, second):
        try:
            files.append(json.loads(path.read_text()))
        except (OSError, ValueError) as error:
            raise InputError(f"{path} is not a result of radar bench: {error}") from error
    if files[0]["hardware"] != files[1]["hardware"]:
        print(f"different hardware: {files[0]['hardware']} and {files[1]['hardware']}")

    def keyed(file: dict[str, Any]) -> dict[tuple[Any, ...], Row]:
        return {tuple(row[key] for key in ("what", "arm", "batch", "guidance")): row for row in file["rows"]}

    old, new = map(keyed, files)
    lines = [f"{'':6} {'arm':28} {'batch':>5} {'first':>9} {'second':>9} {'ratio':>6}"]
    for key in [key for key in old if key in new]:
        speeds = [rows[key]["images_per_s"] for rows in (old, new)]
        lines.append(
            f"{key[0]:6} {key[1]:28} {key[2]:5} {speeds[0]:9.2f} {speeds[1]:9.2f} {speeds[1] / speeds[0]:6.2f}"
        )
    return "\n".join(lines)


def run_bench(args: argparse.Namespace) -> dict[str, Any]:
    """Measure everything that is asked for."""
    batches, scales = parse_numbers("--batch", args.batch, int), parse_numbers("--guidance", args.guidance, float)
    options = ["model.preset=small", *args.options]
    arms = {
        s: {n: build_arm(n, args, [*options, f"sample.guidance={s}"]) for n in args.arms.split(",")} for s in scales
    }
    first = next(iter(arms[scales[0]].values()))
    dtype = torch.bfloat16 if first.config.train.precision == "bf16-mixed" else torch.float32
    rates = measure_rates(first.model.shape.dim, parameter_count(first.model), first.device, dtype)
    rows: list[Row] = []
    for batch in batches:
        for scale in scales:
            rows += bench_sampling(arms[scale], batch, rates, args.repeats)
    if args.train:
        rows += bench_training(arms[scales[0]], args.train, rates, args.repeats)
    return {
        "date": datetime.now(UTC).date().isoformat(), "commit": git_commit(), "hardware": hardware(first.device),
        "threads": torch.get_num_threads(), "dtype": str(dtype).removeprefix("torch."), "versions": versions(),
        "params": parameter_count(first.model), "gflops_per_s": rates.flops_per_s / 1e9,
        "copy_gbytes_per_s": rates.bytes_per_s / 1e9, "grid": args.grid, "vocabulary": args.vocabulary,
        "classes": args.classes, "repeats": args.repeats, "options": options, "rows": rows,
    }  # fmt: skip


def parse_numbers(flag: str, text: str, kind: Callable[[str], Any]) -> list[Any]:
    """Read a list such as 1,16,64; raises InputError."""
    try:
        numbers = [kind(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"{flag} {text} is not a list of numbers (example: 1,16)") from error
    if min(numbers) < 1:
        raise InputError(f"{flag} {text} is not possible: each must be at least 1")
    return numbers


def main(args: argparse.Namespace) -> None:
    """Run `radar bench`."""
    if args.compare:
        print(compare(*map(Path, args.compare)))
        return
    for text in args.options:
        if not text.startswith(OPTIONS):
            raise InputError(f"'{text}' does not change a benchmark; radar bench takes: {', '.join(OPTIONS)}")
    torch.set_num_threads(args.threads)
    found = run_bench(args)
    path = Path(args.out)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(found, indent=1))
    facts = f"{found['hardware']}, {found['dtype']}, {found['params'] / 1e6:.1f}M parameters, {args.grid}, commit "
    facts += f"{found['commit']}: {found['gflops_per_s']:.0f} GFLOP/s, copy {found['copy_gbytes_per_s']:.1f} GB/s"
    draw(found["rows"], facts, path.with_suffix(".png"))
    print(facts)
    print(table(found["rows"]))
    print(path)
