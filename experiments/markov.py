"""`radar markov --grid 3x4`: the gap of a known discrete field, exactly and by the sampler with exact conditionals."""

import argparse
import json
from math import log
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from experiments.arguments import parse_grid
from radar.config.options import OrderConfig
from radar.decoding.orders import decode_steps
from radar.decoding.total_correlation import independence_gap
from radar.errors import InputError
from radar.files import replacing
from radar.pictures import save_figure
from radar.sampling.exact_field import covariance_of, draw, entropy, exact_gap, ising, measured_gap

LEAST_CELLS, MOST_CELLS = 4, 16  # as many as the most steps below; 65,536 images
STRONGEST = 5  # coupling; beyond, nearly all images are of one colour and the covariance is singular
SMALL_ORDERS = {
    "raster": OrderConfig("raster"),
    "diagonal": OrderConfig("diagonal"),
    "rows": OrderConfig("raster", steps=3),
    "radial": OrderConfig("radial", steps=4),
    "multi_center": OrderConfig("multi_center", steps=4),
    "random": OrderConfig("random", steps=4),
    "halton": OrderConfig("halton", steps=4),
    "lpd": OrderConfig("lpd", steps=4),
    "optimised": OrderConfig("optimised", steps=4, length=1.5),
    "optimised, 2": OrderConfig("optimised", steps=2, length=1.5),
    "halton, 2": OrderConfig("halton", steps=2),
}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what it takes."""
    parser.add_argument("--grid", default="3x3", help="rows x columns, at most 16 cells (default 3x3)")
    parser.add_argument("--coupling", type=float, default=0.8, help="nats per pair of equal neighbours")
    parser.add_argument("--images", type=int, default=100000, help="to draw per order (default 100000)")
    parser.add_argument("--out", default="runs/markov.png", help="PNG; the rows are written beside it as JSON")


def main(args: argparse.Namespace) -> None:
    """Run `radar markov`."""
    h, w = parse_grid(args.grid)
    if not LEAST_CELLS <= h * w <= MOST_CELLS:
        raise InputError(
            f"--grid {args.grid} is not possible: {LEAST_CELLS} to {MOST_CELLS} cells, all images are listed"
        )
    if not abs(args.coupling) <= STRONGEST:
        raise InputError(f"--coupling {args.coupling} is not possible: -{STRONGEST} to {STRONGEST}")
    if args.images < 1:
        raise InputError(f"--images {args.images} is not possible: at least 1")
    if Path(args.out).suffix == ".json":
        raise InputError(f"--out {args.out} is the name of the picture; the JSON is written beside it")
    p = ising(h, w, args.coupling)
    covariance = covariance_of(p)
    said = f"coupling {args.coupling:g}, entropy {entropy(p):.3f} of {h * w * log(2):.3f} nats, {args.images} images"
    print(f"Ising field, {h}x{w} cells, {said}")
    print(f"{'order':14} {'K':>3} {'exact gap':>10} {'sampled':>18} {'Gaussian gap':>13}")
    rows = []
    for name, order in SMALL_ORDERS.items():
        step = decode_steps(order, h, w)
        exact, (sampled, half) = exact_gap(p, step), measured_gap(p, draw(p, step, args.images))
        gaussian = float(independence_gap(step, covariance).sum())
        rows.append({"order": name, "steps": int(step.max()) + 1, "exact": exact, "sampled": sampled, "half": half})
        rows[-1]["gaussian"] = gaussian
        print(f"{name:14} {int(step.max()) + 1:3} {exact:10.4f} {sampled:9.4f} ± {half:.4f} {gaussian:13.4f}")
    save(rows, Path(args.out))
    print(args.out)


def save(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw sampled against exact, and the Gaussian gap against it; and write the rows as JSON beside the picture."""
    figure, axis = plt.subplots(figsize=(5.5, 4.2))
    exact = [row["exact"] for row in rows]
    axis.errorbar(exact, [row["sampled"] for row in rows], [row["half"] for row in rows], fmt="o", label="sampled")
    axis.plot(exact, [row["gaussian"] for row in rows], "x", label="Gaussian field of the same covariance")
    axis.axline((0, 0), slope=1, color="0.6", linewidth=1)
    axis.set_xlabel("exact gap (nats)")
    axis.set_ylabel("nats")
    axis.legend(fontsize=8)
    axis.grid(alpha=0.3)
    save_figure(figure, path)
    with replacing(path.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(rows, indent=1))
