"""What can be timed: sampling, sampling with decoding, a training step, loading a batch, feature metrics.

Weights and tokens are random. Legend: B images, N cells, V vocabulary.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from radar.data.batches import Batch, BatchDataset
from radar.data.token_arrays import TokenSplit
from radar.decoding.groups import step_sizes
from radar.networks.classifier import Classifier
from radar.networks.features import extract
from radar.sampling.cost import Cost, sampling_cost
from radar.sampling.sampler import product_dtype, sample_tokens
from radar.scoring.distances import frechet_distance
from radar.scoring.statistics import Moments
from radar.tokenizers import Convolutional, vq
from radar.training.counts import training_flops
from radar.training.generator import GeneratorModule

DOWNSAMPLE = 8  # pixels per cell and side of decoded images
STORED = 50_000  # images of the token file that is loaded from


@dataclass(frozen=True)
class Work:
    """One thing to time: a call for a batch, its cost on paper, whether products are in bfloat16, passes, slots."""

    call: Callable[[], Any]
    cost: Cost
    low: bool = False
    steps: int | None = None
    slots: int | None = None


def sample(module: GeneratorModule, batch: int) -> Work:
    """One batch of sampling, tokens only."""
    settings, numbers = module.config.sample, range(batch)
    labels = torch.arange(batch, device=module.device) % module.model.classes
    passes, permutation = module.passes(settings), module.sampled_permutation(settings, numbers)
    rows = batch if settings.guidance == 1 else 2 * batch
    low = product_dtype(settings) == torch.bfloat16
    return Work(
        lambda: sample_tokens(module.model, passes, permutation, labels, settings, numbers),
        sampling_cost(module.model.shape, module.model.vocabulary, passes, rows, 2 if low else 4),
        low,
        len(passes),
        sum(len(one.slots) for one in passes),
    )


def decode(module: GeneratorModule, batch: int) -> Work:
    """One batch of sampling, and its decoding by an untrained VQ decoder into images of 8 pixels per cell and side."""
    tokens_only, grid = sample(module, batch), module.model.grid
    tokenizer = vq(module.model.vocabulary, downsample=DOWNSAMPLE).to(module.device).eval()
    assert isinstance(tokenizer, Convolutional)
    one = torch.zeros(1, module.cells, dtype=torch.long, device=module.device)
    flops = counted(lambda: tokenizer.decode(one, grid)) * batch
    cost = tokens_only.cost + Cost(flops, 0.0, weight_bytes(tokenizer.decoder), 0)
    return replace(tokens_only, call=lambda: tokenizer.decode(tokens_only.call(), grid), cost=cost)


def train(module: GeneratorModule, batch: int) -> Work:
    """Forward, backward and optimizer step of successive batches; its floor is that of its matrix products.

    Left out are loading, clipping and the weight average. `slots` are those of the whole layout.
    """
    optimizer = module.configure_optimizers()["optimizer"]
    tokens = torch.randint(module.model.vocabulary, (batch, module.cells), device=module.device)
    labels = torch.arange(batch, device=module.device) % module.model.classes
    index = torch.arange(batch)
    low = module.config.train.precision == "bf16-mixed"
    numbers = count()

    def call() -> None:
        with torch.autocast(module.device.type, torch.bfloat16, enabled=low):
            loss = module.train().training_step(Batch(next(numbers), tokens, labels, index), 0)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        module.eval()

    cost = Cost(training_flops(module) * batch, 0.0, 0.0, 0)
    return Work(call, cost, low, len(step_sizes(module.step)), len(module.slots))


def load(module: GeneratorModule, batch: int) -> Work:
    """One training batch out of a memory-mapped token file of 16 bits a token, to be compared with `train`."""
    folder = tempfile.TemporaryDirectory()
    path, shape = Path(folder.name) / "tokens.npy", (STORED, module.cells)
    np.save(path, np.random.default_rng(0).integers(module.model.vocabulary, size=shape, dtype=np.uint16))
    split = TokenSplit(np.load(path, mmap_mode="r"), np.zeros(STORED, dtype=np.int64))
    batches = BatchDataset(split.gather, STORED, batch, seed=0, total=2**31)
    numbers = count()

    def call(kept: object = folder) -> None:
        batches[next(numbers)]

    return Work(call, Cost(0.0, 0.0, batch * 2.0 * shape[1], 0))


def metrics(module: GeneratorModule, batch: int) -> Work:
    """Features of a batch of images by an untrained classifier, and one Fréchet distance of 1,000 vectors each."""
    h, w = module.model.grid
    size = (DOWNSAMPLE * h, DOWNSAMPLE * w)
    network = Classifier("bench", module.model.classes, size).to(module.device).eval()
    images = torch.randint(256, (batch, 3, *size), dtype=torch.uint8)
    vectors = torch.randn(2, 1000, network.num_features).unbind()
    one = images[:1].to(module.device)
    flops = counted(lambda: network(one)) * batch

    def call() -> None:
        extract(network, images)
        frechet_distance(*map(Moments.of, vectors))

    return Work(call, Cost(flops, 0.0, weight_bytes(network), 0))


TRAINED = "train"  # what has a share of the device's rate
WORKS: dict[str, Callable[[GeneratorModule, int], Work]] = {
    "sample": sample,
    "decode": decode,
    TRAINED: train,
    "load": load,
    "metrics": metrics,
}
SAMPLED = ("sample", "decode")  # where guidance matters, and the largest batch is looked for
SAME_FOR_ALL_ARMS = ("load", "metrics")  # the same for every arm


@torch.no_grad()
def counted(call: Callable[[], object]) -> float:
    """Count the operations of matrix products and convolutions of a call."""
    with FlopCounterMode(display=False) as counter:
        call()
    return float(counter.get_total_flops())


def weight_bytes(module: nn.Module) -> float:
    """Bytes of all weights."""
    return float(sum(p.numel() * p.element_size() for p in module.parameters()))
