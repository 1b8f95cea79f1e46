"""What this device does at best, measured in the same run as everything that is compared with it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F

from experiments.evaluate import synchronised
from radar.linear import Linear, fast_products


@dataclass(frozen=True)
class Rates:
    """Operations per second of matrix products, bytes per second that a copy reads and writes."""

    flops_per_s: float
    bytes_per_s: float


def measure_rates(width: int, weights: int, device: torch.device, dtype: torch.dtype, repeats: int) -> Rates:
    """Best of matrix products of D x 4D with up to 4096 rows, and of copying a buffer as large as the weights."""
    layer, flops = Linear(width, 4 * width).to(device, dtype), 0.0
    with torch.no_grad(), fast_products(layer, dtype):
        for rows in (256, 1024, 4096):
            left = torch.randn(rows, width, device=device, dtype=dtype)
            for product in (layer, partial(F.linear, weight=layer.weight)):  # as in sampling, and plain
                seconds = min(synchronised(device, partial(product, left)) for _ in range(repeats))
                flops = max(flops, 2 * rows * width * 4 * width / seconds)
    source = torch.randn(weights, device=device, dtype=dtype)
    target = torch.empty_like(source)
    seconds = min(synchronised(device, lambda: target.copy_(source)) for _ in range(repeats))
    return Rates(flops, 2 * source.numel() * source.element_size() / seconds)


def peak_bytes(device: torch.device, work: Callable[[], object]) -> int | None:
    """Most memory in use during one call: allocated on CUDA, resident on Linux, otherwise unknown."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        work()
        return torch.cuda.max_memory_allocated(device)
    try:
        Path("/proc/self/clear_refs").write_text("5")
        work()
        return _kilobytes("/proc/self/status", "VmHWM")
    except OSError:
        return None


def free_bytes(device: torch.device) -> int | None:
    """Memory that can still be had: of the GPU, or of a Linux machine, otherwise unknown."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        return _kilobytes("/proc/meminfo", "MemAvailable")
    except OSError:
        return None


def _kilobytes(path: str, key: str) -> int:
    return 1024 * int(next(line for line in Path(path).read_text().splitlines() if line.startswith(key)).split()[1])
