"""How long sampling takes, and what training takes on paper."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from statistics import median

import torch

from radar import clock
from radar.kernels.cuda_graphs import warm_up_calls
from radar.scoring.samples import label_rule
from radar.training.checkpoints import Generator
from radar.training.generative import Drawer


def synchronised(device: torch.device, work: Callable[[], object]) -> float:
    """Seconds of one call, with the device's queue empty before and after; those of a stopped process do not count."""
    synchronise: Callable[[], None] = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    synchronise()
    began = clock.seconds()
    work()
    synchronise()
    return clock.seconds() - began


@contextmanager
def timed_batches(generators: Iterable[Generator]) -> Iterator[list[Callable[[], object]]]:
    """Prepare one batch of sampling (tokens and decoding) of each, which is no part of its time."""
    with ExitStack() as stack:
        yield [timed_batch(one, stack.enter_context(one.module.ready_to_draw(one.config.sample))) for one in generators]


def timed_batch(generator: Generator, draw: Drawer) -> Callable[[], object]:
    """One batch of `evaluate.timing_batch` images."""
    numbers = range(generator.config.evaluate.timing_batch)
    labels = label_rule(generator, "balanced")(numbers).to(generator.module.device)
    return lambda: generator.tokenizer.decode(draw(labels, numbers), generator.grid)


def measure_rounds(generators: list[Generator]) -> list[list[float]]:
    """Seconds of one batch of each generator in every round that goes through all of them in turn, after warming up.

    Run with nothing else on the machine.
    """
    devices = [generator.module.device for generator in generators]
    with timed_batches(generators) as works:
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
