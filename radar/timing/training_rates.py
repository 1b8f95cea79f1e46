"""What this device does in training: products, attention and all the rest, each there and back."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from radar.errors import InputError
from radar.kernels.fused import EPS
from radar.model.blocks import Shape, feed_forward_width, rotary_table, rotate
from radar.timing.ledger import ATTENTION, OTHER, PRODUCT, Ledger
from radar.timing.rates import best_seconds

REPEATS = 3


@dataclass(frozen=True)
class TrainingRates:
    """Operations per second of matrix products and of attention, bytes per second of all other operations."""

    products: float
    attention: float
    bytes: float


def measure_training_rates(
    shape: Shape, slots: int, images: int, device: torch.device, dtype: torch.dtype
) -> TrainingRates:
    """Time the pieces of one block of a model for so many images of S slots, forward and backward."""
    hidden = feed_forward_width(shape.dim)
    x, wide = (torch.randn(images, slots, width, device=device, dtype=dtype) for width in (shape.dim, 2 * hidden))
    q, k, v = (torch.randn(images, shape.heads, slots, shape.dim // shape.heads, device=device) for _ in range(3))
    up, down = (nn.Linear(a, b, False, device, dtype) for a, b in ((shape.dim, 2 * hidden), (hidden, shape.dim)))
    mask = torch.ones(slots, slots, device=device, dtype=torch.bool).tril()
    norm = nn.RMSNorm(shape.dim // shape.heads, EPS, device=device)
    angles = rotary_table(1, slots - 1, shape.dim // shape.heads).to(device)

    def products() -> Tensor:
        return down(up(x)[..., :hidden])  # type: ignore[no-any-return]

    def attention() -> Tensor:
        q_, k_, v_ = (each.to(dtype) for each in (q, k, v))
        return F.scaled_dot_product_attention(q_, k_, v_, attn_mask=mask)

    def others() -> Tensor:
        turned = rotate(norm(q), angles).to(dtype)
        gate, rest = wide.chunk(2, dim=-1)
        return F.silu(gate) * rest + turned.sum()

    for tensor in (x, wide, q, k, v):
        tensor.requires_grad_()
    works: list[tuple[str, Callable[[], Tensor]]]
    works = [(PRODUCT, products), (ATTENTION, attention), (OTHER, others)]
    rates = [_rate(kind, work, device) for kind, work in works]
    return TrainingRates(*rates)


def _rate(kind: str, work: Callable[[], Tensor], device: torch.device) -> float:
    """Operations, or bytes of what has none, per second of a piece."""

    def call() -> None:
        found = work()
        found.backward(torch.ones_like(found))  # a gradient that is there, not one number expanded

    with Ledger() as ledger:
        call()
    return float((ledger.bytes if kind == OTHER else ledger.flops)[kind]) / best_seconds(device, call, REPEATS)


def parse_rates(text: str) -> TrainingRates:
    """Read `products=4e14,attention=3e14,bytes=2e12`; raises InputError."""
    try:
        given = {name: float(value) for name, value in (part.split("=") for part in text.split(","))}
        rates = TrainingRates(**given)
    except (ValueError, TypeError) as error:
        raise InputError(
            f"--rates {text} is not possible: products=, attention= (operations per s) and bytes= (per s) expected"
        ) from error
    if min(vars(rates).values()) <= 0:
        raise InputError(f"--rates {text} is not possible: each must be above 0")
    return rates
