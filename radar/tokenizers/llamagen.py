"""LlamaGen's VQ tokenizers (arXiv 2406.06525, after VQGAN, arXiv 2012.09841), under their published names.

Legend: B images, h x w cells, N = h * w, V codes, C code width, D channels.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from radar.errors import InputError
from radar.tokenizers.tokenizer import Learned, check_codes, in_company, normalise, to_pixels

MULTIPLES = {8: (1, 2, 2, 4), 16: (1, 1, 2, 2, 4)}  # of the width, per resolution; VQ-8 and VQ-16
RESIDUALS = 2  # blocks per resolution of the encoder; the decoder has one more
CODE = 8  # width of a code


def _norm(channels: int, groups: int = 32) -> nn.GroupNorm:
    return nn.GroupNorm(groups, channels, eps=1e-6)


def _conv(inputs: int, outputs: int, size: int = 3, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2 if stride == 1 else 0)


class Residual(nn.Module):
    """Two 3x3 convolutions around a skip, which is a 1x1 convolution where the number of channels changes."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = _norm(inputs), _conv(inputs, outputs)
        self.norm2, self.conv2 = _norm(outputs), _conv(outputs, outputs)
        self.nin_shortcut = nn.Identity() if inputs == outputs else _conv(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) -> (B, outputs, h, w)."""
        y = self.conv1(F.silu(self.norm1(x)))
        return self.nin_shortcut(x) + self.conv2(F.silu(self.norm2(y)))  # type: ignore[no-any-return]


class Attention(nn.Module):
    """Self-attention of one head over all places, around a skip."""

    def __init__(self, channels: int, groups: int = 32) -> None:
        super().__init__()
        self.norm = _norm(channels, groups)
        self.q, self.k, self.v, self.proj_out = (_conv(channels, channels, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, h, w) -> the same shape."""
        y = self.norm(x)
        q, k, v = (rearrange(part(y), "b d h w -> b 1 (h w) d") for part in (self.q, self.k, self.v))
        mixed = F.scaled_dot_product_attention(q, k, v)
        return x + self.proj_out(rearrange(mixed, "b 1 (h w) d -> b d h w", h=x.shape[2]))  # type: ignore[no-any-return]


class Level(nn.Module):
    """Blocks of one resolution, then half or double of it."""

    def __init__(self, inputs: int, outputs: int, blocks: int, attends: bool, scale: str | None) -> None:
        super().__init__()
        self.res = nn.ModuleList(Residual(inputs if i == 0 else outputs, outputs) for i in range(blocks))
        self.attn = nn.ModuleList(Attention(outputs) for _ in range(blocks if attends else 0))
        self.scale = scale
        if scale is not None:
            self.add_module(
                scale, nn.ModuleDict({"conv": _conv(outputs, outputs, 3, 2 if scale == "downsample" else 1)})
            )

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) -> (B, outputs, h', w')."""
        for i, block in enumerate(self.res):
            x = block(x)
            x = self.attn[i](x) if len(self.attn) else x
        if self.scale is None:
            return x
        # The published encoder pads right and below only.
        x = F.pad(x, (0, 1, 0, 1)) if self.scale == "downsample" else F.interpolate(x, scale_factor=2.0)
        return self.get_submodule(f"{self.scale}.conv")(x)  # type: ignore[no-any-return]


class Half(nn.Module):
    """Encoder or decoder: a convolution, the levels and the middle in their order, a convolution."""

    def __init__(self, levels: list[Level], channels: list[int], decodes: bool) -> None:
        super().__init__()
        inputs, first, last, outputs = channels
        middle = first if decodes else last
        self.conv_in, self.conv_blocks = _conv(inputs, first), nn.ModuleList(levels)
        self.mid = nn.ModuleList([Residual(middle, middle), Attention(middle), Residual(middle, middle)])
        self.norm_out, self.conv_out = _norm(last), _conv(last, outputs)
        self.decodes = decodes

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) -> (B, outputs, h', w')."""
        levels, middle = list(self.conv_blocks), list(self.mid)
        x = self.conv_in(x)
        for block in middle + levels if self.decodes else levels + middle:
            x = block(x)
        return self.conv_out(F.silu(self.norm_out(x)))  # type: ignore[no-any-return]


