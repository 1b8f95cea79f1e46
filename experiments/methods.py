"""`radar methods [model.preset=B]`: table of the published methods on the shared transformer."""

import argparse
from functools import cache

import torch

from radar.config.load import to_config
from radar.config.methods import METHODS
from radar.errors import InputError
from radar.model.transformer import Transformer, parameter_count
from radar.training.generator import GeneratorModule

GRIDS = ((16, 16), (24, 24))
VOCABULARY, CLASSES = 16384, 1000  # LlamaGen's codes, ImageNet's labels


@cache
def build(method: str, grid: tuple[int, int]) -> GeneratorModule:
    """Build a method on a grid, as small as it can be: for its slots."""
    config = to_config({"method": method, "model": {"dim": 8, "layers": 2, "heads": 1}})
    return GeneratorModule(config, 2, 1, grid)


def passes_and_slots(method: str, grid: tuple[int, int]) -> tuple[int, int]:
    """Forward passes of the sampler, and slots that they encode for one image."""
    module = build(method, grid)
    passes = module.passes(module.config.sample)
    return len(passes), sum(len(one.slots) for one in passes)


def parameters(method: str, options: list[str]) -> int:
    """Count the parameters of a method's model on 16x16 cells."""
    config, mixes = to_config({"method": method}, options), build(method, GRIDS[0]).slots.mixes
    with torch.device("meta"):
        return parameter_count(Transformer(config.model, VOCABULARY, CLASSES, GRIDS[0], mixes))


def main(args: argparse.Namespace) -> None:
    """Run `radar methods`."""
    if other := [text for text in args.options if not text.startswith("model.")]:
        raise InputError(f"methods takes options of the model only (example: model.preset=B), not '{other[0]}'")
    preset = to_config({}, args.options).model.preset
    base = parameters(next(iter(METHODS)), args.options)
    print(f"passes and slots per image on 16x16 and 24x24 cells; parameters: added to {base:,} (preset {preset})")
    print(f"{'method':16} {'order':8} {'attention':13} {'passes':>11} {'slots':>13} {'parameters':>12}  {'paper'}")
    for name, method in METHODS.items():
        config = to_config({"method": name})
        counts = [passes_and_slots(name, grid) for grid in GRIDS]
        passes, slots = (" / ".join(map(str, column)) for column in zip(*counts, strict=True))
        added = parameters(name, args.options) - base
        paper = (method.__doc__ or "").partition("(")[2].partition(")")[0]
        print(f"{name:16} {config.order.name:8} {config.attention:13} {passes:>11} {slots:>13} {added:>+12,}  {paper}")
