"""Tokens of several scales: what lower ones leave of an image is coded by the next (VAR, arXiv 2404.02905).

Legend: B images, K scales of sides s, N = sum of s^2 cells, L = s_K^2 cells of the finest, C code width.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from radar.errors import InputError
from radar.tokenizers.convolutional import Convolutional, halves
from radar.tokenizers.tokenizer import Tokenizer, check_codes, in_company, to_pixels

MOST_SMOOTHERS = 4  # scales share them
COMMITMENT = 0.25  # weight of the loss by which latents come near to their codes


class Pyramid(nn.Module):
    """Residual quantisation over scales, by one codebook; a smoother follows each enlargement.

    With one scale it is the codebook alone.

    Args:
        quantiser: of the library vector-quantize-pytorch, on (B, cells, C).
        sides: s of each scale, growing.
        code: C.
    """

    def __init__(self, quantiser: nn.Module, sides: Sequence[int], code: int) -> None:
        super().__init__()
        self.quantiser: Any = quantiser
        self.sides, self.code = list(sides), code
        count = min(MOST_SMOOTHERS, len(sides)) if len(sides) > 1 else 0
        self.smoothers = nn.ModuleList(nn.Conv2d(code, code, 3, padding=1) for _ in range(count))

    @property
    def cells(self) -> int:
        """N."""
        return sum(side**2 for side in self.sides)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Latents (B, L, C) -> what the codes give of them, tokens (B, N), loss: as a quantiser of the library.

        In training the codebook moves by all scales at once.
        """
        x = rearrange(x, "b (h w) c -> b c h w", h=self.sides[-1])
        if self.training and not self.quantiser._codebook.initted:
            self.quantiser(_flat(x.detach()))
        total, wanted, tokens, losses = torch.zeros_like(x), [], [], []
        for k, side in enumerate(self.sides):
            rest = x.detach() - total.detach()
            wanted.append(_flat(F.interpolate(rest, (side, side), mode="area")))
            tokens.append(self.quantiser(wanted[-1], freeze_codebook=True)[1])
            total = total + self.enlarged(tokens[-1], k)
            near = COMMITMENT * F.mse_loss(x, total.detach())
            losses.append(near + F.mse_loss(total, x.detach()) if self.smoothers else near)
        if self.training:
            self.quantiser(torch.cat(wanted, 1))
        return _flat(x + (total - x).detach()), torch.cat(tokens, 1), torch.stack(losses).mean()

    def enlarged(self, tokens: Tensor, k: int) -> Tensor:
        """What tokens (B, s^2) of scale k add to the latents (B, C, s_K, s_K)."""
        codes = rearrange(self.quantiser.get_output_from_indices(tokens), "b (h w) c -> b c h w", h=self.sides[k])
        if not self.smoothers:
            return codes  # type: ignore[no-any-return]
        codes = F.interpolate(codes, (self.sides[-1], self.sides[-1]), mode="bicubic")
        return 0.5 * codes + 0.5 * self._smoother(k)(codes)  # type: ignore[no-any-return]

    def _smoother(self, k: int) -> nn.Module:
        """That whose place is nearest to k / (K - 1), of as many places evenly spread."""
        count, at = len(self.smoothers), k / (len(self.sides) - 1)
        places = np.linspace(1 / (3 * count), 1 - 1 / (3 * count), count)
        return self.smoothers[int(np.abs(places - at).argmin())]

    def get_output_from_indices(self, tokens: Tensor) -> Tensor:
        """Codes (B, N, C) of tokens (B, N), as a quantiser of the library."""
        return self.quantiser.get_output_from_indices(tokens)  # type: ignore[no-any-return]

    def sums(self, tokens: Tensor) -> Iterator[Tensor]:
        """Latents (B, C, s_K, s_K) by the tokens (B, N) of no scale, of the first, of the first two, and so on."""
        parts = tokens.split([side**2 for side in self.sides], 1)
        total = torch.zeros_like(self.enlarged(parts[0], 0))
        yield total
        for k, part in enumerate(parts):
            yield (total := total + self.enlarged(part, k))

    @in_company
    @torch.no_grad()
    def features(self, tokens: Tensor, cells: int | None = None) -> Tensor:
        """What is known of each cell before its own scale is decoded (B, N, C), by the tokens (B, N) of lower ones.

        Of the first `cells`, or of all.
        """
        found: list[Tensor] = []
        for side, known in zip(self.sides, self.sums(tokens), strict=False):
            found.append(_flat(F.interpolate(known, (side, side), mode="area")))
            if cells is not None and sum(part.shape[1] for part in found) >= cells:
                break
        return torch.cat(found, 1)


class Multiscale(Convolutional):
    """Convolutional encoder and decoder around a pyramid of scales."""

    flat = False
    quantiser: Pyramid

    @property
    def reader(self) -> Pyramid:
        """The scales."""
        return self.quantiser

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """One row of the cells of all scales; raises InputError where the finest scale is not that of the image."""
        cells = super().grid(size)
        if cells != (self.quantiser.sides[-1],) * 2:
            raise InputError(
                f"tokenizer.sides must end with the cells of an image: {size[0]}x{size[1]} pixels are "
                f"{cells[0]}x{cells[1]} cells, and the sides are {self.quantiser.sides}"
            )
        return 1, self.quantiser.cells

    def decode(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Add all scales up and decode them."""
        return self._decoded(tokens, len(self.quantiser.sides))

    @in_company
    @torch.no_grad()
    def _decoded(self, tokens: Tensor, scales: int) -> Tensor:
        """Images (B, 3, H, W) of so many scales, the lowest."""
        return to_pixels(self.decoder(next(islice(self.quantiser.sums(tokens), scales, None))))

    def decode_known(self, tokens: Tensor, known: Tensor, grid: tuple[int, int]) -> Tensor:
        """Add up the scales that are known in all images."""
        scales = known.all(0).split([side**2 for side in self.quantiser.sides])
        return self._decoded(tokens, sum(bool(scale.all()) for scale in scales))


def multiscale(
    codebook: int = 256,
    width: int = 64,
    downsample: int = 4,
    sides: Sequence[int] = (1, 2, 3, 4, 5, 7, 8),
    attention: bool = False,
) -> Tokenizer:
    """VAR's tokenizer (arXiv 2404.02905) on our convolutions: codes of width 8, moved by exponential averages.

    The default sides are those of VAR in proportion, for 8x8 cells. Raises InputError for sides that do not grow.
    """
    from vector_quantize_pytorch import VectorQuantize  # takes a second, which most commands need not wait for

    check_codes(codebook, f"tokenizer.codebook={codebook}")
    check_sides(sides)
    quantiser = VectorQuantize(dim=8, codebook_size=codebook, decay=0.99, kmeans_init=True, threshold_ema_dead_code=1)
    kind = f"multiscale-{codebook}-{'-'.join(map(str, sides))}"
    return Multiscale(kind, Pyramid(quantiser, sides, 8), codebook, halves(8, width, downsample, attention))


def check_sides(sides: Sequence[int]) -> None:
    """Refuse sides that do not grow; raises InputError."""
    if len(sides) < 2 or sides[0] < 1 or list(sides) != sorted(set(sides)):
        raise InputError(f"tokenizer.sides={list(sides)} is not possible: two at least, growing, from at least 1")


def _flat(x: Tensor) -> Tensor:
    return rearrange(x, "b c h w -> b (h w) c")
