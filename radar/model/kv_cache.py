"""Keys and values of earlier passes, in one buffer that never grows.

Legend: B images, S slots, L layers, H heads, E head width, D = H E width.
"""

from contextlib import nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from radar.kernels.build import kernels

# For passes of one slot each: cuDNN plans every number of slots anew, 10 s for 16x16 cells (H200). With masks, that is
# with few and larger passes, it stays.
UNPLANNED = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


@dataclass
class Cache:
    """What a pass reads and writes.

    Attributes:
        buffer: (L, 2, B, H, most slots, E).
        start: () int64 on the CPU, slots of earlier passes; this pass is written behind them.
    """

    buffer: Tensor
    start: Tensor

    def rewind(self, slots: int) -> None:
        """Keep the first so many slots."""
        self.start.fill_(slots)


def empty_cache(
    layers: int, batch: int, heads: int, slots: int, width: int, device: torch.device, dtype: torch.dtype
) -> Cache:
    """Room for `slots` slots."""
    buffer = torch.empty(layers, 2, batch, heads, slots, width, device=device, dtype=dtype)
    return Cache(buffer, torch.tensor(0))


def extend(buffer: Tensor, start: int, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Write k and v (B, H, S, E) of one layer at `start`; return all up to their end, as views of the buffer."""
    end = start + k.shape[2]
    buffer[layer, 0, :, :, start:end] = k
    buffer[layer, 1, :, :, start:end] = v
    return buffer[layer, 0, :, :, :end], buffer[layer, 1, :, :, :end]


def cached_attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, buffer: Tensor, start: Tensor, layer: int
) -> Tensor:
    """Attention (B, S, D) of q (B, H, S, E) over the cache, once k and v are added; mask (S, cached + S) or None."""
    if torch.compiler.is_compiling():
        return torch.ops.radar.cached_attention(q, k, v, mask, buffer, start, layer)  # type: ignore[no-any-return]
    return _attend(q, k, v, mask, buffer, start, layer)


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, buffer: Tensor, start: Tensor, layer: int) -> Tensor:
    keys, values = extend(buffer, int(start), layer, k, v)
    own = kernels() if q.dtype == buffer.dtype and _is_one_query(q, mask) else None
    if own is not None:
        return own.attention(q, keys, values)
    with sdpa_kernel(UNPLANNED) if q.is_cuda and mask is None else nullcontext():
        mixed = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)
    return mixed.transpose(1, 2).contiguous().flatten(2)


def _is_one_query(q: Tensor, mask: Tensor | None) -> bool:
    """Whether our own kernel can do it: one query that sees all."""
    exact = q.dtype == torch.float32 and q.device.type == "cpu" and not torch.is_grad_enabled()
    return exact and q.shape[2] == 1 and mask is None


# The compiler takes this as one operation; by itself it would copy the buffer for every slice that is written.
_NAME = "radar::cached_attention"
torch.library.define(
    _NAME, "(Tensor q, Tensor k, Tensor v, Tensor? mask, Tensor(a!) buffer, Tensor start, int layer) -> Tensor"
)
torch.library.impl(_NAME, ("cpu", "cuda"), _attend)


def _fake(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, buffer: Tensor, start: Tensor, layer: int) -> Tensor:
    return q.new_empty(q.shape[0], q.shape[2], q.shape[1] * q.shape[3])


torch.library.register_fake(_NAME, _fake)
