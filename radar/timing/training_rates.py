"""What this device does in training: products, attention and all the rest, each there and back."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from radar.config.options import ModelConfig
from radar.errors import InputError
from radar.kernels.products import trained_linear
from radar.model.blocks import Block, Shape, rotary_table
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
    """Time the pieces of one block of a model for so many images of S slots, forward and backward.

    Bytes are counted as the forecast counts them, on fake tensors: of our kernels what they write.
    """
    with FakeTensorMode():
        counted = {}
        for kind, call in pieces(shape, slots, images, torch.device("cpu"), dtype).items():
            with Ledger() as ledger:
                call()
            counted[kind] = float((ledger.bytes if kind == OTHER else ledger.flops)[kind])
    timed = pieces(shape, slots, images, device, dtype)
    seconds = {kind: best_seconds(device, call, REPEATS) for kind, call in timed.items()}
    return TrainingRates(*(counted[kind] / seconds[kind] for kind in (PRODUCT, ATTENTION, OTHER)))


def pieces(
    shape: Shape, slots: int, images: int, device: torch.device, dtype: torch.dtype
) -> dict[str, Callable[[], None]]:
    """What a block does, by kind, forward and backward."""
    with device:
        block = Block(shape, ModelConfig())
        x, qkv, wide = (
            torch.randn(images, slots, width, dtype=dtype, requires_grad=True)
            for width in (shape.dim, 3 * shape.dim, shape.parts.gates * shape.hidden)
        )
        mask = torch.ones(slots, slots, dtype=torch.bool).tril()
        angles = rotary_table(1, slots - 1, shape.dim // shape.heads)[None, None]
    q, k, v = (each.detach().to(dtype).requires_grad_() for each in block.split(qkv, angles))
    up, down = (layer.weight.detach().to(dtype).requires_grad_() for layer in (block.gate_up, block.down))

    def products() -> None:
        back(trained_linear(trained_linear(x, up, None).chunk(shape.parts.gates, -1)[0], down, None))

    def attention() -> None:
        back(F.scaled_dot_product_attention(q, k, v, attn_mask=mask))

    def others() -> None:
        back(*block.split(qkv, angles), block.activate(wide), block.norm1(x))

    return {PRODUCT: products, ATTENTION: attention, OTHER: others}


def back(*found: Tensor) -> None:
    """Backward pass from gradients that are there, and not one number expanded."""
    torch.autograd.backward(found, [torch.ones_like(each) for each in found])


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
