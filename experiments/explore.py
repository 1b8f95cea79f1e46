"""`radar explore`: one page, without network, that plays orders and shows who sees whom."""

import argparse
import json
from importlib.resources import files
from pathlib import Path

from experiments.arguments import add_plugins, parse_grid
from radar.errors import InputError

MARK = "/*DATA*/null"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what it takes."""
    parser.add_argument("--grids", default="8x8,16x16", help="rows x columns, by commas (default 8x8,16x16)")
    parser.add_argument("--steps", default="4,7,10,13", help="numbers of steps, by commas (default 4,7,10,13)")
    parser.add_argument("--out", default="runs/explorer.html", help="page to write")
    add_plugins(parser)


def main(args: argparse.Namespace) -> None:
    """Run `radar explore`."""
    grids = [parse_grid(text, "--grids") for text in args.grids.split(",")]
    try:
        steps = sorted({int(text) for text in args.steps.split(",")})
    except ValueError as error:
        raise InputError(f"--steps {args.steps} is not possible: numbers by commas expected (example: 7,13)") from error
    if min(steps) < 1:
        raise InputError(f"--steps {args.steps} is not possible: at least 1 each")
    if min(steps) > (cells := min(h * w for h, w in grids)):
        raise InputError(f"--steps {args.steps} is not possible: the smallest grid has {cells} cells")
    from experiments.explorer.data import explored
    from radar.files import replacing

    page = (files("experiments.explorer") / "page.html").read_text()
    found = json.dumps(explored(grids, steps), separators=(",", ":"))
    with replacing(Path(args.out)) as temporary:
        temporary.write_text(page.replace(MARK, found))
    print(args.out)
