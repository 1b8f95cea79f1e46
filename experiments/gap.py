"""`radar gap --orders radial,halton:steps=13:schedule=cosine`: what decoding in parallel costs, before any training.

In a field of a kernel, or in one estimated from the tokens of a configuration's data (`--from-data digits`).
"""

import argparse
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.ticker import StrMethodFormatter
from torch import Tensor

from experiments.arguments import add_plugins, parse_grid
from experiments.configs import find_config
from radar.config.load import load_config, parse_order
from radar.decoding.fields import IMAGES
from radar.decoding.groups import group_sizes, sizes_text, step_sizes
from radar.decoding.optimised import optimise
from radar.decoding.orders import decode_steps
from radar.decoding.total_correlation import costly_pairs, independence_gap, kernel_covariance
from radar.errors import InputError
from radar.pictures import save_figure
from radar.progress import Bar
from radar.scoring.data_field import estimate_field, save_field

PAIRS_SHOWN = 3  # shown of every order
SHOWN, STEPS = ("random", "radial", "halton", "lpd"), 13  # shown where no orders are asked for

# Defaults of the options that describe a field, by where it comes from.
OF_KERNEL = {"grid": "16x16", "kernel": "exponential", "length": 4.0}
OF_DATA = {"estimate": "embeddings", "pooled": False, "images": IMAGES}
USED = ("data.", "tokenizer.", "train.device=")  # options of a configuration that its field depends on


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what it takes."""
    add_plugins(parser)
    parser.add_argument("--orders", help="with commas and options: radial,halton:steps=13:schedule=cosine")
    parser.add_argument("--steps", type=int, help="of orders that give none; sizes: cosine (default: natural groups)")
    parser.add_argument("--grid", help="rows x columns (default 16x16)")
    parser.add_argument("--kernel", help="exponential, matern32 or matern52 (default exponential)")
    parser.add_argument("--length", type=float, help="length scale of the kernel, in cells (default 4)")
    parser.add_argument("--from-data", metavar="CONFIG", help="estimate the field from the tokens of its data")
    parser.add_argument("--estimate", help="embeddings or information (default embeddings)")
    parser.add_argument("--pooled", action="store_const", const=True, help="over all classes, not given the class")
    parser.add_argument("--images", type=int, help="that the field is estimated from, at most (default 20000)")
    parser.add_argument("--save", metavar="NPZ", help="write the field, for order.covariance")
    parser.add_argument("--out", default="runs/gap.png", help="PNG")


def describe_field(args: argparse.Namespace) -> tuple[Tensor, tuple[int, int], str]:
    """Field, grid and title as the command line asks; raises InputError for an option that would have no effect."""
    used, idle, how = (OF_KERNEL, OF_DATA, "without") if args.from_data is None else (OF_DATA, OF_KERNEL, "with")
    given = [f"--{name}" for name in idle if getattr(args, name) is not None]
    if args.from_data is None:
        given += args.options
    else:
        given += [text for text in args.options if not text.startswith(USED)]
    if given:
        raise InputError(f"{given[0]} has no effect {how} --from-data")
    chosen: dict[str, Any] = {
        name: default if getattr(args, name) is None else getattr(args, name) for name, default in used.items()
    }
    if args.from_data is not None:
        config = load_config(find_config(args.from_data), args.options)
        return estimate_field(config, chosen["estimate"], chosen["pooled"], chosen["images"])
    grid = parse_grid(chosen["grid"])
    kernel, length = chosen["kernel"], chosen["length"]
    return kernel_covariance(kernel, *grid, length), grid, f"{kernel}, length {length:g}, and 1e-4 I"


def chosen_steps(args: argparse.Namespace, field: Tensor, grid: tuple[int, int]) -> dict[str, Tensor]:
    """Steps of the orders asked for; or else of some that differ much, and of one that is made for this field."""
    if args.orders:
        orders = {text: parse_order(text) for text in re.split(r",(?![^\[]*\])", args.orders)}  # not inside of lists
        natural = [text for text, order in orders.items() if not (order.steps or order.sizes or order.sizes_of)]
        if args.steps is not None and not natural:
            raise InputError(f"--steps {args.steps} has no effect: all orders give their own")
        sizes = {text: "" if orders[text].schedule else ":schedule=cosine" for text in natural}
        cut = {} if args.steps is None else {text: f"{text}:steps={args.steps}{sizes[text]}" for text in natural}
        titles = [cut.get(text, text) for text in orders]
        return {title: decode_steps(parse_order(title), *grid) for title in _shown(titles)}
    count = STEPS if args.steps is None else args.steps
    texts = ["radial", *(f"{name}:steps={count}:schedule=cosine" for name in SHOWN)]
    steps = {text: decode_steps(parse_order(text), *grid) for text in _shown(texts)}
    made = optimise(field.numpy(), group_sizes(len(field), count, "cosine"))
    return steps | {f"optimised for this field, {count}": torch.from_numpy(made)}


def _shown(titles: list[str]) -> Iterable[str]:
    """With a bar: large grids take seconds."""
    return Bar(titles, "orders")


def draw_gaps(gaps: dict[str, Tensor], title: str, path: Path) -> None:
    """Draw the gap that has built up after every step, a line per order."""
    figure, axis = plt.subplots(figsize=(6.5, 4.2))
    for number, (name, gap) in enumerate(gaps.items()):
        total = f"{name}: {float(gap.sum()):.2f}"
        axis.plot(range(1, len(gap) + 1), gap.cumsum(0), "o-", markersize=3, label=total, color=f"C{number % 10}")
    axis.set_xlabel("step")
    axis.set_ylabel("independence gap so far (nats)")
    axis.set_yscale("symlog", linthresh=0.1)
    axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_title(title, fontsize=9)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncol=2, frameon=False)
    save_figure(figure, path)


def main(args: argparse.Namespace) -> None:
    """Run `radar gap`."""
    field, grid, title = describe_field(args)
    if args.save:
        save_field(field, Path(args.save), title)
    steps = chosen_steps(args, field, grid)
    gaps: dict[str, Tensor] = {}
    print(f"{grid[0]}x{grid[1]} grid; independence gap in nats; {title}")
    print(f"{'order':36} {'K':>4} {'gap':>9} {'per step':>9} {'largest':>9}  dearest pairs (row,column)-(row,column)")
    for text, step in steps.items():
        gaps[text] = gap = independence_gap(step, field)
        pairs = [
            f"({p.first // grid[1]},{p.first % grid[1]})-({p.second // grid[1]},{p.second % grid[1]}) {p.nats:.3f}"
            for p in costly_pairs(step, field, PAIRS_SHOWN)
        ]
        total, mean, most = float(gap.sum()), float(gap.mean()), float(gap.max())
        print(f"{text:36} {len(gap):4} {total:9.3f} {mean:9.4f} {most:9.3f}  {', '.join(pairs)}")
        print(f"{'':36} sizes: {sizes_text(step_sizes(step))}")
    draw_gaps(gaps, title, Path(args.out))
    print(args.out)
