"""Optimizers, by which weights they are given. To add one: a function, a line in OPTIMIZERS.

Both run under one schedule, which is a factor on each group's learning rate.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from radar.config.training import TrainConfig
from radar.errors import InputError
from radar.training.muon import Muon


class Weights(NamedTuple):
    """Trainable weights by what they are: matrices of blocks, other weights, vectors and embeddings."""

    matrices: list[Tensor]
    others: list[Tensor]
    vectors: list[Tensor]


def sorted_weights(module: nn.Module, blocks: Sequence[nn.Module]) -> Weights:
    """Sort the trainable weights of a module; `blocks` are the parts whose matrices count as such."""
    inside = {id(p) for block in blocks for p in block.parameters() if p.ndim == 2}
    found = Weights([], [], [])
    for part in module.modules():
        for parameter in part.parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            flat = parameter.ndim < 2 or isinstance(part, nn.Embedding)
            (found.vectors if flat else found.matrices if id(parameter) in inside else found.others).append(parameter)
    return found


def adamw(weights: Weights, config: TrainConfig, default_rate: float = 2e-3) -> Optimizer:
    """AdamW (arXiv 1711.05101), without decay on vectors and embeddings."""
    rate = default_rate if config.lr is None else config.lr
    decayed = [*weights.matrices, *weights.others]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": weights.vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], rate, (0.9, 0.95), fused=True)


def muon(weights: Weights, config: TrainConfig) -> Optimizer:
    """Muon (momentum, orthogonalised; kellerjordan.github.io/posts/muon) for matrices of blocks, AdamW for the rest.

    Raises InputError for a model without such matrices.
    """
    if not weights.matrices:
        raise InputError("train.optimizer=muon is not possible: this model has no matrices of blocks; choose adamw")
    decay = config.weight_decay
    matrices = Muon(weights.matrices, config.muon_lr, decay, momentum=0.95, adjust_lr_fn="original")
    return Together([matrices, adamw(weights._replace(matrices=[]), config, 8e-3)])


class Together(Optimizer):
    """Several optimizers that step as one, each on its own weights."""

    def __init__(self, parts: Sequence[Optimizer]) -> None:
        self.parts = list(parts)
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._share()

    def _share(self) -> None:
        """Let the parts' groups and state be those of the whole: a schedule writes learning rates into them."""
        self.param_groups = [group for part in self.parts for group in part.param_groups]
        self.state.clear()
        for part in self.parts:
            self.state.update(part.state)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Step each."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
            self.state.update(part.state)
        return loss

    def state_dict(self) -> dict[str, Any]:
        """State of each."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore each."""
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self._share()


OPTIMIZERS: dict[str, Callable[[Weights, TrainConfig], Optimizer]] = {"adamw": adamw, "muon": muon}
