"""CUDA graphs: a batch of sampling is recorded once and then replayed, with no Python between its kernels.

Every pass of a sampler is known before it starts, so a whole batch is one graph. Without one, a GPU waits for Python
in every pass of few slots (docs/speed.md).
"""

import os
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

Work = Callable[..., Tensor]
Key = tuple[Hashable, ...]


class Recording:
    """A function of tensors, recorded with its own copies of them; it must neither wait for the GPU nor read it."""

    def __init__(self, work: Work, inputs: tuple[Tensor, ...]) -> None:
        self.inputs = [part.clone() for part in inputs]
        self.work = work  # keeps alive what the graph reads
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.output = work(*self.inputs)

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Run it on other tensors of the same sizes."""
        for own, given in zip(self.inputs, inputs, strict=True):
            own.copy_(given)
        self.graph.replay()
        return self.output.clone()


def warm_up(device: torch.device) -> int:
    """Calls after which the speed of sampling is steady: one for what happens once, on a GPU one more that records."""
    return 2 if device.type == "cuda" else 1


_works: dict[nn.Module, dict[Key, Work]] = {}  # per model: what ran once as it is, or its recording


@contextmanager
def recorded(model: nn.Module) -> Iterator[None]:
    """Let `replay` record work of a model on a GPU; its weights must stay where they are in the meantime.

    `RADAR_GRAPHS=0` in the environment turns it off.
    """
    if model in _works or not _on_gpu(model) or os.environ.get("RADAR_GRAPHS") == "0":
        yield
        return
    _works[model] = {}
    try:
        yield
    finally:
        del _works[model]


def _on_gpu(model: nn.Module) -> bool:
    return next(model.parameters()).device.type == "cuda"


@contextmanager
def unrecorded() -> Iterator[None]:
    """Let everything run as it is; what was recorded is kept for later."""
    kept = dict(_works)
    _works.clear()
    try:
        yield
    finally:
        _works.update(kept)


def replay(model: nn.Module, name: Hashable, work: Work, *inputs: Tensor) -> Tensor:
    """Run work(*inputs), from the second call of a name and sizes on as a recording.

    The first runs as it is: what is compiled or planned at first use is not allowed in a recording.
    """
    works = _works.get(model)
    if works is None:
        return work(*inputs)
    key = (name, *((part.shape, part.dtype) for part in inputs))
    first = works.setdefault(key, work)
    if first is work:
        return work(*inputs)
    if not isinstance(first, Recording):
        works[key] = Recording(first, inputs)
    return works[key](*inputs)
