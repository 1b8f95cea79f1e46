"""Every order x variant that fits together, for the contract tests to go through."""

from functools import partial

import torch

from radar.attention import VARIANTS, Slots, nested
from radar.errors import InputError
from radar.options import ModelConfig, OrderConfig
from radar.orders import ORDERS, decode_steps, step_sizes
from radar.transformer import Transformer

GRID = (4, 5)
CELLS = GRID[0] * GRID[1]
VOCABULARY, CLASSES = 7, 3


# Variants that take options, with some; only for some orders, or the tests would take long.
CHEAPER = {
    "nested, 1 ring": partial(nested, rings=1),
    "nested, 2 rings": partial(nested, rings=2),
    "nested, every 2": partial(nested, every=2),
    "nested, 3 rings, every 2": partial(nested, rings=3, every=2),
}


def orders() -> dict[str, OrderConfig]:
    """Every order by itself and cut into five groups."""
    natural = {name: OrderConfig(name=name) for name in ORDERS}
    grouped = {f"{name} in 5": OrderConfig(name=name, steps=5, schedule="cosine") for name in ORDERS}
    return natural | grouped


def arms() -> list[tuple[str, str]]:
    """Names of all pairs; `causal` is left out where a step holds several cells."""
    pairs = [(order, variant) for order in ("radial", "halton in 5") for variant in CHEAPER]
    for name, order in orders().items():
        for variant in VARIANTS:
            try:
                VARIANTS[variant](step_sizes(decode_steps(order, *GRID)))
            except InputError:
                continue
            pairs.append((name, variant))
    return pairs


def layout(order: str, variant: str) -> tuple[torch.Tensor, Slots]:
    """Step vector and slots of a pair."""
    step = decode_steps(orders()[order], *GRID)
    return step, (VARIANTS | CHEAPER)[variant](step_sizes(step))


def typical() -> list[tuple[str, str]]:
    """Each variant with an order that it can decode."""
    return [({"causal": "raster", "neighbours": "diagonal"}.get(variant, "radial"), variant) for variant in VARIANTS]


def small_model(slots: Slots | None = None, query_layers: int = 0) -> Transformer:
    """A model whose logits depend on everything it sees, with a second head if the slots need one."""
    torch.manual_seed(0)
    config = ModelConfig(dim=32, layers=3, heads=2, query_share=query_layers / 3)
    model = Transformer(config, VOCABULARY, CLASSES, GRID, slots is not None and slots.mixes)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3 if parameter.ndim > 1 else 1.0)
    return model.eval()
