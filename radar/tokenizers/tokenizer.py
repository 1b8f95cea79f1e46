"""What every tokenizer can do: image <-> grid of tokens.

Legend: B images, H x W pixels, h x w cells, N = h * w, V codes.
"""

import torch
from torch import Tensor, nn

from radar.errors import InputError


class Tokenizer(nn.Module):
    """Image <-> tokens.

    Attributes:
        vocabulary: V.
        kind: name with all options that the weights do not show.
        learned: True if it must be trained, and its reconstruction loses something.
    """

    vocabulary: int
    learned: bool
    kind: str

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """Cells (h, w) of an image of (H, W) pixels."""
        raise NotImplementedError

    def encode(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) uint8 -> tokens (B, N) int64."""
        raise NotImplementedError

    def decode(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Tokens (B, N) -> images (B, 3, H, W) uint8."""
        raise NotImplementedError

    def embed(self, tokens: Tensor) -> Tensor:
        """Tokens (B, N) -> their codes (B, N, C), whose distances mean something."""
        raise NotImplementedError


class Learned(Tokenizer):
    """A tokenizer with weights, whose cells are squares of pixels.

    Attributes:
        downsample: pixels per cell and side.
    """

    learned = True
    downsample: int

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """One cell per `downsample` x `downsample` pixels; raises InputError where the image does not split so."""
        if size[0] % self.downsample or size[1] % self.downsample:
            raise InputError(
                f"tokenizer.downsample={self.downsample} does not divide the image size {size[0]}x{size[1]}"
            )
        return size[0] // self.downsample, size[1] // self.downsample

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images (B, 3, H, W) uint8 -> reconstruction in about [-1, 1], tokens (B, N), quantiser loss."""
        raise NotImplementedError


def normalise(images: Tensor) -> Tensor:
    """Map uint8 pixels to floats in [-1, 1]."""
    return images.float() / 127.5 - 1


def to_pixels(images: Tensor) -> Tensor:
    """Map floats in [-1, 1] to uint8 pixels, clipped."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