def published_halves(
    width: int, multiples: Sequence[int], inner: int, latent: int | None = None, attends: bool = True
) -> tuple[Half, Half]:
    """Encoder, to `inner` channels, and decoder, of `latent` or as many, of VQGAN.

    With so many times the width at each resolution, and attention at the lowest one or in the middle alone.
    """
    sizes = [width * m for m in multiples]
    last = len(sizes) - 1
    down = [
        Level(a, b, RESIDUALS, attends and i == last, None if i == last else "downsample")
        for i, (a, b) in enumerate(zip([width, *sizes], sizes, strict=False))
    ]
    up = [
        Level(a, b, RESIDUALS + 1, attends and i == 0, None if i == last else "upsample")
        for i, (a, b) in enumerate(zip([sizes[-1], *reversed(sizes)], reversed(sizes), strict=False))
    ]
    encoder = Half(down, [3, width, sizes[-1], inner], decodes=False)
    return encoder, Half(up, [latent or inner, sizes[-1], sizes[0], 3], decodes=True)


class LlamaGenVQ(Learned):
    """The published VQ-16 (default) or VQ-8 (`downsample=8`); nearest of `codebook` codes of width 8 on the sphere.

    Names and shapes are those of the published state dict, but for `quantize.codebook_used`, a record of its training.
    It is filled by `radar import`, not trained here. Raises InputError for another downsampling, or a width that is no
    multiple of 32.
    """

    def __init__(self, codebook: int = 16384, width: int = 128, downsample: int = 16) -> None:
        super().__init__()
        check_codes(codebook, f"tokenizer.codebook={codebook}")
        if downsample not in MULTIPLES or width < 32 or width % 32:
            raise InputError(
                f"tokenizer llamagen_vq with width={width}, downsample={downsample} is not possible: a width that is a "
                "multiple of 32, and 8 or 16 pixels per cell expected"
            )
        self.vocabulary, self.downsample, self.channels = codebook, downsample, CODE
        self.kind = f"llamagen-vq-{codebook}-width{width}-down{downsample}"
        inner = 2 * width
        self.encoder, self.decoder = published_halves(width, MULTIPLES[downsample], inner)
        self.quantize = nn.ModuleDict({"embedding": nn.Embedding(codebook, CODE)})
        self.quant_conv, self.post_quant_conv = nn.Conv2d(inner, CODE, 1), nn.Conv2d(CODE, inner, 1)

    @property
    def codes(self) -> Tensor:
        """(V, C) on the sphere."""
        return F.normalize(self.quantize.get_parameter("embedding.weight"), dim=-1)

    def features(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) uint8 -> (B, N, C) on the sphere, before they are rounded to codes."""
        found = self.quant_conv(self.encoder(normalise(images)))
        return F.normalize(rearrange(found, "b c h w -> b (h w) c"), dim=-1)

    @in_company
    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Take the nearest code: the one of the largest product, since all have length 1."""
        return (self.features(images) @ self.codes.T).argmax(-1)

    @in_company
    @torch.no_grad()
    def latents(self, images: Tensor) -> Tensor:
        """Take what is rounded to codes."""
        return self.features(images)

    def from_latents(self, latents: Tensor, grid: tuple[int, int]) -> Tensor:
        """Round them to codes and decode these."""
        return self.decode((F.normalize(latents, dim=-1) @ self.codes.T).argmax(-1), grid)

    def restore(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Tokens (B, N) -> images (B, 3, H, W) in about [-1, 1]."""
        codes = rearrange(self.embed(tokens), "b (h w) c -> b c h w", h=grid[0])
        return self.decoder(self.post_quant_conv(codes))  # type: ignore[no-any-return]

    def embed(self, tokens: Tensor) -> Tensor:
        """Look the codes up."""
        return self.codes[tokens]

    @in_company
    @torch.no_grad()
    def decode(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Look the codes up and decode them."""
        return to_pixels(self.restore(tokens, grid))
