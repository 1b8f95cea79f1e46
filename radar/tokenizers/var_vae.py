"""VAR's own tokenizer (arXiv 2404.02905): VQGAN's convolutions around a pyramid of scales, read from published weights.

Legend: B images, n cells of a scale, V codes, C code width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from radar.errors import InputError
from radar.tokenizers.convolutional import Halves
from radar.tokenizers.llamagen import MULTIPLES, published_halves
from radar.tokenizers.multiscale import Multiscale, Pyramid, check_sides
from radar.tokenizers.tokenizer import check_codes

CODE = 32  # width of a code
SIDES = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)  # of the scales, for 256x256 pixels


class Nearest(nn.Module):
    """The nearest of V codes, which do not move."""

    def __init__(self, codebook: int, width: int) -> None:
        super().__init__()
        self.codes = nn.Embedding(codebook, width)

    def forward(self, x: Tensor, freeze_codebook: bool = True) -> tuple[Tensor, Tensor, Tensor]:
        """(B, n, C) -> codes (B, n, C), tokens (B, n), no loss: as a quantiser of the library."""
        tokens = torch.stack([torch.cdist(image, self.codes.weight).argmin(-1) for image in x])
        return self.codes(tokens), tokens, x.new_zeros(())

    def get_output_from_indices(self, tokens: Tensor) -> Tensor:
        """Codes (B, n, C) of tokens (B, n)."""
        return self.codes(tokens)  # type: ignore[no-any-return]


def var_vae(codebook: int = 4096, width: int = 160, sides: Sequence[int] = SIDES) -> Multiscale:
    """16 pixels per cell and side, codes of width 32; filled by `radar import var-vae`, not trained here.

    Raises InputError for a width that is no multiple of 32, and sides that do not grow.
    """
    check_codes(codebook, f"tokenizer.codebook={codebook}")
    check_sides(sides)
    if width < 32 or width % 32:
        raise InputError(f"tokenizer.width={width} is not possible: a multiple of 32 expected")
    encoder, decoder = published_halves(width, MULTIPLES[16], CODE)
    around = [nn.Conv2d(CODE, CODE, 3, padding=1) for _ in range(2)]
    back = nn.Sequential(around[1], decoder)
    both = Halves(nn.Sequential(encoder, around[0]), back, CODE, 16, f"width{width}-down16")
    kind = f"var-vae-{codebook}-{'-'.join(map(str, sides))}"
    tokenizer = Multiscale(kind, Pyramid(Nearest(codebook, CODE), sides, CODE), codebook, both)
    tokenizer.trained_here = False
    return tokenizer
