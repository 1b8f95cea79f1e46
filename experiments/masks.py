"""`radar masks --order radial:metric=chebyshev --variant nested --grid 8x8`: picture of an attention mask."""

import argparse
from pathlib import Path

from experiments.arguments import add_plugins, parse_grid
from radar.attention import VARIANTS
from radar.config.load import parse_order, to_config
from radar.config.lookup import choose
from radar.decoding.groups import step_sizes
from radar.decoding.orders import decode_steps
from radar.errors import InputError
from radar.pictures import draw_mask

MOST_SLOTS = 4096


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what it takes."""
    parser.add_argument("--order", default="radial", help="radial:metric=chebyshev (default radial)")
    parser.add_argument("--variant", default="nested")
    parser.add_argument("--grid", default="8x8")
    parser.add_argument("--out", help="PNG (default runs/mask-ORDER-VARIANT.png)")
    add_plugins(parser)


def main(args: argparse.Namespace) -> None:
    """Run `radar masks`."""
    h, w = parse_grid(args.grid)
    for text in args.options:
        if not text.startswith("order."):
            raise InputError(f"'{text}' does not change a mask; radar masks takes order.* options")
        if text.startswith("order.name="):
            raise InputError(f"'{text}' is set by --order")
    order = to_config({"order": vars(parse_order(args.order))}, args.options).order
    slots = choose("attention", args.variant, VARIANTS)(step_sizes(decode_steps(order, h, w)))
    if len(slots) > MOST_SLOTS:
        raise InputError(
            f"a mask of {len(slots)} slots is too large to draw (at most {MOST_SLOTS}); choose a smaller --grid"
        )
    path = Path(args.out or f"runs/mask-{args.order.replace(':', '-')}-{args.variant}.png")
    draw_mask(slots, f"{args.order} / {args.variant}, {h}x{w}", path)
    print(path)
