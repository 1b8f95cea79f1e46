"""What a diffusion draws, as vectors of mean 0 and deviation 1 in every channel: codes of tokens, or others.

Legend: M images, B images of a batch, N cells, V codes, C channels.
"""

import numpy as np
import torch
from torch import Tensor, nn

from radar.data.token_arrays import TokenSplit

LEAST = 1e-6  # deviation of a channel that never changes
CHUNK = 4096  # images that are looked at at once


class Codes(nn.Module):
    """The codes of tokens, which are what is drawn once rounded to the nearest.

    Args:
        table: (V, C) codes of all tokens.
    """

    table: Tensor

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.channels = table.shape[1]
        self.register_buffer("table", table.clone())

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (B, N) -> (B, N, C)."""
        return self.table[tokens]

    def back(self, x: Tensor) -> Tensor:
        """(B, N, C) -> nearest tokens (B, N)."""
        return torch.stack([torch.cdist(image, self.table).argmin(-1) for image in x])

    def fit(self, split: TokenSplit) -> None:
        """Normalise the codes by how often they are used in a split."""
        count = len(self.table)
        parts = (split.tokens[start : start + CHUNK] for start in range(0, len(split.tokens), CHUNK))
        seen = sum((np.bincount(np.asarray(part).ravel(), minlength=count) for part in parts), np.zeros(count))
        share, codes = torch.from_numpy(seen / seen.sum())[:, None], self.table.double()
        mean = (share * codes).sum(0)
        deviation = (share * (codes - mean).square()).sum(0).sqrt().clamp(min=LEAST)
        self.table.copy_((codes - mean) / deviation)

    def example(self, images: int, cells: int) -> Tensor:
        """Inputs (B, N) of any images."""
        return torch.zeros(images, cells, dtype=torch.long)


class Vectors(nn.Module):
    """The vectors of a tokenizer that gives no tokens.

    Args:
        channels: C.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("deviation", torch.ones(channels))

    def forward(self, vectors: Tensor) -> Tensor:
        """(B, N, C) as the tokenizer gives them -> normalised."""
        return (vectors - self.mean) / self.deviation

    def back(self, x: Tensor) -> Tensor:
        """The other way."""
        return x * self.deviation + self.mean

    def fit(self, split: TokenSplit) -> None:
        """Measure mean and deviation of every channel in a split."""
        count, sums = 0, torch.zeros(2, self.channels, dtype=torch.float64)
        for start in range(0, len(split.tokens), CHUNK):
            part = torch.from_numpy(np.array(split.tokens[start : start + CHUNK])).double().flatten(0, -2)
            count, sums = count + len(part), sums + torch.stack([part.sum(0), part.square().sum(0)])
        mean, squared = sums / count
        self.mean.copy_(mean)
        self.deviation.copy_((squared - mean.square()).clamp(min=LEAST**2).sqrt())

    def example(self, images: int, cells: int) -> Tensor:
        """Inputs (B, N, C) of any images."""
        return torch.zeros(images, cells, self.channels)


Space = Codes | Vectors
