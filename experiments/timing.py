"""How long sampling takes, and what training takes on paper."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from statistics import median

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from experiments.sample import balanced_labels
from radar import clock
from radar.attention import BACKENDS
from radar.data.tokens import Batch
from radar.kernels.cuda_graphs import warm_up_calls
from radar.sampling.sampler import ready_to_sample, sample_tokens
from radar.training.checkpoints import Generator
from radar.training.generator import GeneratorModule


def synchronised(device: torch.device, work: Callable[[], object]) -> float:
    """Seconds of one call, with the device's queue empty before and after; those of a stopped process do not count."""
    synchronise = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    synchronise()
    began = clock.seconds()
    work()
    synchronise()
    return clock.seconds() - began


@contextmanager
def all_ready_to_sample(modules: Iterable[GeneratorModule]) -> Iterator[None]:
    """Prepare for sampling, which is no part of its time."""
    with ExitStack() as stack:
        for module in modules:
            stack.enter_context(ready_to_sample(module.model, module.config.sample))
        yield


def timed_batch(generator: Generator) -> Callable[[], object]:
    """Prepare one batch of sampling (tokens and decoding) of `evaluate.timing_batch` images."""
    module, settings = generator.module, generator.config.sample
    numbers = range(generator.config.evaluate.timing_batch)
    labels = balanced_labels(generator)(numbers).to(module.device)
    passes, shared = module.passes(settings), module.sampled_permutation(settings, numbers)

    def work() -> object:
        permutation = module.sampled_permutation(settings, numbers) if settings.order_per_image else shared
        tokens = sample_tokens(module.model, passes, permutation, labels, settings, numbers)
        return generator.tokenizer.decode(tokens, generator.grid)

    return work


def measure_rounds(generators: list[Generator]) -> list[list[float]]:
    """Seconds of one batch of each generator in every round that goes through all of them in turn, after warming up.

    Run with nothing else on the machine.
    """
    works = [timed_batch(generator) for generator in generators]
    devices = [generator.module.device for generator in generators]
    with all_ready_to_sample([generator.module for generator in generators]):
        dropped = max(map(warm_up_calls, devices))
        rounds = [
            [synchronised(device, work) for device, work in zip(devices, works, strict=True)]
            for _ in range(dropped + generators[0].config.evaluate.timing_repeats)
        ][dropped:]
    return [list(times) for times in zip(*rounds, strict=True)]


def speed_columns(seconds: Sequence[float], batch: int, base: Sequence[float] | None = None) -> dict[str, float]:
    """Images per second by the median round, and the slowest and the fastest; against `base`, of the same rounds.

    The speed-up is the ratio of the two medians, so that it is that of the two images per second; its range is that of
    the ratios of the rounds.
    """
    found = {
        "images_per_s": batch / median(seconds),
        "images_per_s_min": batch / max(seconds),
        "images_per_s_max": batch / min(seconds),
    }
    if base is None:
        return found
    ratios = [theirs / own for own, theirs in zip(seconds, base, strict=True)]
    return found | {
        "speedup": median(base) / median(seconds), "speedup_min": min(ratios), "speedup_max": max(ratios)
    }  # fmt: skip


def measure_speed(generator: Generator) -> dict[str, float]:
    """Time one generator; run with nothing else on the machine."""
    return speed_columns(measure_rounds([generator])[0], generator.config.evaluate.timing_batch)


def training_flops(module: GeneratorModule, draws: int = 16) -> float:
    """Count the operations of training on one image: forward and backward of the layout in use, mean of `draws`.

    Matrix products only; attention counts as dense, as SDPA computes it, also where FlexAttention would skip blocks;
    what activation checkpointing computes twice counts once. Exact for the packed layout, an estimate for the sampled.
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
