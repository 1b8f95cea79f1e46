"""Builds and calls kernels.cpp: what sampling on a CPU does most, where PyTorch's own operations are slow.

Legend: B images, H heads, S slots, E head width, I inputs, O outputs.
"""

import ctypes
import functools
import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from radar.files import cache_folder, replacing

# Per kind of processor, by PyTorch's names.
FLAGS = {
    "AVX2": ["-mavx2", "-mfma", "-DWIDTH=8", "-DTALL=6"],
    "AVX512": ["-mavx512f", "-mavx2", "-mfma", "-DWIDTH=16", "-DTALL=12"],
}
COMPILE = ["-O3", "-std=c++17", "-fopenmp", "-ffast-math", "-fPIC", "-c"]
LINK = ["-shared", "-fopenmp"]  # without fast-math, which would make the whole process flush denormals to zero


@functools.cache
def kernels() -> "Kernels | None":
    """Compile and load them, once per cache folder; None, with a warning, where that fails.

    None without one for processors that have no entry in `FLAGS`.
    """
    kind = torch.backends.cpu.get_cpu_capability()
    if kind not in FLAGS:
        return None
    try:
        return Kernels(ctypes.CDLL(str(_build(FLAGS[kind]))))
    except (OSError, RuntimeError, subprocess.CalledProcessError) as error:  # RuntimeError: no home
        why = (getattr(error, "stderr", "") or str(error)).strip()
        warnings.warn(f"sampling will be slower: kernels.cpp could not be compiled or loaded ({why})", stacklevel=2)
        return None


def _build(flags: list[str]) -> Path:
    source, compiler = Path(__file__).with_name("kernels.cpp"), shlex.split(os.environ.get("CXX") or "c++")
    if shutil.which(compiler[0]) is None:
        raise FileNotFoundError(f"no C++ compiler '{compiler[0]}'; CXX may name one")
    recipe = "\n".join([source.read_text(), *compiler, *COMPILE, *flags, *LINK])
    path = cache_folder() / f"kernels-{hashlib.sha256(recipe.encode()).hexdigest()[:16]}.so"
    if not path.exists():
        with replacing(path) as library, tempfile.TemporaryDirectory() as folder:
            compiled = f"{folder}/kernels.o"
            for command in ([*COMPILE, *flags, str(source), "-o", compiled], [*LINK, compiled, "-o", str(library)]):
                subprocess.run([*compiler, *command], check=True, capture_output=True, text=True)
    return path


@dataclass(frozen=True)
class Kernels:
    """The compiled functions; all tensors float32, on the CPU, without gradients."""

    library: ctypes.CDLL

    def __post_init__(self) -> None:
        self.library.product.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_long] * 3 + [ctypes.c_int]
        self.library.attention.argtypes = [ctypes.c_void_p] * 5 + [ctypes.c_long] * 4 + [ctypes.c_int]

    def panels(self, weight: Tensor) -> Tensor:
        """Lay out a weight (O, I) for `product`: (O / panel, I, panel), padded with zeros."""
        width = int(self.library.panel())
        padded = F.pad(weight, (0, 0, 0, -len(weight) % width))
        return padded.view(-1, width, weight.shape[1]).transpose(1, 2).contiguous()

    def product(self, x: Tensor, panels: Tensor, outputs: int) -> Tensor:
        """x (..., I) times panels: (..., O). A row's result does not depend on the others."""
        x = x.contiguous()
        rows, inputs, padded = x[..., 0].numel(), x.shape[-1], panels.shape[0] * panels.shape[2]
        y = x.new_empty(*x.shape[:-1], padded)
        pointers = x.data_ptr(), panels.data_ptr(), y.data_ptr()
        self.library.product(*pointers, rows, inputs, padded, torch.get_num_threads())
        return y if padded == outputs else y[..., :outputs].contiguous()

    def attention(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(B, 1, H E) of q (B, H, 1, E) over k and v (B, H, S, E), equal views of the slots of contiguous buffers."""
        (batch, heads, _, width), slots, q = q.shape, k.shape[2], q.contiguous()
        out, weights = q.new_empty(batch, 1, heads * width), q.new_empty(batch * heads, slots)
        pointers = q.data_ptr(), k.data_ptr(), v.data_ptr(), out.data_ptr(), weights.data_ptr()
        self.library.attention(*pointers, batch * heads, slots, width, k.stride(1), torch.get_num_threads())
        return out
