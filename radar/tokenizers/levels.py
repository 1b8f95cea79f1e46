"""Grey levels as tokens: lossless, no weights. Legend: B images, H x W pixels, N cells."""

import torch
from einops import rearrange
from torch import Tensor

from radar.errors import InputError
from radar.tokenizers.tokenizer import Tokenizer


class Levels(Tokenizer):
    """A pixel's grey level is its token; lossless on grey images with that many evenly spaced levels."""

    learned = False

    def __init__(self, levels: int = 17) -> None:
        super().__init__()
        if not 2 <= levels <= 256:
            raise InputError(f"tokenizer.levels={levels} is not possible: it must be 2..256")
        self.vocabulary, self.kind = levels, f"levels-{levels}"

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """One cell per pixel."""
        return size

    def encode(self, images: Tensor) -> Tensor:
        """Read the levels; raises InputError where an image has colours or levels that would be lost."""
        tokens = (images[:, 0].float() * (self.vocabulary - 1) / 255).round().long().flatten(1)
        if not torch.equal(self.decode(tokens, tuple(images.shape[2:])), images):  # type: ignore[arg-type]
            raise InputError(
                f"tokenizer 'levels' with levels={self.vocabulary} would lose colours or grey levels of these images; "
                "choose vq or fsq"
            )
        return tokens

    def decode(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Show the levels in all three channels."""
        pixels = (tokens.float() * 255 / (self.vocabulary - 1)).round().to(torch.uint8)
        return rearrange(pixels, "b (h w) -> b 1 h w", h=grid[0]).expand(-1, 3, -1, -1)

    def embed(self, tokens: Tensor) -> Tensor:
        """Grey level from 0 to 1; C = 1."""
        return tokens.float()[..., None] / (self.vocabulary - 1)
