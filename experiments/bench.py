"""`radar bench`: how fast arms sample and train, against the roofline floor that is measured in the same run."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from experiments.arguments import parse_grid
from radar.errors import InputError
from radar.files import replacing
from radar.timing.bench import MAX_BATCH, Bench, run_bench
from radar.timing.results import compare, draw, facts, table
from radar.timing.scaling import check_scaling
from radar.timing.utilisation import training_table

ARMS = "raster/causal,radial/plain,radial/relay,radial/nested,radial/full"
OPTIONS = (
    "model.", "order.", "revise.", "train.precision=", "train.device=", "train.permutations=", "train.layout=",
    "train.optimizer=", "sample.",
)  # fmt: skip


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what it takes."""
    parser.add_argument("--arms", default=ARMS, help=f"order/variant, with commas (default {ARMS})")
    parser.add_argument("--what", default="sample", help="sample,decode,train,load,metrics (default sample)")
    parser.add_argument("--batch", default="1,16", help="batch sizes, also `max`: what fits (default 1,16)")
    parser.add_argument("--guidance", default="1", help="guidance scales (default 1: off)")
    parser.add_argument("--grid", default="16x16", help="rows x columns, with commas (default 16x16)")
    parser.add_argument("--vocabulary", type=int, default=4096)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5, help="rounds, after those of warming up (default 5)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", default="runs/bench.json", help="JSON; a PNG is written beside it")
    parser.add_argument("--compare", nargs=2, metavar="JSON", help="compare two results and measure nothing")
    parser.set_defaults(unchanged=vars(parser.parse_args([])))  # --compare takes none of the others


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
        given = [
            f"--{name}" for name, value in args.unchanged.items() if name != "compare" and vars(args)[name] != value
        ]
        if given := given + args.options:
            raise InputError(f"{given[0]} has no effect with --compare, which measures nothing")
        print(compare(*map(Path, args.compare)))
        return
    for text in args.options:
        if not text.startswith(OPTIONS):
            raise InputError(f"'{text}' does not change a benchmark; radar bench takes: {', '.join(OPTIONS)}")
        if text.startswith("sample.guidance="):
            raise InputError(f"'{text}' is set by --guidance in a benchmark")
        if text.startswith("order.name="):
            raise InputError(f"'{text}' is set by --arms in a benchmark")
    for name in ("repeats", "threads", "vocabulary", "classes"):
        if getattr(args, name) < 1:
            raise InputError(f"--{name} {getattr(args, name)} is not possible: it must be at least 1")
    if Path(args.out).suffix == ".png":
        raise InputError(f"--out {args.out} is the name of the JSON; the picture is written beside it")
    torch.set_num_threads(args.threads)
    asked = Bench(
        args.what.split(","),
        args.arms.split(","),
        [size if size == MAX_BATCH else parse_numbers("--batch", size, int)[0] for size in args.batch.split(",")],
        parse_numbers("--guidance", args.guidance, float),
        [parse_grid(grid) for grid in args.grid.split(",")],
        args.vocabulary,
        args.classes,
        args.repeats,
        ["model.preset=small", *args.options],
    )
    found, path = run_bench(asked), Path(args.out)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(found, indent=1))
    draw(found["rows"], facts(found), path.with_suffix(".png"))
    print(facts(found))
    print(table(found["rows"]))
    if trained := training_table(found["rows"]):
        print(trained)
    if report := check_scaling(found["rows"]):
        print(report)
    print(path)
