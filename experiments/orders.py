"""`radar orders --grid 16x16`: table of the orders and one PNG with all step maps."""

import argparse
from pathlib import Path

from experiments.arguments import add_plugins, parse_grid
from experiments.remembered import remembered, show
from radar.config.plugins import plugins_digest
from radar.errors import InputError

PICTURE = "orders.png"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what it takes."""
    parser.add_argument("--grid", default="16x16", help="rows x columns (default 16x16)")
    parser.add_argument("--length", type=float, default=4.0, help="length scale of the Gaussian field, in cells")
    parser.add_argument("--steps", type=int, help="steps of the last rows (default: as radial)")
    parser.add_argument("--out", default="runs/orders.png", help="PNG with all step maps")
    add_plugins(parser)


def main(args: argparse.Namespace) -> None:
    """Run `radar orders`."""
    h, w = parse_grid(args.grid)
    if not 0 < args.length < float("inf"):
        raise InputError(f"--length {args.length} is not possible: it must be above 0 and finite")
    wanted = [h, w, args.length, args.steps, *([plugins_digest(args.plugins)] if args.plugins else [])]
    found = remembered("orders", wanted, lambda to: compute(h, w, args.length, args.steps, to), PICTURE)
    show(found, PICTURE, Path(args.out))


def compute(h: int, w: int, length: float, steps: int | None, folder: Path) -> str:
    """Write the picture and return the table."""
    from radar.decoding.compared import compare_orders, orders_table
    from radar.pictures import draw_steps, save_figure

    orders = compare_orders(h, w, length, steps)
    save_figure(draw_steps([(f"{o.title}: {len(o.sizes)} steps", o.map) for o in orders]), folder / PICTURE)
    return orders_table(orders, length)
