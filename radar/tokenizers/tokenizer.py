"""What every tokenizer can do: image <-> grid of tokens.

Legend: B images, H x W pixels, h x w cells, N = h * w, V codes.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn

from radar.errors import InputError

MOST_CODES = 2**20  # whose head alone takes a gigabyte at width 256


class Tokenizer(nn.Module):
    """Image <-> tokens.

    Attributes:
        vocabulary: V.
        kind: name with all options that the weights do not show.
        learned: True if it must be trained, and its reconstruction loses something.
        flat: whether every token is one place of the image.
        continuous: whether cells hold vectors (B, N, C) float32 in place of tokens, V being 0; C are its `channels`.
    """

    vocabulary: int
    flat = True
    continuous = False
    channels: int
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

    def decode_known(self, tokens: Tensor, known: Tensor, grid: tuple[int, int]) -> Tensor:
        """The same while only `known` (B, N) cells are; where every token is one place, the others may be anything."""
        return self.decode(tokens, grid)

    def embed(self, tokens: Tensor) -> Tensor:
        """Tokens (B, N) -> their codes (B, N, C), whose distances mean something."""
        raise NotImplementedError

    @property
    def reader(self) -> nn.Module | None:
        """What tells of a cell before it is decoded, by the tokens of others; none by default."""
        return None

    def embed_all(self) -> Tensor:
        """Codes (V, C) of all tokens, on the CPU."""
        device = next((p.device for p in self.parameters()), torch.device("cpu"))
        return self.embed(torch.arange(self.vocabulary, device=device)[None])[0].float().cpu()


class Learned(Tokenizer):
    """A tokenizer with weights, whose cells are squares of pixels.

    Attributes:
        downsample: pixels per cell and side.
        channels: of the vectors that are rounded to codes, C.
    """

    learned = True
    downsample: int

    @property
    def origin(self) -> dict[str, str]:
        """What it is made from and options say by path, by what that holds; nothing by default."""
        return {}

    @property
    def last_weight(self) -> nn.Parameter:
        """Weights of the decoder's last layer."""
        raise NotImplementedError

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

    def latents(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) uint8 -> vectors (B, N, C) before they are rounded to codes."""
        raise NotImplementedError

    def from_latents(self, latents: Tensor, grid: tuple[int, int]) -> Tensor:
        """Vectors (B, N, C) -> images (B, 3, H, W) uint8."""
        raise NotImplementedError


def in_company(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Run a batch (B, ...) of one as two: convolutions of one image alone take other kernels, which round otherwise."""

    @wraps(function)
    def wrapped(self: Tokenizer, batch: Tensor, *args: Any) -> Tensor:
        if len(batch) != 1:
            return function(self, batch, *args)
        return function(self, torch.cat([batch, batch]), *args)[:1]

    return wrapped


class OnlyCodes(Tokenizer):
    """Stands for any tokenizer with so many codes: for what depends on nothing else."""

    learned = False

    def __init__(self, vocabulary: int, width: int = 8, scales: nn.Module | None = None) -> None:
        super().__init__()
        self.vocabulary, self.width, self.kind, self.scales = vocabulary, width, f"codes-{vocabulary}", scales

    @property
    def reader(self) -> nn.Module | None:
        """As given."""
        return self.scales

    def embed(self, tokens: Tensor) -> Tensor:
        """Zeros."""
        return torch.zeros(*tokens.shape, self.width)


def check_codes(count: int, given: str) -> None:
    """Refuse fewer than two codes, or more than a head can be had for; raises InputError."""
    if not 2 <= count <= MOST_CODES:
        raise InputError(f"{given} is not possible: {count} codes, and 2 to {MOST_CODES} expected")


def normalise(images: Tensor) -> Tensor:
    """Map uint8 pixels to floats in [-1, 1]."""
    return images.float() / 127.5 - 1


def to_pixels(images: Tensor) -> Tensor:
    """Map floats in [-1, 1] to uint8 pixels, clipped."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
