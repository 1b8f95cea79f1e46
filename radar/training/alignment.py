"""Alignment with a frozen image encoder (REPA, arXiv 2410.06940): what a layer makes of a cell shall tell its features.

A token is one cell of the image, as is a place of the encoder's map; so any order and attention can be aligned.
Legend: B images, S slots, N cells, D width, C channels of a map.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from radar.config.training import TrainConfig
from radar.encoders.network import FeatureNetwork
from radar.errors import InputError
from radar.kernels.linear import Linear
from radar.seeding import Stream, generator
from radar.tokenizers import Tokenizer, normalise


class Teacher:
    """An encoder's features of the images that tokens stand for, as the tokenizer restores them [ours].

    D random directions of their C, the same for all runs, which keep cosines nearly [ours].

    Raises InputError for a network that shows no maps.
    """

    def __init__(self, network: FeatureNetwork, tokenizer: Tokenizer, grid: tuple[int, int], dim: int) -> None:
        self.network, self.tokenizer, self.grid, self.dim = network, tokenizer, grid, dim

    @torch.no_grad()
    def __call__(self, tokens: Tensor) -> Tensor:
        """Features (B, N, D) of tokens (B, N), by cell."""
        images = normalise(self.tokenizer.decode(tokens, self.grid))
        features = self.network.to(tokens.device).cells(images, self.grid).float().flatten(2).mT
        directions = torch.randn(features.shape[2], self.dim, generator=generator(Stream.ALIGN)).to(tokens.device)
        return features @ directions


class Alignment(nn.Module):
    """A head on one layer whose outputs are to point where an encoder's features do.

    Args:
        config: `align_layer` and `align_weight`.
        dim: D.
        layers: blocks of the model.

    Raises InputError for a layer that is not there.
    """

    def __init__(self, config: TrainConfig, dim: int, layers: int) -> None:
        super().__init__()
        self.layer = max(1, layers // 2) if config.align_layer is None else config.align_layer
        if self.layer > layers:
            raise InputError(
                f"train.align_layer={self.layer} is not possible: the model has {layers} layers of its content"
            )
        self.weight = config.align_weight
        self.teacher: Teacher | None = None
        self.head = nn.Sequential(Linear(dim, dim), nn.SiLU(), Linear(dim, dim))

    def learn_from(self, teacher: Teacher) -> None:
        """Take an encoder, for a training; without, there is no loss."""
        self.teacher = teacher

    @contextmanager
    def watching(self, blocks: nn.ModuleList) -> Iterator[list[Tensor]]:
        """Collect what the layer gives (B, S, D) when the model runs."""
        seen: list[Tensor] = []
        hook = blocks[self.layer - 1].register_forward_hook(lambda _, __, found: seen.append(found))
        try:
            yield seen
        finally:
            hook.remove()

    def forward(self, seen: Sequence[Tensor], tokens: Tensor, cells: Tensor, there: Tensor) -> Tensor:
        """`align_weight` times one less the mean cosine of slots and features of their cells.

        Args:
            seen: of `watching`; the first is meant.
            tokens: (B, N) by cell.
            cells: (1, S) or (B, S) cell of each slot.
            there: (S,) which slots have one.
        """
        if self.teacher is None:
            return tokens.new_zeros((), dtype=torch.float32)
        features = self.teacher(tokens)
        wanted = features.gather(
            1, cells[:, there].expand(len(tokens), -1)[..., None].expand(-1, -1, features.shape[2])
        )
        return self.weight * (1 - F.cosine_similarity(self.head(seen[0][:, there]).float(), wanted, dim=-1).mean())


def build_alignment(config: TrainConfig, dim: int, layers: int, flat: bool = True) -> Alignment | None:
    """Build it where it is asked for; raises InputError for options that have no effect, and tokens of scales."""
    if config.align is None:
        if config.align_layer is not None or config.align_weight != TrainConfig().align_weight:
            raise InputError("train.align_layer and train.align_weight have no effect without train.align")
        return None
    if config.strategy == "fsdp":
        raise InputError(
            "train.align is not possible with train.strategy=fsdp, which shares out the model alone; choose ddp"
        )
    if not flat:
        raise InputError(
            f"train.align={config.align} needs tokens that are one place of the image, not those of scales"
        )
    return Alignment(config, dim, layers)
