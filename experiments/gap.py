"""`radar gap --orders radial,halton:steps=13:schedule=cosine`: what decoding in parallel costs, before any training.

In a field of a kernel, or in one estimated from the tokens of a configuration's data (`--from-data digits`).
"""

import argparse
import re
from pathlib import Path
from zipfile import BadZipFile

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.ticker import StrMethodFormatter
from torch import Tensor

from experiments.configs import find_config
from experiments.orders import parse_grid
from experiments.pictures import save_figure
from radar.config.load import load_config, parse_order
from radar.config.options import Config
from radar.config.registry import choose
from radar.data import load_data
from radar.data.tokens import cached_tokens
from radar.decoding.fields import ESTIMATORS, IMAGES, token_field
from radar.decoding.optimised import optimise
from radar.decoding.orders import decode_steps, group_sizes, sizes_text, step_sizes
from radar.decoding.total_correlation import costly_pairs, independence_gap, kernel_covariance
from radar.errors import InputError
from radar.files import replacing
from radar.training.checkpoints import load_tokenizer, pick_device

PAIRS_SHOWN = 3  # shown of every order
SHOWN, STEPS = ("random", "radial", "halton", "lpd"), 13  # shown where no orders are asked for

# Defaults of the options that describe a field, by where it comes from.
OF_KERNEL = {"grid": "16x16", "kernel": "exponential", "length": 4.0}
OF_DATA = {"estimate": "embeddings", "pooled": False, "images": IMAGES}
USED = ("data.", "tokenizer.", "train.device=")  # options of a configuration that its field depends on


def estimate_field(
    config: Config, estimate: str, pooled: bool = False, most: int = IMAGES
) -> tuple[Tensor, tuple[int, int], str]:
    """Field (N, N) of the training tokens of a configuration's data, its grid, and what it is called.

    Raises InputError for an unknown estimator, or fewer than 2 images.
    """
    choose("estimator", estimate, ESTIMATORS)  # before the images are encoded
    if most < 2:
        raise InputError(f"a field cannot be estimated from {most} images: at least 2")
    data, tokenizer = load_data(config.data), load_tokenizer(config.tokenizer)
    tokenizer.to(pick_device(config.train.device))
    split = cached_tokens(data, tokenizer, config.data.cache, config.data.workers)["train"]
    grid, images = tokenizer.grid(data.size), min(len(split), most)
    field = token_field(split, tokenizer, grid, estimate, pooled, images)
    given = "pooled" if pooled else "given the class"
    return field, grid, f"{estimate} of {images} images of {data.name}, {given}"


def save_field(field: Tensor, path: Path, origin: str) -> None:
    """Write a field for `order.covariance`, and where it comes from."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, covariance=field.numpy(), origin=origin)


def field_origin(path: Path) -> str:
    """Say where a field comes from; raises InputError for a file that is none."""
    try:
        return str(np.load(path)["origin"])
    except (OSError, EOFError, ValueError, LookupError, BadZipFile) as error:
        raise InputError(f"{path} does not say where its field comes from ({error})") from error


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
    chosen = {name: default if getattr(args, name) is None else getattr(args, name) for name, default in used.items()}
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
        return {title: decode_steps(parse_order(title), *grid) for title in titles}
    count = STEPS if args.steps is None else args.steps
    texts = ["radial", *(f"{name}:steps={count}:schedule=cosine" for name in SHOWN)]
    steps = {text: decode_steps(parse_order(text), *grid) for text in texts}
    made = optimise(field.numpy(), group_sizes(len(field), count, "cosine"))
    return steps | {f"optimised for this field, {count}": torch.from_numpy(made)}


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
