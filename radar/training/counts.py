"""What methods take, counted: passes, slots, parameters, operations of training."""

from functools import cache

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from radar.attention import BACKENDS
from radar.config.load import to_config
from radar.config.methods import METHODS
from radar.data.batches import Batch
from radar.model.transformer import Transformer, parameter_count
from radar.training.generator import GeneratorModule

GRIDS = ((16, 16), (24, 24))
VOCABULARY, CLASSES = 16384, 1000  # LlamaGen's codes, ImageNet's labels


@cache
def build(method: str, grid: tuple[int, int]) -> GeneratorModule:
    """Build a method on a grid, for its slots."""
    return GeneratorModule(to_config({"method": method}), 2, 1, grid, planned=True)


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


def methods_table(options: list[str]) -> str:
    """Lay out all methods: passes and slots per image on 16x16 and 24x24 cells, parameters added to the first's."""
    preset, base = to_config({}, options).model.preset, parameters(next(iter(METHODS)), options)
    lines = [
        f"passes and slots per image on 16x16 and 24x24 cells; parameters: added to {base:,} (preset {preset})",
        f"{'method':16} {'order':8} {'attention':13} {'passes':>11} {'slots':>13} {'parameters':>12}  {'paper'}",
    ]
    for name, method in METHODS.items():
        config = to_config({"method": name})
        counts = [passes_and_slots(name, grid) for grid in GRIDS]
        passes, slots = (" / ".join(map(str, column)) for column in zip(*counts, strict=True))
        added = parameters(name, options) - base
        paper = (method.__doc__ or "").partition("(")[2].partition(")")[0]
        lines.append(
            f"{name:16} {config.order.name:8} {config.attention:13} {passes:>11} {slots:>13} {added:>+12,}  {paper}"
        )
    return "\n".join(lines) + "\n"


def training_flops(module: GeneratorModule, draws: int = 16) -> float:
    """Count the operations of training on one image: forward and backward of the layout in use, mean of `draws`.

    Matrix products only; attention counts as dense, as SDPA computes it, also where FlexAttention and bands skip what
    is hidden; what activation checkpointing computes twice counts once. Exact for the packed layout, an estimate for
    the sampled.
    """
    tokens = torch.zeros(1, module.cells, dtype=torch.long, device=module.device)
    labels = torch.zeros(1, dtype=torch.long, device=module.device)
    # The counter knows attention only by its matrix products, which the MATH backend shows, and sees no compiled code.
    backend, module.backend = module.backend, BACKENDS["sdpa"]
    compiled, module.model.compiled = module.model.compiled, False
    with torch.random.fork_rng(devices=[]), FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        draws = 1 if module.layout(module).share == 1 else draws
        for number in range(draws):
            module.training_step(Batch(number, tokens, labels, labels), number).backward()
    module.backend, module.model.compiled = backend, compiled
    module.zero_grad()
    return float(counter.get_total_flops()) / draws
