"""`radar orders --grid 16x16`: table of the orders and one PNG with all step maps."""

import argparse
from pathlib import Path

from experiments.pictures import draw_steps, save_figure
from radar.config.options import OrderConfig
from radar.config.registry import takes
from radar.decoding.orders import DISTANCES, ORDERS, adjacent_share, decode_steps, step_sizes
from radar.decoding.total_correlation import exponential_covariance, independence_gap
from radar.errors import InputError

LARGEST_GRID = 64 * 64  # the gap factorises an N x N matrix


def parse_grid(text: str) -> tuple[int, int]:
    """Read `16x16`; raises InputError."""
    try:
        h, w = (int(side) for side in text.split("x"))
    except ValueError as error:
        raise InputError(f"--grid {text} is not of the form ROWSxCOLUMNS (example: 16x16)") from error
    if min(h, w) < 1 or h * w > LARGEST_GRID:
        raise InputError(f"--grid {text} is not possible: sides of at least 1, at most {LARGEST_GRID} cells")
    return h, w


def listed_orders(h: int, w: int, steps: int | None) -> list[tuple[str, OrderConfig]]:
    """List every order with its defaults, radial in every metric, and the scattered ones in as many steps as radial."""
    rows = [(name, OrderConfig(name=name)) for name in ORDERS if not takes(name, ORDERS, "path")]
    rows += [(f"radial {metric}", OrderConfig(name="radial", metric=metric)) for metric in list(DISTANCES)[1:]]
    radial = int(decode_steps(OrderConfig(name="radial"), h, w).max()) + 1
    grouped = radial if steps is None else steps
    for name in ("random", "halton", "lpd", "optimised"):
        rows.append((f"{name} cosine {grouped}", OrderConfig(name=name, steps=grouped, schedule="cosine")))
    return rows


def main(args: argparse.Namespace) -> None:
    """Run `radar orders`."""
    h, w = parse_grid(args.grid)
    if not 0 < args.length < float("inf"):
        raise InputError(f"--length {args.length} is not possible: it must be above 0 and finite")
    covariance = exponential_covariance(h, w, args.length)
    maps = []
    print(f"{h}x{w} grid; gap: independence gap in nats of a Gaussian field, exp(-r/{args.length:g}) + 1e-4 I")
    print(f"{'order':20} {'K':>5} {'largest':>8} {'adjacent':>9} {'gap':>8} {'per step':>9}  sizes")
    for title, order in listed_orders(h, w, args.steps):
        step = decode_steps(order, h, w)
        sizes = step_sizes(step)
        share, gap = adjacent_share(step, h, w), float(independence_gap(step, covariance).sum())
        shown = ",".join(map(str, sizes)) if len(sizes) <= 32 else f"{sizes[0]},{sizes[1]},..."
        print(f"{title:20} {len(sizes):5} {max(sizes):8} {share:9.0%} {gap:8.2f} {gap / len(sizes):9.4f}  {shown}")
        maps.append((f"{title}: {len(sizes)} steps", step.view(h, w)))
    save_figure(draw_steps(maps), Path(args.out))
    print(args.out)
