"""What methods take, counted: passes, slots, parameters, operations of training."""

from functools import cache, partial

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from radar.attention import VARIANTS
from radar.config.load import to_config
from radar.config.lookup import call
from radar.config.methods import METHODS
from radar.data.batches import Batch
from radar.decoding.rings import var_sides
from radar.errors import InputError
from radar.model.transformer import parameter_count
from radar.tokenizers.multiscale import Pyramid
from radar.tokenizers.tokenizer import OnlyCodes
from radar.training.generative import GenerativeModule
from radar.training.generators import generator_builder

GRIDS = ((16, 16), (24, 24))
VOCABULARY, CODE, CLASSES = 16384, 8, 1000  # LlamaGen's codes and their width, ImageNet's labels


@cache
def build(method: str, grid: tuple[int, int], options: tuple[str, ...] = ()) -> GenerativeModule:
    """Build a method for tokens that are cells of a grid, or else for those of its scales: without weights."""
    config = to_config({"method": method}, list(options))
    make = partial(generator_builder(config), config, classes=CLASSES, planned=True)
    if not call("attention", config.attention, VARIANTS, [1, 1], **vars(config.revise)).blind:
        return make(OnlyCodes(VOCABULARY), grid=grid)
    scales = Pyramid(nn.Identity(), var_sides(max(grid)), CODE)
    return make(OnlyCodes(VOCABULARY, CODE, scales), grid=(1, scales.cells))


def passes_and_slots(method: str, grid: tuple[int, int]) -> tuple[int, int]:
    """Forward passes of the sampler, and slots that they encode for one image."""
    module = build(method, grid)
    return module.sampling(module.config.sample)[:2]


def added_parameters(method: str, options: list[str], base: int) -> str:
    """Parameters more than `base`; a dash where the method cannot have the options."""
    try:
        return f"{parameter_count(build(method, GRIDS[0], tuple(options)).model) - base:+,}"
    except InputError:
        return "-"


def methods_table(options: list[str]) -> str:
    """Lay out all methods: passes and slots per image on 16x16 and 24x24 cells, parameters added to the first's."""
    preset, base = (
        to_config({}, options).model.preset,
        parameter_count(build(next(iter(METHODS)), GRIDS[0], tuple(options)).model),
    )
    lines = [
        f"passes and slots per image on 16x16 and 24x24 cells; parameters: added to {base:,} (preset {preset})",
        f"{'method':16} {'order':10} {'attention':13} {'passes':>11} {'slots':>15} {'parameters':>12}  {'paper'}",
    ]
    for name, method in METHODS.items():
        config = to_config({"method": name})
        counts = [passes_and_slots(name, grid) for grid in GRIDS]
        passes, slots = (" / ".join(map(str, column)) for column in zip(*counts, strict=True))
        added = added_parameters(name, options, base)
        paper = (method.__doc__ or "").partition("(")[2].partition(")")[0]
        lines.append(
            f"{name:16} {config.order.name:10} {config.attention:13} {passes:>11} {slots:>15} {added:>12}  {paper}"
        )
    return "\n".join(lines) + "\n"


def training_flops(module: GenerativeModule) -> float:
    """Count the operations of training on one image: forward and backward.

    Matrix products only; attention counts as dense, as SDPA computes it, also where FlexAttention and bands skip what
    is hidden; what activation checkpointing computes twice counts once. Exact for the packed layout, an estimate for
    the sampled.
    """
    tokens = module.example(1)
    labels = torch.zeros(1, dtype=torch.long, device=module.device)
    # The counter knows attention only by its matrix products, which the MATH backend shows, and sees no compiled code.
    with (
        module.countable() as draws,
        torch.random.fork_rng(devices=[]),
        FlopCounterMode(display=False) as counter,
        sdpa_kernel(SDPBackend.MATH),
    ):
        for number in range(draws):
            module.training_step(Batch(number, tokens, labels, labels), number).backward()
    module.zero_grad()
    return float(counter.get_total_flops()) / draws
