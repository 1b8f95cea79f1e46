"""What this device does at best, measured in the same run as everything that is compared with it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F

from radar.kernels.cuda_graphs import unrecorded
from radar.kernels.linear import Linear, fast_products
from radar.timing.rounds import synchronised

ROWS = {"cpu": (256, 1024, 4096), "cuda": (4096, 65536)}
IN_A_ROW = {"cpu": 1, "cuda": 10}


@dataclass(frozen=True)
class Rates:
    """Operations per second of matrix products, bytes per second that a copy reads and writes."""

    flops_per_s: float
    bytes_per_s: float


def measure_rates(width: int, weights: int, device: torch.device, dtype: torch.dtype, repeats: int) -> Rates:
    """Best of matrix products of D x 4D with many rows, and of copying a buffer as large as the weights."""
    with device:
        layer, flops = Linear(width, 4 * width).to(dtype), 0.0
    with torch.no_grad(), fast_products(layer, dtype):
        for rows in ROWS[device.type]:
            left = torch.randn(rows, width, device=device, dtype=dtype)
            for product in (layer, partial(F.linear, weight=layer.weight)):  # as in sampling, and plain
                seconds = best_seconds(device, partial(product, left), repeats)
                flops = max(flops, 2 * rows * width * 4 * width / seconds)
    source = torch.randn(weights, device=device, dtype=dtype)
    target = torch.empty_like(source)
    seconds = best_seconds(device, lambda: target.copy_(source), repeats)
    return Rates(flops, 2 * source.numel() * source.element_size() / seconds)


def best_seconds(device: torch.device, call: Callable[[], object], repeats: int) -> float:
    """Shortest time of a call; of several in a row on a GPU, where waiting for one takes as long as a small one."""
    calls = IN_A_ROW[device.type]

    def row() -> None:
        for _ in range(calls):
            call()

    return min(synchronised(device, row) for _ in range(repeats)) / calls


def peak_bytes(device: torch.device, work: Callable[[], object]) -> int | None:
    """Most memory in use during one call: allocated on CUDA, resident on Linux, otherwise unknown."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        with unrecorded():  # what is inside a recording is not counted
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
