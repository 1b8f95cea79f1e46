"""FSDP: every device holds a share of each weight, of its optimizer state and of its average (fully_shard, FSDP2).

Lightning's ModelParallelStrategy sets it up. A checkpoint is the one file that one device writes, with the same names
and shapes, so that runs go on under any strategy.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy, ParallelStrategy
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.optim import Optimizer
from torch.utils._pytree import tree_map

from radar.training.optimizers import Together
from radar.training.shares import kept, put_back, share


class Sharded(ModelParallelStrategy):
    """FSDP2 over all devices.

    Args:
        devices: of all nodes together.
    """

    lightning_restore_optimizer = True

    def __init__(self, devices: int) -> None:
        super().__init__(devices, tensor_parallel_size=1, save_distributed_checkpoint=False)

    def share_out(self, trunk: nn.Module, blocks: Sequence[nn.Module]) -> None:
        """Share out the weights of a module, in groups: each block, and the rest."""
        mesh = self.device_mesh["data_parallel"]
        for block in blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(trunk, mesh=mesh)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Whole weights."""
        assert self.lightning_module is not None
        put_back(self.lightning_module)
        return tree_map(kept, self.lightning_module.state_dict())  # type: ignore[no-any-return]

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Take the own share of whole weights."""
        assert self.lightning_module is not None
        own = self.lightning_module.state_dict()
        values = {name: share(value, own[name]) for name, value in checkpoint["state_dict"].items()}
        self.lightning_module.load_state_dict(values, strict=strict)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Whole state."""
        return tree_map(kept, ParallelStrategy.optimizer_state(self, optimizer))  # type: ignore[no-any-return]

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Take the own share of whole state."""
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            optimizer.load_state_dict(own_state(optimizer, state))

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Read the file."""
        return ParallelStrategy.load_checkpoint(self, checkpoint_path, weights_only)

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """Write the file, once."""
        ParallelStrategy.save_checkpoint(self, checkpoint, filepath, storage_options)


def own_state(optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """This device's share of the whole state of an optimizer."""
    if isinstance(optimizer, Together):
        return {"parts": [own_state(part, each) for part, each in zip(optimizer.parts, state["parts"], strict=True)]}
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]

    def own(number: int, value: Any) -> Any:
        same = isinstance(value, torch.Tensor) and value.shape == weights[number].shape
        return share(value, weights[number]) if same else value

    held = {
        number: {name: own(number, value) for name, value in values.items()}
        for number, values in state["state"].items()
    }
    return {**state, "state": held}
