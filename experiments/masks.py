"""`radar masks --order radial --variant nested --grid 8x8 [order.metric=...]`: picture of an attention mask."""

import argparse
from pathlib import Path

from experiments.orders import parse_grid
from experiments.pictures import draw_mask
from radar.attention import VARIANTS
from radar.config import load_config
from radar.errors import InputError
from radar.orders import decode_steps, step_sizes
from radar.variants import choose

LARGEST = 4096  # slots


def main(args: argparse.Namespace) -> None:
    """Run `radar masks`."""
    h, w = parse_grid(args.grid)
    for text in args.options:
        if not text.startswith("order."):
            raise InputError(f"'{text}' does not change a mask; radar masks takes order.* options")
        if text.startswith("order.name="):
            raise InputError(f"'{text}' is set by --order")
    order = load_config(None, [f"order.name={args.order}", *args.options]).order
    slots = choose("attention", args.variant, VARIANTS)(step_sizes(decode_steps(order, h, w)))
    if len(slots) > LARGEST:
        raise InputError(
            f"a mask of {len(slots)} slots is too large to draw (at most {LARGEST}); choose a smaller --grid"
        )
    path = Path(args.out or f"runs/mask-{args.order}-{args.variant}.png")
    draw_mask(slots, f"{args.order} / {args.variant}, {h}x{w}", path)
    print(path)
