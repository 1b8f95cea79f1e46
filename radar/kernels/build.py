"""Builds and calls kernels.cpp: what sampling and training on a CPU do most, where PyTorch's operations are slow.

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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

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
        warnings.warn(f"this will be slower: kernels.cpp could not be compiled or loaded ({why})", stacklevel=2)
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
        sizes = [ctypes.c_long] * 2
        self.library.rms_norm.argtypes = [ctypes.c_void_p] * 4 + [*sizes, ctypes.c_float, ctypes.c_int]
        self.library.rms_norm_back.argtypes = [ctypes.c_void_p] * 6 + [*sizes, ctypes.c_int]
        pointer, long = ctypes.c_void_p, ctypes.c_long
        self.library.heads.argtypes = [pointer] * 7 + [long] * 5 + [ctypes.c_float, ctypes.c_int]
        self.library.heads_back.argtypes = [pointer] * 10 + [long] * 5 + [ctypes.c_int]
        self.library.cross_entropy.argtypes = [pointer] * 4 + [*sizes, ctypes.c_int]
        self.library.cross_entropy_back.argtypes = [pointer] * 4 + [*sizes, ctypes.c_int]
        self.library.swiglu.argtypes = [ctypes.c_void_p] * 2 + [*sizes, ctypes.c_int]
        self.library.swiglu_back.argtypes = [ctypes.c_void_p] * 3 + [*sizes, ctypes.c_int]

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

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        """RMSNorm of contiguous x (..., I), and the factor of each row, for `rms_norm_back`."""
        y, inverse, width = torch.empty_like(x), x.new_empty(x.shape[:-1]), x.shape[-1]
        self._run("rms_norm", (x, weight, y, inverse), inverse.numel(), width, eps)
        return y, inverse

    def rms_norm_back(self, grad: Tensor, x: Tensor, weight: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of x (..., I) and of the weight (I,), by that of the norm; all contiguous."""
        dx, dw = torch.empty_like(x), x.new_zeros(torch.get_num_threads(), x.shape[-1])
        self._run("rms_norm_back", (grad, x, weight, inverse, dx, dw), inverse.numel(), x.shape[-1])
        return dx, dw.sum(0)

    def swiglu(self, x: Tensor) -> Tensor:
        """Silu of the first half of contiguous x (..., 2 I), times the second."""
        y = x.new_empty(*x.shape[:-1], x.shape[-1] // 2)
        self._run("swiglu", (x, y), x[..., 0].numel(), y.shape[-1])
        return y

    def swiglu_back(self, grad: Tensor, x: Tensor) -> Tensor:
        """Gradient of x, by that of `swiglu`; both contiguous."""
        dx = torch.empty_like(x)
        self._run("swiglu_back", (grad, x, dx), x[..., 0].numel(), x.shape[-1] // 2)
        return dx

    def heads(self, x: Tensor, weights: Tensor | None, angles: Tensor, heads: int, eps: float) -> list[Tensor]:
        """Queries, keys, values (B, H, S, E) of contiguous x (B, S, 3 H E), and the factors of their norms.

        Normalised with weights (2, E), unless there are none, and turned by `angles` (B or 1, 1, S, E / 2, 2).
        """
        batch, slots, width = x.shape[0], x.shape[1], x.shape[2] // (3 * heads)
        found = [x.new_empty(batch, heads, slots, width) for _ in range(3)]
        found.append(x.new_empty(batch, slots, 2, heads))
        self._run("heads", (x, weights, angles, *found), batch, slots, heads, width, _stride(angles), eps)
        return found

    def heads_back(
        self, grads: Sequence[Tensor], x: Tensor, weights: Tensor | None, angles: Tensor, inverse: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Gradients of x and of the weights (2, E), by those of queries, keys and values; all contiguous."""
        (batch, heads, slots, width), threads = grads[0].shape, torch.get_num_threads()
        dx, dw, room = torch.empty_like(x), x.new_zeros(threads, 2, width), x.new_empty(threads, width)
        tensors = *grads, x, weights, angles, inverse, dx, dw, room
        self._run("heads_back", tensors, batch, slots, heads, width, _stride(angles))
        return dx, dw.sum(0)

    def cross_entropy(self, logits: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
        """Losses (R,) of contiguous logits (R, V) by the right ones (R,), and the logarithms of their sums."""
        losses, logs = logits.new_empty(len(logits)), logits.new_empty(len(logits))
        self._run("cross_entropy", (logits, truth, losses, logs), *logits.shape)
        return losses, logs

    def cross_entropy_back(self, logits: Tensor, truth: Tensor, logs: Tensor, grad: Tensor) -> Tensor:
        """Gradient of the logits, in their place, by that of the losses (R,)."""
        self._run("cross_entropy_back", (logits, truth, logs, grad), *logits.shape)
        return logits

    def _run(self, name: str, tensors: Sequence[Tensor | None], *numbers: float) -> None:
        """Call a function on the memory of tensors; fake ones, by which a training is planned, have none."""
        if any(isinstance(tensor, FakeTensor) for tensor in tensors):
            return
        pointers = (None if tensor is None else tensor.data_ptr() for tensor in tensors)
        getattr(self.library, name)(*pointers, *numbers, torch.get_num_threads())


def _stride(angles: Tensor) -> int:
    """Numbers between the angles of two images; none where all have the same."""
    return 0 if len(angles) == 1 else angles[0].numel()
