"""Where a figure comes from: commit, hardware, versions."""

import hashlib
import os
import platform
import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch
from torch import nn


@cache
def git_commit() -> str:
    """Name the commit of this source tree, with `-dirty` if tracked files differ; `unknown` outside a checkout."""
    here = Path(__file__).parent
    try:
        result = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--exclude=*", "--abbrev=12"],
            cwd=here, capture_output=True, text=True, check=True, timeout=30,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return result.stdout.strip()


def hardware(device: torch.device) -> str:
    """Name a device; for a CPU also cores and threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    return f"{model}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"


def weights_hash(module: nn.Module, digits: int = 12) -> str:
    """Name the weights and buffers of a module by hex digits."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:digits]


def versions() -> dict[str, str]:
    """Versions of what the figures depend on."""
    packages = ("torch", "lightning", "torchmetrics", "numpy")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}
