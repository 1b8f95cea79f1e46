"""Learned tokenizers: convolutions around a quantiser of the library vector-quantize-pytorch.

Legend: B images, H x W pixels, h x w cells, N = h * w, V codes, C code width.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn

from radar.errors import InputError
from radar.tokenizers.llamagen import Attention
from radar.tokenizers.tokenizer import Learned, Tokenizer, check_codes, in_company, normalise, to_pixels


class Residual(nn.Module):
    """Two 3x3 convolutions around a skip."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1),
            nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, H, W) -> the same shape."""
        return x + self.body(x)  # type: ignore[no-any-return]


def _lowest(width: int, attention: bool) -> list[nn.Module]:
    """Layers between the cells."""
    return [Residual(width), Attention(width, 8), Residual(width)] if attention else [Residual(width)]


def _encoder(width: int, halvings: int, code: int, attention: bool) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1)]
    for _ in range(halvings):
        layers += [Residual(width), nn.Conv2d(width, width, 4, stride=2, padding=1)]
    layers += _lowest(width, attention)
    return nn.Sequential(*layers, nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, code, 1))


def _decoder(width: int, halvings: int, code: int, attention: bool) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(code, width, 3, padding=1), *_lowest(width, attention)]
    for _ in range(halvings):
        layers += [nn.Upsample(scale_factor=2), nn.Conv2d(width, width, 3, padding=1), Residual(width)]
    return nn.Sequential(*layers, nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, 3, 3, padding=1))


class Halves(NamedTuple):
    """Images (B, 3, H, W) in [-1, 1] -> codes (B, C, h, w) and back; C; pixels per cell and side; and its name."""

    encoder: nn.Sequential
    decoder: nn.Sequential
    code: int
    downsample: int
    kind: str


def halves(code: int, width: int, downsample: int, attention: bool) -> Halves:
    """Convolutions of one width; raises InputError for a width or a downsampling that is not possible."""
    halvings = downsample.bit_length() - 1
    if downsample < 1 or 2**halvings != downsample or width < 8 or width % 8:
        raise InputError(
            f"tokenizer.downsample={downsample}, width={width} is not possible: "
            "downsample must be a power of two, width a multiple of 8"
        )
    both = _encoder(width, halvings, code, attention), _decoder(width, halvings, code, attention)
    return Halves(*both, code, downsample, f"width{width}-down{downsample}" + "-attention" * attention)


class Convolutional(Learned):
    """Convolutional encoder and decoder around a quantiser of the library vector-quantize-pytorch, or one like it.

    Attributes:
        trained_here: whether it can be trained; else it is filled by `radar import`.
    """

    trained_here = True

    def __init__(self, kind: str, quantiser: nn.Module, vocabulary: int, both: Halves) -> None:
        super().__init__()
        self.kind = f"{kind}-{both.kind}"
        self.vocabulary, self.downsample, self.quantiser = vocabulary, both.downsample, quantiser
        self.encoder, self.decoder, self.channels = both.encoder, both.decoder, both.code

    @property
    def last_weight(self) -> nn.Parameter:
        """Those of the last convolution."""
        return self.decoder[-1].weight  # type: ignore[return-value]

    @property
    def averages(self) -> bool:
        """Whether its codes are averages over images, kept by this process alone (vq)."""
        return any(name.endswith("embed_avg") for name, _ in self.named_buffers())

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images (B, 3, H, W) uint8 -> reconstruction in about [-1, 1], tokens (B, N), quantiser loss."""
        restored, tokens, loss, _ = self.through(self.encoder(normalise(images)))
        return restored, tokens, loss

    def through(self, codes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Codes (B, C, h, w) -> what `forward` gives, and the quantised codes (B, N, C)."""
        quantised, tokens, *rest = self.quantiser(rearrange(codes, "b c h w -> b (h w) c"))
        loss = rest[0].mean() if rest else codes.new_zeros(())
        restored = self.decoder(rearrange(quantised, "b (h w) c -> b c h w", h=codes.shape[2]))
        return restored, tokens.long(), loss, quantised

    @in_company
    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Quantise the encoder's output."""
        codes = rearrange(self.encoder(normalise(images)), "b c h w -> b (h w) c")
        return self.quantiser(codes)[1].long()  # type: ignore[no-any-return]

    @in_company
    @torch.no_grad()
    def decode(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Look the codes up and decode them."""
        codes = self.embed(tokens)
        return to_pixels(self.decoder(rearrange(codes, "b (h w) c -> b c h w", h=grid[0])))

    @torch.no_grad()
    def embed(self, tokens: Tensor) -> Tensor:
        """Look the codes up, which quantisers of the library name differently."""
        quantiser: Any = self.quantiser
        look_up = getattr(quantiser, "indices_to_codes", None) or quantiser.get_output_from_indices
        codes: Tensor = look_up(tokens)
        return codes

    @in_company
    @torch.no_grad()
    def latents(self, images: Tensor) -> Tensor:
        """Take the encoder's output."""
        codes: Tensor = self.encoder(normalise(images))
        return rearrange(codes, "b c h w -> b (h w) c")

    @in_company
    @torch.no_grad()
    def from_latents(self, latents: Tensor, grid: tuple[int, int]) -> Tensor:
        """Quantise them and decode the codes."""
        return to_pixels(self.through(rearrange(latents, "b (h w) c -> b c h w", h=grid[0]))[0])


def vq(
    codebook: int = 256, width: int = 64, downsample: int = 4, attention: bool = False, diversity: float | None = None
) -> Tokenizer:
    """VQ-VAE (arXiv 1711.00937): nearest of `codebook` codes of width 8 on the sphere, moved by exponential averages.

    The library's are: a start at the means of clusters of the first batch, a new start for codes that fall out of use,
    the loss by `diversity`.

    Raises InputError for a number of codes that is not possible.
    """
    from vector_quantize_pytorch import VectorQuantize  # takes a second, which most commands need not wait for

    check_codes(codebook, f"tokenizer.codebook={codebook}")
    quantiser = VectorQuantize(
        dim=8,
        codebook_size=codebook,
        decay=0.99,
        use_cosine_sim=True,
        kmeans_init=True,
        threshold_ema_dead_code=1,
        codebook_diversity_loss_weight=diversity or 0.0,
    )
    return Convolutional(f"vq-{codebook}", quantiser, codebook, halves(8, width, downsample, attention))


def fsq(
    fsq_levels: Sequence[int] = (8, 6, 5), width: int = 64, downsample: int = 4, attention: bool = False
) -> Tokenizer:
    """Finite scalar quantisation (arXiv 2309.15505): each dimension of the code is rounded to one of its levels.

    Raises InputError for a dimension of fewer than three levels (the library's least), or too many codes.
    """
    if not fsq_levels or min(fsq_levels) < 3:
        raise InputError(f"tokenizer.fsq_levels={list(fsq_levels)} is not possible: every level must be at least 3")
    from vector_quantize_pytorch import FSQ  # as above

    kind, codes = "fsq-" + "x".join(map(str, fsq_levels)), math.prod(fsq_levels)
    check_codes(codes, f"tokenizer.fsq_levels={list(fsq_levels)}")  # before the table of all codes is built
    quantiser = FSQ(levels=list(fsq_levels))
    return Convolutional(kind, quantiser, codes, halves(len(fsq_levels), width, downsample, attention))
