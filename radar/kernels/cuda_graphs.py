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
        self.work = work  # keeps alive what the graph reads, and what its name stands for
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.output = work(*self.inputs)

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Run it on other tensors of the same sizes."""
        for own, given in zip(self.inputs, inputs, strict=True):
            own.copy_(given)
        self.graph.replay()
        return self.output.clone()


def warm_up_calls(device: torch.device) -> int:
    """Calls before the speed of sampling is steady: one for what happens once, on a GPU one more that records."""
    return 2 if device.type == "cuda" else 1


_works: dict[object, dict[Key, Work]] = {}  # per model: what ran once as it is, or its recording


@contextmanager
def recorded(model: nn.Module) -> Iterator[None]:
    """Let `replay` record work of a model on the current GPU.

    In the meantime its weights must stay where they are, and autocast and `model.compiled` as they are. A recording
    keeps the memory of its batch to the end. `RADAR_GRAPHS=0` in the environment does without.
    """
    before = _works.pop(model, None)  # which may read other copies of the weights
    if _on_gpu(model) and os.environ.get("RADAR_GRAPHS") != "0":
        _works[model] = {}
    try:
        yield
    finally:
        _works.pop(model, None)
        if before is not None:
            _works[model] = before


def _on_gpu(model: nn.Module) -> bool:
    device = next(model.parameters()).device
    return device.type == "cuda" and device.index == torch.cuda.current_device()


@contextmanager
def unrecorded() -> Iterator[None]:
    """Let everything run as it is; what was recorded is kept for later."""
    kept = dict(_works)
    _works.clear()
    try:
        yield
    finally:
        _works.update(kept)


def replay(model: object, name: Hashable, work: Work, *inputs: Tensor) -> Tensor:
    """Run work(*inputs), from the second call of a name and sizes on as a recording.

    The first runs as it is: what is compiled or planned at first use is not allowed in a recording.
    """
    works = _works.get(model)
    if works is None:
        return work(*inputs)
    key = (name, *((part.shape, part.dtype) for part in inputs))
    if key not in works:
        works[key] = work
        return work(*inputs)
    if not isinstance(works[key], Recording):
        works[key] = Recording(work, inputs)
    return works[key](*inputs)
