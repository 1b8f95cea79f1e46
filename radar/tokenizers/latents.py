"""Vectors in place of tokens: what a learned tokenizer knows of a cell before it is rounded to a code.

For a diffusion, which draws vectors. Legend: B images, N cells, C channels.
"""

from einops import rearrange
from torch import Tensor, nn

from radar.errors import InputError
from radar.tokenizers.convolutional import Convolutional, Halves, halves
from radar.tokenizers.llamagen import published_halves
from radar.tokenizers.tokenizer import Learned, Tokenizer


class Latents(Tokenizer):
    """A learned tokenizer whose cells hold vectors (B, N, C) float32: they are rounded to codes only to be decoded.

    It stands around one that is trained, and is not to be trained itself.
    """

    continuous = True
    learned = True
    vocabulary = 0

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        if not isinstance(tokenizer, Learned) or not tokenizer.flat:
            raise InputError(
                f"diffusion.latents=true needs a learned tokenizer whose cells are places of the image, not "
                f"'{tokenizer.kind}'"
            )
        self.kind, self.tokenizer, self.channels = f"latents-{tokenizer.kind}", tokenizer, tokenizer.channels

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """As that tokenizer."""
        return self.tokenizer.grid(size)

    def encode(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) uint8 -> vectors (B, N, C)."""
        return self.tokenizer.latents(images)

    def decode(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Vectors (B, N, C) -> images (B, 3, H, W) uint8."""
        return self.tokenizer.from_latents(tokens, grid)


class Autoencoder(Convolutional):
    """Convolutional encoder and decoder without a quantiser: the upper bound of what tokens can restore."""

    continuous = True

    def encode(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) uint8 -> vectors (B, N, C)."""
        return self.latents(images)

    def decode(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Vectors (B, N, C) -> images (B, 3, H, W) uint8."""
        return self.from_latents(tokens, grid)

    def through(self, codes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """As `Convolutional`; in place of tokens, vectors (B, N, C)."""
        vectors = rearrange(codes, "b c h w -> b (h w) c")
        return self.decoder(codes), vectors, codes.new_zeros(()), vectors


MULTIPLES = (1, 2, 4, 4)  # of the width, per resolution, of kl-f8
LATENT, PIXELS = 4, 8  # its channels, and pixels of the image per latent pixel and side


class First(nn.Module):
    """The first so many channels: of a distribution, its mean."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, channels, h, w)."""
        return x[:, : self.channels]


def kl_vae(width: int = 128, downsample: int = PIXELS) -> Tokenizer:
    """The autoencoder kl-f8 of latent diffusion (arXiv 2112.10752), whose latents DiT draws.

    It is filled by `radar import`. With more than 8 pixels per cell and side, a cell is a square of latent pixels,
    channel by channel. Raises InputError for a width that is no multiple of 32, or a downsampling that is none of 8.
    """
    if width < 32 or width % 32 or downsample < PIXELS or downsample % PIXELS:
        raise InputError(
            f"tokenizer kl_vae with width={width}, downsample={downsample} is not possible: the width must be a "
            "multiple of 32, the pixels per cell and side one of 8"
        )
    patch = downsample // PIXELS
    encoder, decoder = published_halves(width, MULTIPLES, 2 * LATENT, LATENT, attends=False)
    there = nn.Sequential(encoder, nn.Conv2d(2 * LATENT, 2 * LATENT, 1), First(LATENT), nn.PixelUnshuffle(patch))
    back = nn.Sequential(nn.PixelShuffle(patch), nn.Conv2d(LATENT, LATENT, 1), decoder)
    both = Halves(there, back, LATENT * patch**2, downsample, f"width{width}-down{downsample}")
    tokenizer = Autoencoder("kl-vae", nn.Identity(), 0, both)
    tokenizer.trained_here = False
    return tokenizer


def autoencoder(code: int = 8, width: int = 64, downsample: int = 4, attention: bool = False) -> Tokenizer:
    """Vectors of `code` channels; raises InputError for a width or a downsampling that is not possible."""
    return Autoencoder(f"autoencoder-{code}", nn.Identity(), 0, halves(code, width, downsample, attention))
