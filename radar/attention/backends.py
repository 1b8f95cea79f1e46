"""How packed training attends; sampling and short sequences always use the dense mask.

Legend: B images, H heads, S slots, E head width.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from radar.attention.slots import Slots


def _dense(slots: Slots, device: torch.device) -> Tensor | BlockMask:
    return slots.mask().to(device)


def _flex(slots: Slots, device: torch.device) -> Tensor | BlockMask:
    return slots.block_mask(device)


def _auto(slots: Slots, device: torch.device) -> Tensor | BlockMask:
    return _flex(slots, device) if device.type == "cuda" else _dense(slots, device)


BACKENDS: dict[str, Callable[[Slots, torch.device], Tensor | BlockMask]] = {
    "sdpa": _dense,
    "flex": _flex,
    "auto": _auto,
}


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | BlockMask | None) -> Tensor:
    """Scaled dot-product attention (B, H, S, E): FlexAttention for a block mask, SDPA for a dense one or none.

    FlexAttention has no backward pass on CPU.
    """
    if isinstance(mask, BlockMask):
        flex = flex_attention if torch.compiler.is_compiling() else _compiled_flex()
        return flex(q, k, v, block_mask=mask)  # type: ignore[no-any-return]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


@cache
def _compiled_flex() -> Any:
    return torch.compile(flex_attention, dynamic=False)
