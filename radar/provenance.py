"""Where a figure comes from: commit, hardware, versions."""

import hashlib
import os
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # a commit is asked for without waiting for it
    import torch

ROOT = Path(__file__).parent.parent


@cache
def git_commit() -> str:
    """Name the commit of this source tree, with `-dirty` if tracked files differ.

    Outside a checkout of its own, as where the package is installed: `version 0.1.0, code 0123456789ab`.
    """
    try:
        if Path(_git("rev-parse", "--show-toplevel")).resolve() != ROOT.resolve():
            return _installed()
        _git("ls-files", "--error-unmatch", str(Path(__file__).relative_to(ROOT)))
        return _git("describe", "--always", "--dirty", "--exclude=*", "--abbrev=12")
    except (OSError, subprocess.SubprocessError):
        return _installed()


def _installed() -> str:
    try:
        return f"version {version('radar-ablations')}, code {source_hash()}"
    except PackageNotFoundError:
        return f"unknown version, code {source_hash()}"


def _git(*arguments: str) -> str:
    options: dict[str, Any] = {"cwd": ROOT, "capture_output": True, "text": True, "check": True, "timeout": 30}
    return str(subprocess.run(["git", *arguments], **options).stdout).strip()


@cache
def source_hash() -> str:
    """Name the code that draws and times by 12 hex digits: what a timing depends on, also between two commits."""
    digest = hashlib.sha256()
    for folder in (ROOT / "radar", ROOT / "experiments"):
        for path in sorted(path for path in folder.rglob("*") if path.suffix in (".py", ".cpp")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def hardware(device: "torch.device") -> str:
    """Name a device; for a CPU also cores and threads."""
    import torch

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


def weights_hash(module: "torch.nn.Module", digits: int = 12) -> str:
    """Name the weights and buffers of a module by hex digits."""
    import torch

    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:digits]


def versions() -> dict[str, str]:
    """Versions of what the figures depend on."""
    packages = ("torch", "lightning", "torchmetrics", "numpy")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}
