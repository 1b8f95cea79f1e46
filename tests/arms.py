"""Every order x variant that fits together, for the contract tests to go through."""

import atexit
import functools
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from radar.attention import VARIANTS, Slots, nested
from radar.config.options import ModelConfig, OrderConfig
from radar.decoding.groups import step_sizes
from radar.decoding.orders import ORDERS, PARTICULAR, decode_steps
from radar.decoding.permutations import image_steps
from radar.errors import InputError
from radar.model.transformer import Transformer

GRID = (4, 5)
CELLS = GRID[0] * GRID[1]
VOCABULARY, CLASSES, HINTS = 7, 3, 4  # codes, labels, channels of what a reader tells


# Variants that take options, with some; only for some orders, or the tests would take long.
CHEAPER = {
    "nested, 1 ring": partial(nested, rings=1),
    "nested, 2 rings": partial(nested, rings=2),
    "nested, every 2": partial(nested, every=2),
    "nested, 3 rings, every 2": partial(nested, rings=3, every=2),
}


# Orders that come as data: one for all images, and one for each of the four that the tests use.
FILES = Path(tempfile.mkdtemp(prefix="radar-orders-"))
atexit.register(shutil.rmtree, FILES, ignore_errors=True)
_groups = np.repeat(np.arange(5), [1, 3, 6, 8, 2])
np.save(FILES / "one.npy", np.random.default_rng(0).permutation(_groups))
np.save(FILES / "four.npy", np.stack([np.random.default_rng(i).permutation(_groups) for i in range(4)]))
PER_IMAGE = "random, one per image"
COMPUTED = [name for name in ORDERS if name not in PARTICULAR]


def orders() -> dict[str, OrderConfig]:
    """Every order by itself and cut into five groups; orders from files; an order per image."""
    natural = {name: OrderConfig(name=name) for name in COMPUTED}
    grouped = {f"{name} in 5": OrderConfig(name=name, steps=5, schedule="cosine") for name in COMPUTED}
    files = {f"file {name}": OrderConfig(name="file", path=str(FILES / f"{name}.npy")) for name in ("one", "four")}
    return natural | grouped | files | {PER_IMAGE: OrderConfig(name="random", steps=5, schedule="cosine")}


def steps_of(name: str) -> torch.Tensor:
    """Step vector (N,), or (4, N)."""
    order = orders()[name]
    return image_steps(order, *GRID, 0, range(4)) if name == PER_IMAGE else decode_steps(order, *GRID)


def arms() -> list[tuple[str, str]]:
    """Names of all pairs; `causal` is left out where a step holds several cells."""
    pairs = [(order, variant) for order in ("radial", "halton in 5") for variant in CHEAPER]
    for name in orders():
        for variant in VARIANTS:
            try:
                VARIANTS[variant](step_sizes(steps_of(name)))
            except InputError:
                continue
            pairs.append((name, variant))
    return pairs


def layout(order: str, variant: str) -> tuple[torch.Tensor, Slots]:
    """Step vector, (N,) or (4, N), and slots of a pair."""
    step = steps_of(order)
    return step, (VARIANTS | CHEAPER)[variant](step_sizes(step))


def typical() -> list[tuple[str, str]]:
    """Each variant with an order that it can decode."""
    return [({"causal": "raster", "neighbours": "diagonal"}.get(variant, "radial"), variant) for variant in VARIANTS]


def earlier_tokens(slots: Slots) -> Callable[[torch.Tensor, int], torch.Tensor]:
    """A reader: of each rank, features (B, N, C) of the tokens (B, N) of earlier steps, in their sequence."""
    group = slots.in_pass[slots.predicts_new]  # they ask in the sequence of the ranks
    table = torch.randn(CELLS, VOCABULARY, HINTS, generator=torch.Generator().manual_seed(3))
    before = (group[:, None] > group).float()

    @functools.cache
    def on(device: torch.device) -> list[torch.Tensor]:  # moved once: a recording may not wait for it
        return [part.to(device) for part in (table, before, torch.arange(CELLS))]

    def read(tokens: torch.Tensor, ranks: int) -> torch.Tensor:
        table, before, cells = on(tokens.device)
        values = table[cells[: tokens.shape[1]], tokens]
        return (before[:, :, None] * values[:, None]).sum(2)  # no product of matrices, which tests count

    return read


VIT: dict[str, Any] = {"trunk": "vit", "cosine_attention": True}  # parts of other blocks than by default


def small_model(
    slots: Slots | None = None, query_layers: int = 0, conditioning: str = "token", **options: Any
) -> Transformer:
    """A model whose logits depend on everything it sees, with a second head if the slots need one."""
    torch.manual_seed(0)
    share = query_layers / 3
    config = ModelConfig(dim=32, layers=3, heads=2, query_share=share, conditioning=conditioning, **options)
    reader = earlier_tokens(slots) if slots is not None and slots.blind else None
    model = Transformer(
        config, VOCABULARY, CLASSES, GRID, slots is not None and slots.mixes, reader, HINTS * bool(reader)
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3 if parameter.ndim > 1 else 1.0)
    return model.eval()
