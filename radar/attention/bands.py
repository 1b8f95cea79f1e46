"""Masked attention that leaves out what no query of a band of rows sees: block-sparse attention from SDPA alone.

SDPA computes all pairs that a dense mask names, also where most are hidden: at 16x16 cells a row of `nested` sees a
ninth of the slots. Legend: B images, H heads, S slots, E head width.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

WORTH = 0.7  # largest share of all pairs that is left: above, cutting costs what it saves
ROWS = (64, 128)  # of a band below LONG slots and from there on: what was fastest on an AMD EPYC
LONG = 1024


class Bands(NamedTuple):
    """A mask (S, S) by bands of `rows` slots each, of which the last may have fewer.

    Attributes:
        columns: of each band, the slots that at least one of its rows sees.
        masks: of each band, (rows, columns) which of them.
    """

    rows: int
    columns: tuple[Tensor, ...]
    masks: tuple[Tensor, ...]

    @property
    def pairs(self) -> int:
        """How many pairs of slots are computed."""
        return sum(mask.numel() for mask in self.masks)


def cut(mask: Tensor, rows: int) -> Bands:
    """Cut a dense mask (S, S), in which every row sees something, into bands of so many rows."""
    parts = mask.split(rows)
    columns = tuple(part.any(0).nonzero().flatten() for part in parts)
    return Bands(rows, columns, tuple(part[:, seen] for part, seen in zip(parts, columns, strict=True)))


def banded(mask: Tensor) -> Bands | Tensor:
    """A dense mask (S, S) in bands; the mask itself where that saves too little."""
    bands = cut(mask, ROWS[len(mask) >= LONG])
    return bands if bands.pairs <= WORTH * mask.numel() else mask


def attend_in_bands(q: Tensor, k: Tensor, v: Tensor, bands: Bands) -> Tensor:
    """Scaled dot-product attention (B, H, S, E), band by band."""
    mixed = [
        F.scaled_dot_product_attention(part, k.index_select(2, seen), v.index_select(2, seen), attn_mask=mask)
        for part, seen, mask in zip(q.split(bands.rows, 2), bands.columns, bands.masks, strict=True)
    ]
    return torch.cat(mixed, 2)
