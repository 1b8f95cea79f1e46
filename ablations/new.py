"""`radar new NAME --images FOLDER`: a commented study on one's own images; `radar ablate NAME.yaml` runs it as written.

All arms decode groups of equal sizes, but those that decode cell by cell.
"""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from ablations.study.plan import read_plan
from ablations.study.prepare import check_arms
from experiments.arguments import add_plugins
from radar.attention import VARIANTS
from radar.config.lookup import choose
from radar.config.options import DataConfig
from radar.data import load_data
from radar.decoding.groups import group_sizes
from radar.decoding.orders import ORDERS
from radar.errors import InputError
from radar.files import replacing

DOWNSAMPLE = 4  # pixels of the side of a cell
FILE = """\
# {name}: {count} arms on the images of {images}, in {steps} steps (`causal` decodes cell by cell).
#   radar plan {name}.yaml --study      what it takes, before it
#   radar ablate {name}.yaml            train, sample, score, time; the same command goes on after a stop
#   runs/ablations/{name}/report.html   the report, written anew whenever an arm is done
name: {quoted}
base: digits              # what is not given here is as in this ready-made configuration
seeds: [0, 1, 2]          # every arm is trained so many times: error bars are over seeds
baseline: {baseline}
config:
  plugins: {plugins}           # Python files of your own that add orders and attentions
  data:
    name: folder          # a sub-folder per class, or images of one class
    root: {images}
    size: {size}              # pixels of the side; images are scaled and cropped in the middle
    held_out: 0.1         # share of each class that is never trained on
    skip_unreadable: {skip}
  tokenizer:              # {size}x{size} pixels become {side}x{side} cells of 200 codes
    name: fsq
    levels: null
    fsq_levels: [8, 5, 5]
    downsample: {downsample}
    width: 32             # wider is better and slower
    checkpoint: runs/{name}/tokenizer/last.ckpt   # trained first, if it is not there
  model: {{dim: 128, layers: 6, heads: 4, dropout: 0.1}}
  train:
    max_steps: {max_steps}       # optimizer steps of every arm; look at the curves whether they are enough
    batch_size: 32
  evaluate:
    images: 1000          # samples for fid; the more, the less noise
    features: [cnn]       # a classifier of your own data; efficientnet_lite0 was trained on ImageNet (an extra)
  tokenizer_training:
    train: {{max_steps: {max_steps}, batch_size: 32}}
arms:                     # a name, and what differs from the options above
{arms}
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what it takes."""
    parser.add_argument("name", help="of the study, and of its file NAME.yaml")
    parser.add_argument("--images", required=True, help="folder with a sub-folder per class, or with images")
    parser.add_argument("--size", type=int, default=32, help="pixels of the side (default 32)")
    parser.add_argument("--orders", default="radial,halton", help="by commas (default radial,halton)")
    parser.add_argument("--variants", default="plain,nested", help="attention, by commas (default plain,nested)")
    parser.add_argument("--steps", type=int, default=7, help="forward passes per image (default 7)")
    parser.add_argument("--skip-unreadable", action="store_true", help="leave out images that cannot be read")
    add_plugins(parser)
    parser.add_argument("--max-steps", type=int, default=2000, help="optimizer steps of each training (default 2000)")


def main(args: argparse.Namespace) -> None:
    """Run `radar new`."""
    path = Path(f"{args.name}.yaml")
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", args.name):
        raise InputError(f"'{args.name}' is no name of a study: letters, digits, '.', '_' and '-' expected")
    if path.exists():
        raise InputError(f"{path} is there already: give another name, or delete it")
    arms = _words(args.orders), _words(args.variants)
    skip = args.skip_unreadable
    text = study(args.name, args.images, args.size, *arms, args.steps, args.max_steps, skip, args.plugins)
    load_data(
        DataConfig(name="folder", root=args.images, size=args.size, skip_unreadable=skip)
    )  # fails here, before anything is written
    with replacing(path) as temporary:
        temporary.write_text(text)
        check_arms(read_plan(str(temporary), None, []))  # what is written can be run
    print(path)


def study(
    name: str,
    images: str,
    size: int,
    orders: list[str],
    variants: list[str],
    steps: int,
    max_steps: int,
    skip: bool,
    plugins: Sequence[str] = (),
) -> str:
    """Text of a study; raises InputError for what is not possible."""
    if size < 2 * DOWNSAMPLE or size % DOWNSAMPLE:
        raise InputError(f"--size {size} is not possible: a multiple of {DOWNSAMPLE}, at least {2 * DOWNSAMPLE}")
    if max_steps < 1:
        raise InputError(f"--max-steps {max_steps} is not possible: at least 1")
    side = size // DOWNSAMPLE
    for order in orders:
        choose("order", order, ORDERS)
    for variant in variants:
        choose("attention", variant, VARIANTS)
    group_sizes(side * side, steps)
    arms = {f"{order}/{variant}": arm(order, variant, steps, side * side) for order in orders for variant in variants}
    lines = "\n".join(f"  {key}: {value}" for key, value in arms.items())
    return FILE.format(
        name=name, quoted=_quoted(name), count=len(arms), images=_quoted(images), steps=steps,
        size=size, side=side, downsample=DOWNSAMPLE,
        baseline=next(iter(arms)), max_steps=max_steps, arms=lines, skip=str(skip).lower(),
        plugins="[" + ", ".join(map(_quoted, plugins)) + "]",
    )  # fmt: skip


def arm(order: str, variant: str, steps: int, cells: int) -> str:
    """Options of an arm: so many steps, or one per cell where the variant decodes cell by cell."""
    try:
        VARIANTS[variant]([2, 2])
    except InputError:
        return f"{{order: {{name: {order}, steps: {cells}}}, attention: {variant}}}"
    return f"{{order: {{name: {order}, steps: {steps}, schedule: cosine}}, attention: {variant}}}"


def _words(text: str) -> list[str]:
    words = list(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
    if not words:
        raise InputError(f"'{text}' names nothing: names by commas expected")
    return words


def _quoted(text: str) -> str:
    """As YAML takes it for a text, whatever it looks like."""
    return "'" + text.replace("'", "''") + "'"
