"""Weights that several devices share, each some rows of every matrix (DTensor); of one device they are whole."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, distributed, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor


def whole(value: Any) -> Any:
    """A tensor as one device would hold it; other values as they are. All devices must ask at once."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def kept(value: Any) -> Any:
    """A tensor as one device would hold it, for a checkpoint: in the memory of the first process, and nowhere else."""
    if not isinstance(value, DTensor):
        return value
    full = value.full_tensor()
    return full.cpu() if distributed.get_rank() == 0 else full.new_empty(0)


def share(value: Tensor, like: Tensor) -> Tensor:
    """This device's share of a whole tensor, cut like another one; the tensor itself where that is whole."""
    if not isinstance(like, DTensor):
        return value
    value = value.to(like.device, like.dtype)
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)


def parts_of(module: nn.Module) -> list[FSDPModule]:
    """Parts of a module whose weights are shared out."""
    return [part for part in module.modules() if isinstance(part, FSDPModule)]


def put_back(module: nn.Module) -> None:
    """Keep nothing but the own share of each weight."""
    for part in parts_of(module):
        part.reshard()


@contextmanager
def fetched(module: nn.Module) -> Iterator[None]:
    """Hold all weights, for samplers: devices run them on different images, so that none may wait for the others."""
    inner = parts_of(module)[1:]  # the first is the whole, which never gives back what it has fetched
    for part in inner:
        part.set_reshard_after_forward(False)  # else a block that runs as a module would give its weights back
    for part in parts_of(module):
        part.unshard()
    try:
        yield
    finally:
        for part in inner:
            part.set_reshard_after_forward(True)
        put_back(module)
