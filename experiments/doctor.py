"""`radar doctor`: what is installed and what works here, in lines to paste into a report of a bug."""

import argparse
import os
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import chdir, redirect_stderr, redirect_stdout
from importlib.metadata import PackageNotFoundError, version
from io import StringIO
from pathlib import Path

import torch
from torch.nn.attention.flex_attention import BlockMask
from torch.nn.attention.flex_attention import flex_attention as _flex

from radar.errors import RunError
from radar.files import cache_folder
from radar.provenance import git_commit, hardware, versions

EXTRAS = {
    "features": "efficientnet-lite-pytorch",
    "encoders": "transformers",
    "hub": "huggingface_hub",
    "fid": "torch-fidelity",
    "postgres": "psycopg",
    "loggers": "wandb",
    "dashboard": "optuna-dashboard",
}
APART = 1e-2  # of numbers around 1: TF32 and reordered sums
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
SMOKE = (
    "model.dim=32", "model.heads=2", "model.layers=2", "train.max_steps=20", "train.batch_size=16", "train.warmup=2",
    "train.val_every=20",
)  # fmt: skip


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what it takes."""
    parser.add_argument("--quick", action="store_true", help="without the smoke run")


def main(args: argparse.Namespace) -> None:
    """Run `radar doctor`; raises RunError if something does not work."""
    failed = []
    for name, check in CHECKS.items():
        if args.quick and check is smoke:
            continue
        try:
            for line in check():
                print(f"{name:14} {line}", flush=True)
        except Exception as error:  # whatever it is, that is what is to be known
            failed.append(name)
            print(f"{name:14} FAILED: {type(error).__name__}: {' '.join(str(error).split())[:200]}", flush=True)
    if failed:
        raise RunError(f"does not work here: {', '.join(failed)}")


def installed(package: str) -> str | None:
    """Version of a package, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def software() -> Iterator[str]:
    """Versions."""
    yield f"radar-ablations {installed('radar-ablations')}, commit {git_commit()}"
    yield ", ".join(f"{name} {found}" for name, found in versions().items()) + f" on {sys.platform}"
    found = {extra: installed(package) for extra, package in EXTRAS.items()}
    yield "extras: " + ", ".join(f"{extra} {'yes' if there else 'no'}" for extra, there in found.items())


def devices() -> Iterator[str]:
    """Processors and their memory."""
    yield hardware(torch.device("cpu"))
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        major, minor = torch.cuda.get_device_capability(index)
        yield (
            f"cuda:{index} {torch.cuda.get_device_name(index)}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free, "
            f"capability {major}.{minor}, CUDA {torch.version.cuda}"
        )
    if not torch.cuda.is_available():
        yield "no CUDA device" + ("" if torch.version.cuda else " (this PyTorch is built without CUDA)")


def blas() -> Iterator[str]:
    """What multiplies matrices on the CPU, and how fast."""
    kind = "MKL" if torch.backends.mkl.is_available() else "OpenBLAS or other"
    limits = ", ".join(f"{key}={os.environ[key]}" for key in THREADS if key in os.environ)
    a, best = torch.randn(512, 512), 0.0
    for _ in range(5):
        began = time.perf_counter()
        a @ a
        best = max(best, 2 * 512**3 / (time.perf_counter() - began) / 1e9)
    capability = torch.backends.cpu.get_cpu_capability()
    yield f"{kind}, {capability}, {best:.0f} GFLOP/s, {limits or 'no limit of threads set'}"


def kernels() -> Iterator[str]:
    """Our own kernels, which need a compiler; without them all works, slower."""
    from radar.kernels.build import kernels as build

    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
    yield f"compiler {compiler or 'none'}; kernels {'built' if build() is not None else 'not built: slower'}"


def flex_attention() -> Iterator[str]:
    """Whether FlexAttention gives what SDPA does under the mask of nested; with gradients on a GPU.

    Raises RunError where it does not.
    """
    from radar.attention.backends import attend
    from radar.layouts import layout

    own = layout("radial", "nested", (4, 4))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    learned = device.type == "cuda"
    q, k, v = torch.randn(3, 1, 2, len(own.slots), 32, device=device)
    found = []
    for mask in (own.mask.to(device), own.block_mask(device)):
        asked = q.clone().requires_grad_(learned)
        if learned or isinstance(mask, torch.Tensor):
            mixed = attend(asked, k, v, mask)
        else:
            mixed = _uncompiled(asked, k, v, mask)
        if learned:
            mixed.square().sum().backward()
        found.append(torch.cat([mixed.detach(), asked.grad]) if asked.grad is not None else mixed)
    apart = float((found[0] - found[1]).abs().max())
    if not apart < APART:
        raise RunError(f"{apart:.1e} from SDPA, at most {APART} expected")
    yield f"{'compiled, with gradients' if learned else 'forward'} on {device}, {apart:.1e} from SDPA"


def _uncompiled(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: BlockMask) -> torch.Tensor:
    warnings.filterwarnings("ignore", ".*without torch.compile.*")  # which takes a minute
    return _flex(q, k, v, block_mask=mask)


def disk() -> Iterator[str]:
    """Space where runs and caches are written."""
    for name, path in {"here": Path.cwd(), "cache": cache_folder()}.items():
        yield f"{name}: {path}, {shutil.disk_usage(path).free / 2**30:.1f} GiB free"


def smoke() -> Iterator[str]:
    """Train, draw and judge something small."""
    import radar

    began, said = time.perf_counter(), StringIO()
    with tempfile.TemporaryDirectory() as folder, chdir(folder), redirect_stdout(said), redirect_stderr(said):
        model = radar.train("digits", *SMOKE, run="smoke", order="radial", attention="nested")
        images, labels = model.held_out(20)
        nll, drawn = float(model.nll(images, labels.tolist()).mean()), model.sample(images=10)
    yield (
        f"trained 20 steps, drew {len(drawn.images)} digits, NLL {nll:.1f} nats, {time.perf_counter() - began:.1f} s"
    )


CHECKS: dict[str, Callable[[], Iterator[str]]] = {
    "software": software,
    "devices": devices,
    "blas": blas,
    "kernels": kernels,
    "FlexAttention": flex_attention,
    "disk": disk,
    "smoke run": smoke,
}
