"""`radar bench`: how fast arms sample and train, against the roofline floor that is measured in the same run."""

import argparse
import json
from pathlib import Path

import torch

from experiments.bench.results import compare, draw, facts, table
from experiments.bench.run import run_bench
from experiments.bench.scaling import check_scaling
from radar.errors import InputError
from radar.files import replacing

OPTIONS = ("model.", "order.", "revise.", "train.precision=", "train.device=", "train.permutations=", "sample.")


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
    found, path = run_bench(args), Path(args.out)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(found, indent=1))
    draw(found["rows"], facts(found), path.with_suffix(".png"))
    print(facts(found))
    print(table(found["rows"]))
    if report := check_scaling(found["rows"]):
        print(report)
    print(path)
