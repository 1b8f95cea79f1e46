"""What a training will take, before it: memory of a device by part, operations, seconds of an optimizer step.

Nothing of the model's size is allocated: a step runs once on PyTorch's fake tensors. The forecast leaves out what
devices tell each other, loading, and that compiled code reads and writes less.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves

from radar.config.options import Config
from radar.kernels.fused import losses_by_pytorch
from radar.model.transformer import parameter_count
from radar.parts import cut
from radar.timing.ledger import ATTENTION, OTHER, PRODUCT, Ledger
from radar.timing.training_rates import TrainingRates
from radar.tokenizers.tokenizer import Tokenizer
from radar.training.generative import GenerativeModule, Sketch
from radar.training.generators import generator_builder

DRAWS = 8  # of layouts that are random; the largest counts for memory, the mean for time


@dataclass(frozen=True)
class Forecast:
    """Of one device, in bytes: what it holds all the time, and at most beside it; of one optimizer step: its cost.

    Attributes:
        activations: at most, beside all others: what the backward pass needs, and what is passing.
        copies: under ddp the gradients that are sent, under fsdp the blocks that are fetched.
        flops: operations of the matrix products and of attention, of one device.
        bytes: read and written by all other operations.
        images, steps: of an optimizer step, over all devices; optimizer steps.
        slots, part: length of the sequence, images that a device goes through at once.
    """

    parameters: int
    weights: float
    gradients: float
    optimizer: float
    average: float
    activations: float
    copies: float
    flops: dict[str, float]
    bytes: float
    images: int
    steps: int
    slots: int
    part: int

    @property
    def total(self) -> float:
        """Bytes of a device."""
        held = self.weights + self.gradients + self.optimizer + self.average
        return held + self.activations + self.copies

    def seconds(self, rates: TrainingRates) -> float:
        """Of one optimizer step."""
        products = self.flops[PRODUCT] / rates.products
        return products + self.flops[ATTENTION] / rates.attention + self.bytes / rates.bytes


def forecast(
    config: Config,
    tokenizer: Tokenizer,
    classes: int,
    grid: tuple[int, int],
    device: str = "cpu",
) -> Forecast:
    """Plan the training of a generator on a kind of device; raises InputError where its parts do not fit together.

    What a tokenizer with scales tells slots is not counted.
    """
    t = config.train
    devices = t.devices * t.nodes
    parts = cut(t.batch_size, devices, t.micro_batch)[0]
    largest = max(part.images for part in parts)
    module = generator_builder(config)(config, tokenizer, classes, grid, planned=True)
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        module.model.to_empty(device="cpu").train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # the same forecast every time
        sketches = module.sketches(DRAWS, device)
    held, share = _bytes(module.model.parameters()), 1 if t.strategy != "fsdp" else devices
    with nullcontext() if device == "cpu" else losses_by_pytorch():
        passes = [_run(module, sketch, largest, fake, share) for sketch in sketches]
    step = _optimizer(module, fake)
    flops = {kind: len(parts) * _mean([one.flops[kind] for one in passes]) for kind in (PRODUCT, ATTENTION)}
    flops[PRODUCT] += step.flops[PRODUCT]
    other = len(parts) * _mean([one.bytes[OTHER] for one in passes]) + step.bytes[OTHER]
    state = step.live - 2 * held
    # Gradients are not all there yet when activations are at their most.
    passing = max(max(one.peak for one in passes) - held - held / share, (step.peak - step.live) / share)
    copies = 0.0 if devices == 1 else (_fetched(module) if share > 1 else held)
    return Forecast(
        parameter_count(module.model), held / share, held / share, state / share, held / share if t.ema else 0.0,
        max(0.0, passing), copies, flops, other, t.batch_size, t.max_steps,
        max(sketch.slots for sketch in sketches), largest,
    )  # fmt: skip


def _run(module: GenerativeModule, sketch: Sketch, images: int, fake: FakeTensorMode, share: int) -> Ledger:
    """Forward and backward pass of so many images; of a gradient that is complete this device keeps a share."""
    ledger, hooks, low = Ledger(), [], module.config.train.precision == "bf16-mixed"
    with fake, ledger, torch.autocast("cpu", torch.bfloat16) if low else nullcontext():
        for weight in module.model.parameters():
            weight.grad = None
            ledger.track(weight)
            hooks.append(weight.register_post_accumulate_grad_hook(lambda w: ledger.shrink(w.grad, share)))
        sketch.losses(images).mean().backward()
    for hook in hooks:
        hook.remove()
    return ledger


def _optimizer(module: GenerativeModule, fake: FakeTensorMode) -> Ledger:
    """An optimizer step, when its state is there."""
    with fake:
        optimizer = module.build_optimizer()
        optimizer.step()
        ledger = Ledger()
        with ledger:
            for tensor in [*module.model.parameters(), *(w.grad for w in module.model.parameters())]:
                if tensor is not None:
                    ledger.track(tensor)
            for leaf in tree_leaves(optimizer.state_dict()):
                if isinstance(leaf, Tensor):
                    ledger.track(leaf)
            optimizer.step()
        ledger.settle()
    return ledger


def _fetched(module: GenerativeModule) -> float:
    """Bytes of the two largest blocks: one that runs, and the next, with their gradients."""
    blocks = sorted((_bytes(block.parameters()) for part in module.blocks() for block in part.children()), reverse=True)
    return 2.0 * sum(blocks[:2])


def _bytes(weights: Any) -> float:
    return float(sum(weight.numel() * weight.element_size() for weight in weights))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
