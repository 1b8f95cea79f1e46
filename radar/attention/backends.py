"""How packed training attends; sampling always uses the dense mask, what is scored on a CPU bands.

Legend: B images, H heads, S slots, E head width.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from radar.attention.bands import Bands, attend_in_bands, banded
from radar.attention.slots import Slots

Mask = Tensor | BlockMask | Bands


def _sdpa(slots: Slots, device: torch.device) -> Mask:
    return slots.mask().to(device)


def _bands(slots: Slots, device: torch.device) -> Mask:
    return banded(slots.mask().to(device))


def _flex(slots: Slots, device: torch.device) -> Mask:
    return slots.block_mask(device)


def _auto(slots: Slots, device: torch.device) -> Mask:
    return _flex(slots, device) if device.type == "cuda" else _bands(slots, device)


BACKENDS: dict[str, Callable[[Slots, torch.device], Mask]] = {
    "sdpa": _sdpa,
    "bands": _bands,
    "flex": _flex,
    "auto": _auto,
}


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Mask | None) -> Tensor:
    """Scaled dot-product attention (B, H, S, E): FlexAttention for a block mask, SDPA for a dense one, bands or none.

    FlexAttention has no backward pass on CPU.
    """
    if isinstance(mask, BlockMask):
        flex = flex_attention if torch.compiler.is_compiling() else _compiled_flex()
        return flex(q, k, v, block_mask=mask)  # type: ignore[no-any-return]
    if isinstance(mask, Bands):
        return attend_in_bands(q, k, v, mask)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


@cache
def _compiled_flex() -> Any:
    return torch.compile(flex_attention, dynamic=False)
