"""Tokenizers: image <-> grid of tokens. `levels` is lossless and has no weights; `vq` and `fsq` are learned.

Legend: B images, H x W pixels, h x w cells, N = h * w, V codes, C code width. To add one: a class with the methods of
Tokenizer, one line in TOKENIZERS.
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from vector_quantize_pytorch import FSQ, VectorQuantize

from radar.config import TokenizerConfig
from radar.errors import InputError
from radar.provenance import weights_hash
from radar.variants import call


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


def _encoder(width: int, halvings: int, code: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1)]
    for _ in range(halvings):
        layers += [Residual(width), nn.Conv2d(width, width, 4, stride=2, padding=1)]
    return nn.Sequential(*layers, Residual(width), nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, code, 1))


def _decoder(width: int, halvings: int, code: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(code, width, 3, padding=1), Residual(width)]
    for _ in range(halvings):
        layers += [nn.Upsample(scale_factor=2), nn.Conv2d(width, width, 3, padding=1), Residual(width)]
    return nn.Sequential(*layers, nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, 3, 3, padding=1))


class Convolutional(Tokenizer):
    """Convolutional encoder and decoder around a quantiser of the library vector-quantize-pytorch."""

    learned = True

    def __init__(
        self, kind: str, quantiser: nn.Module, vocabulary: int, code: int, width: int, downsample: int
    ) -> None:
        super().__init__()
        self.kind = f"{kind}-width{width}-down{downsample}"
        halvings = downsample.bit_length() - 1
        if downsample < 1 or 2**halvings != downsample or width < 8 or width % 8:
            raise InputError(
                f"tokenizer.downsample={downsample}, width={width} is not possible: "
                "downsample must be a power of two, width a multiple of 8"
            )
        self.vocabulary, self.downsample, self.quantiser = vocabulary, downsample, quantiser
        self.encoder, self.decoder = _encoder(width, halvings, code), _decoder(width, halvings, code)

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """One cell per `downsample` x `downsample` pixels; raises InputError where the image does not split so."""
        if size[0] % self.downsample or size[1] % self.downsample:
            raise InputError(
                f"tokenizer.downsample={self.downsample} does not divide the image size {size[0]}x{size[1]}"
            )
        return size[0] // self.downsample, size[1] // self.downsample

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images (B, 3, H, W) uint8 -> reconstruction in about [-1, 1], tokens (B, N), quantiser loss."""
        codes = self.encoder(normalise(images))
        quantised, tokens, *rest = self.quantiser(rearrange(codes, "b c h w -> b (h w) c"))
        loss = rest[0].mean() if rest else codes.new_zeros(())
        restored = self.decoder(rearrange(quantised, "b (h w) c -> b c h w", h=codes.shape[2]))
        return restored, tokens.long(), loss

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Quantise the encoder's output."""
        codes = rearrange(self.encoder(normalise(images)), "b c h w -> b (h w) c")
        return self.quantiser(codes)[1].long()  # type: ignore[no-any-return]

    @torch.no_grad()
    def decode(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Look the codes up and decode them."""
        codes = self._codes(tokens)
        return to_pixels(self.decoder(rearrange(codes, "b (h w) c -> b c h w", h=grid[0])))

    def _codes(self, tokens: Tensor) -> Tensor:
        if isinstance(self.quantiser, FSQ):
            return self.quantiser.indices_to_codes(tokens)  # type: ignore[no-any-return]
        return self.quantiser.get_output_from_indices(tokens)  # type: ignore[operator,no-any-return]


def normalise(images: Tensor) -> Tensor:
    """Map uint8 pixels to floats in [-1, 1]."""
    return images.float() / 127.5 - 1


def to_pixels(images: Tensor) -> Tensor:
    """Map floats in [-1, 1] to uint8 pixels, clipped."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def vq(codebook: int = 256, width: int = 64, downsample: int = 4) -> Tokenizer:
    """VQ-VAE (arXiv 1711.00937): nearest of `codebook` codes of width 8 on the sphere, moved by exponential averages.

    Raises InputError for fewer than two codes.
    """
    if codebook < 2:
        raise InputError(f"tokenizer.codebook={codebook} is not possible: it must be at least 2")
    quantiser = VectorQuantize(
        dim=8,
        codebook_size=codebook,
        decay=0.99,
        use_cosine_sim=True,
        kmeans_init=True,
        threshold_ema_dead_code=1,
    )
    return Convolutional(f"vq-{codebook}", quantiser, codebook, 8, width, downsample)


def fsq(fsq_levels: Sequence[int] = (8, 6, 5), width: int = 64, downsample: int = 4) -> Tokenizer:
    """Finite scalar quantisation (arXiv 2309.15505): each dimension of the code is rounded to one of its levels.

    Raises InputError for a dimension of fewer than two levels.
    """
    if not fsq_levels or min(fsq_levels) < 2:
        raise InputError(f"tokenizer.fsq_levels={list(fsq_levels)} is not possible: every level must be at least 2")
    quantiser = FSQ(levels=list(fsq_levels))
    kind, codes = "fsq-" + "x".join(map(str, fsq_levels)), math.prod(fsq_levels)
    return Convolutional(kind, quantiser, codes, len(fsq_levels), width, downsample)


TOKENIZERS: dict[str, Callable[..., Tokenizer]] = {"levels": Levels, "vq": vq, "fsq": fsq}


def build_tokenizer(config: TokenizerConfig) -> Tokenizer:
    """Build an untrained tokenizer; raises InputError for an unknown name or option."""
    options = {"levels": config.levels, "codebook": config.codebook, "fsq_levels": config.fsq_levels}
    options |= {"width": config.width, "downsample": config.downsample}
    return call("tokenizer", config.name, TOKENIZERS, **options)


def tokenizer_hash(tokenizer: Tokenizer) -> str:
    """Name a tokenizer by its kind and weights: levels-17-0123456789ab."""
    return f"{tokenizer.kind}-{weights_hash(tokenizer)}"


def reconstruction_loss(restored: Tensor, images: Tensor) -> Tensor:
    """Mean squared plus mean absolute error on [-1, 1]; no perceptual or adversarial term."""
    target = normalise(images)
    return F.mse_loss(restored, target) + F.l1_loss(restored, target)


def codebook_use(counts: Tensor) -> dict[str, float]:
    """Share of codes used at all, and perplexity exp(entropy), from counts (V,)."""
    p = counts.double() / counts.sum()
    return {
        "codebook_use": float((counts > 0).double().mean()),
        "perplexity": float(torch.special.entr(p).sum().exp()),
    }
