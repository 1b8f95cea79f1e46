"""What a training step computes and holds, from its operations on tensors without memory (PyTorch's fake tensors).

Legend: B images, S slots, H heads, E head width.
"""

import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any

from torch import Tensor, ops
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

PRODUCT, ATTENTION, OTHER = "product", "attention", "other"
IGNORED = "prim"  # namespace of questions such as where a tensor lies


def _forward(q: Tensor, k: Tensor, v: Tensor, *others: Any, **named: Any) -> int:
    return sdpa_flop_count(q.shape, k.shape, v.shape)  # type: ignore[no-any-return]


def _backward(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *others: Any, **named: Any) -> int:
    return sdpa_backward_flop_count(grad.shape, q.shape, k.shape, v.shape)  # type: ignore[no-any-return]


# Attention of a CPU, which PyTorch's counter does not know.
ATTENTIONS: dict[Any, Callable[..., int]] = {
    ops.aten._scaled_dot_product_flash_attention_for_cpu: _forward,
    ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _backward,
}


class Ledger(TorchDispatchMode):
    """Counts, while it is active, operations and bytes by kind, and the bytes of the tensors that are alive.

    Attributes:
        flops, bytes: by PRODUCT, ATTENTION and OTHER; bytes that operations read and write.
        live, peak: bytes of all tensors that were made meanwhile, or given to `track`: now, and at most.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops, self.bytes = Counter[str](), Counter[str]()
        self.live = self.peak = 0
        self._known: dict[int, int] = {}  # bytes by storage

    def track(self, tensor: Tensor) -> None:
        """Count a tensor as alive until it is freed."""
        storage = tensor.untyped_storage()
        if (key := storage._cdata) in self._known:
            return
        self._known[key] = storage.nbytes()
        self.live += self._known[key]
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._free, key)

    def shrink(self, tensor: Tensor, share: int) -> None:
        """Count a tensor as one of `share` parts from here on: the others are on other devices."""
        key = tensor.untyped_storage()._cdata
        part = self._known[key] // share
        self.live += part - self._known[key]
        self._known[key] = part

    def settle(self) -> None:
        """Count no more: what is freed from here on stays in the books."""
        self._known.clear()

    def _free(self, key: int) -> None:
        self.live -= self._known.pop(key, 0)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do one operation and write down what it takes."""
        named = kwargs or {}
        out = func(*args, **named)
        outputs = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        for tensor in outputs:
            self.track(tensor)
        if func.namespace == IGNORED or func.is_view:
            return out
        packet, kind = func._overloadpacket, OTHER
        if packet in ATTENTIONS:
            kind = ATTENTION
            self.flops[kind] += ATTENTIONS[packet](*args, **named)
        elif packet in flop_registry:
            kind = ATTENTION if "attention" in packet.__name__ else PRODUCT
            self.flops[kind] += flop_registry[packet](*args, **named, out_val=out)
        inputs = [leaf for leaf in tree_leaves((args, named)) if isinstance(leaf, Tensor)]
        self.bytes[kind] += sum(tensor.numel() * tensor.element_size() for tensor in inputs + outputs)
        return out
