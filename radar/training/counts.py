"""What methods take, counted: passes, slots, parameters, operations of training."""

from functools import cache

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from radar.config.load import to_config
from radar.config.methods import METHODS
from radar.data.batches import Batch
from radar.model.transformer import parameter_count
from radar.training.generative import GenerativeModule
from radar.training.generators import generator_builder

GRIDS = ((16, 16), (24, 24))
VOCABULARY, CODE, CLASSES = 16384, 8, 1000  # LlamaGen's codes and their width, ImageNet's labels


@cache
def build(method: str, grid: tuple[int, int], options: tuple[str, ...] = ()) -> GenerativeModule:
    """Build a method on a grid, for what does not depend on its weights."""
    config = to_config({"method": method}, list(options))
    return generator_builder(config)(config, torch.zeros(VOCABULARY, CODE), CLASSES, grid, planned=True)


def passes_and_slots(method: str, grid: tuple[int, int]) -> tuple[int, int]:
    """Forward passes of the sampler, and slots that they encode for one image."""
    module = build(method, grid)
    return module.sampling(module.config.sample)[:2]


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
        added = parameter_count(build(name, GRIDS[0], tuple(options)).model) - base
        paper = (method.__doc__ or "").partition("(")[2].partition(")")[0]
        lines.append(
            f"{name:16} {config.order.name:10} {config.attention:13} {passes:>11} {slots:>15} {added:>+12,}  {paper}"
        )
    return "\n".join(lines) + "\n"


def training_flops(module: GenerativeModule) -> float:
    """Count the operations of training on one image: forward and backward.

    Matrix products only; attention counts as dense, as SDPA computes it, also where FlexAttention and bands skip what
    is hidden; what activation checkpointing computes twice counts once. Exact for the packed layout, an estimate for
    the sampled.
    """
    tokens = torch.zeros(1, module.cells, dtype=torch.long, device=module.device)
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
