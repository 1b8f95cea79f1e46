"""radar-ablations: orders, attention variants, transformer, tokenizers, sampler, metrics, LightningModules.

In Python:

- `radar.orders.steps("radial", (16, 16))`: at which step an order decodes each cell.
- `radar.layout("radial", "nested", (16, 16))`: slots, masks and passes for any transformer, with losses and samples.
- `radar.train("digits", order="halton")`, `radar.load("runs/digits/last.ckpt").sample(labels=[3, 5])`.
- `radar.independence_gap(step, covariance)`: what decoding in parallel costs, before any training.

Each is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from radar import orders
    from radar.decoding.total_correlation import exponential_covariance, independence_gap
    from radar.errors import InputError
    from radar.layouts import Layout, layout
    from radar.loading import LoadedGenerator, load
    from radar.sampling.decoder import Decoder

# `train` knows the ready-made configurations, which stand a layer above; the name is all that is known of it here.
PLACES = {
    "Decoder": "radar.sampling.decoder",
    "InputError": "radar.errors",
    "Layout": "radar.layouts",
    "LoadedGenerator": "radar.loading",
    "exponential_covariance": "radar.decoding.total_correlation",
    "independence_gap": "radar.decoding.total_correlation",
    "layout": "radar.layouts",
    "load": "radar.loading",
    "train": "experiments.train",
}

__all__ = [
    "Decoder", "InputError", "Layout", "LoadedGenerator", "exponential_covariance", "independence_gap", "layout",
    "load", "orders", "train",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in PLACES:
        return getattr(import_module(PLACES[name]), name)
    if name == "__version__":
        return import_module("importlib.metadata").version("radar-ablations")
    if name == "orders":
        return import_module("radar.orders")
    raise AttributeError(f"module 'radar' has no attribute '{name}'")


def __dir__() -> list[str]:
    return __all__
