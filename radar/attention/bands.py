"""Masked attention that leaves out what no query of a band of rows sees: block-sparse attention from SDPA alone.

SDPA computes all pairs that a dense mask names, also where most are hidden: at 16x16 cells a row of `nested` sees a
ninth of the slots. Legend: B images, H heads, S slots, E head width.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from radar.errors import InputError

WORTH = 0.7  # largest share of all pairs that is left: above, cutting costs what it saves
ROWS = (64, 128)  # of a band below LONG slots and from there on: what was fastest on an AMD EPYC
LONG = 1024


class Bands(NamedTuple):
    """A mask (S, S) by bands of `rows` slots each, of which the last may have fewer.

    Attributes:
        columns: of each band, the slots that at least one of its rows sees; a slice where they lie together.
        masks: of each band, (rows, columns) which of them.
    """

    rows: int
    columns: tuple[Tensor | slice, ...]
    masks: tuple[Tensor, ...]

    @property
    def pairs(self) -> int:
        """How many pairs of slots are computed."""
        return sum(mask.numel() for mask in self.masks)


def cut(mask: Tensor, rows: int) -> Bands:
    """Cut a dense mask (S, S), in which every row sees something, into bands of so many rows."""
    parts = mask.split(rows)
    columns = tuple(_together(part.any(0).nonzero().flatten()) for part in parts)
    return Bands(rows, columns, tuple(part[:, seen] for part, seen in zip(parts, columns, strict=True)))


def _together(columns: Tensor) -> Tensor | slice:
    if not len(columns):
        raise InputError("an attention hides every slot from some: each must see itself")
    first, last = int(columns[0]), int(columns[-1])
    return slice(first, last + 1) if last - first + 1 == len(columns) else columns


def banded(mask: Tensor) -> Bands | Tensor:
    """A dense mask (S, S) in bands; the mask itself where that saves too little."""
    bands = cut(mask, ROWS[len(mask) >= LONG])
    return bands if bands.pairs <= WORTH * mask.numel() else mask


def attend_in_bands(q: Tensor, k: Tensor, v: Tensor, bands: Bands) -> Tensor:
    """Scaled dot-product attention (B, H, S, E), band by band."""
    if _alike(q, k, v) and torch.is_grad_enabled() and not torch.compiler.is_compiling():
        return _InBands.apply(q, k, v, bands)  # type: ignore[no-any-return, no-untyped-call]
    mixed = [
        F.scaled_dot_product_attention(q[:, :, rows], _taken(k, seen), _taken(v, seen), attn_mask=mask)
        for rows, seen, mask in _parts(bands)
    ]
    return torch.cat(mixed, 2)


def _alike(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether they lie as PyTorch's kernel for CPUs takes them, which looks at nothing itself."""
    plain = all(x.device.type == "cpu" and x.dtype == q.dtype and x.stride(-1) == 1 for x in (q, k, v))
    low = torch.is_autocast_enabled("cpu") and q.dtype != torch.get_autocast_dtype("cpu")
    return plain and q.shape[-1] == v.shape[-1] and not low


class _InBands(torch.autograd.Function):
    """The same on a CPU, with gradients added up in place: by itself PyTorch makes whole ones for every band."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bands: Bands) -> Tensor:
        out = torch.empty_like(q.transpose(1, 2), memory_format=torch.contiguous_format).transpose(1, 2)
        logarithms = []
        for rows, seen, mask in _parts(bands):
            out[:, :, rows], sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                q[:, :, rows], _taken(k, seen), _taken(v, seen), attn_mask=_bias(mask, q.dtype)
            )
            logarithms.append(sums)
        ctx.save_for_backward(q, k, v, out, *logarithms)
        ctx.bands = bands
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        q, k, v, out, *logarithms = ctx.saved_tensors
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for (rows, seen, mask), sums in zip(_parts(ctx.bands), logarithms, strict=True):
            dq[:, :, rows], of_k, of_v = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
                grad[:, :, rows], q[:, :, rows], _taken(k, seen), _taken(v, seen), out[:, :, rows], sums,
                0.0, False, attn_mask=_bias(mask, q.dtype),
            )  # fmt: skip
            _add(dk, seen, of_k)
            _add(dv, seen, of_v)
        return dq, dk, dv, None


def _parts(bands: Bands) -> Iterator[tuple[slice, Tensor | slice, Tensor]]:
    """Of each band its rows, its columns and its mask."""
    for number, (seen, mask) in enumerate(zip(bands.columns, bands.masks, strict=True)):
        yield slice(number * bands.rows, number * bands.rows + len(mask)), seen, mask


def _taken(x: Tensor, seen: Tensor | slice) -> Tensor:
    return x[:, :, seen] if isinstance(seen, slice) else x.index_select(2, seen)


def _add(x: Tensor, seen: Tensor | slice, more: Tensor) -> None:
    if isinstance(seen, slice):
        x[:, :, seen] += more
    else:
        x.index_add_(2, seen, more)


def _bias(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to scores: 0, or minus infinity where a slot is hidden."""
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, float("-inf"))
