"""What the explorer's page shows, as plain values: steps, gaps, slots and who sees whom.

Slots of one group, kind and pass that see and are seen alike are one *block*; where a rule tells cells of a group
apart, every slot is a block of its own. Legend: N cells, K steps, G blocks.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from radar.attention import VARIANTS, Slots
from radar.config.lookup import takes
from radar.config.options import OrderConfig
from radar.decoding.groups import step_sizes
from radar.decoding.orders import ORDERS, PARTICULAR, decode_steps
from radar.decoding.total_correlation import exponential_covariance, independence_gap
from radar.errors import InputError
from radar.progress import Bar

MOST_SLOTS, MOST_BLOCKS = 4000, 400  # of a layout: above, the page would grow too large
SCHEDULES = ("cosine", "constant")

Grid = tuple[int, int]


def explored(grids: Sequence[Grid], steps: Sequence[int]) -> dict[str, Any]:
    """All orders on the grids: in their natural groups, and in so many steps; all variants of each."""
    return {"grids": {f"{h}x{w}": _of_grid(h, w, steps) for h, w in grids}}


def _of_grid(h: int, w: int, steps: Sequence[int]) -> dict[str, Any]:
    layouts: dict[str, dict[str, Any]] = {}
    orders: dict[str, list[dict[str, Any]]] = {}
    covariance = exponential_covariance(h, w)
    names = [name for name in ORDERS if name not in PARTICULAR]
    for name in Bar(names, f"orders of {h}x{w}"):
        orders[name] = []
        for label, order in _cuts(name, [k for k in steps if k <= h * w]):
            step = decode_steps(order, h, w)
            key = ",".join(map(str, step_sizes(step)))
            if key not in layouts:
                layouts[key] = layouts_of(step_sizes(step))
            if not layouts[key]:
                continue  # too large under every variant
            gaps = [round(float(value), 4) for value in independence_gap(step, covariance)]
            orders[name].append({"label": label, "step": step.tolist(), "gap": gaps, "layout": key})
    shown = {name: cuts for name, cuts in orders.items() if cuts}
    if not shown:
        raise InputError(f"--grids {h}x{w} is too large to show with these --steps; choose fewer cells or fewer steps")
    return {"h": h, "w": w, "orders": shown, "layouts": layouts}


def _cuts(name: str, steps: Sequence[int]) -> list[tuple[str, OrderConfig]]:
    made_for_sizes = takes(name, ORDERS, "sizes")
    natural = [] if made_for_sizes else [("natural", OrderConfig(name=name))]
    schedules = SCHEDULES[:1] if made_for_sizes else SCHEDULES
    cut = [(f"{k} {how}", OrderConfig(name=name, steps=k, schedule=how)) for how in schedules for k in steps]
    return natural + cut


def layouts_of(sizes: list[int]) -> dict[str, Any]:
    """Blocks of every variant that takes groups of such sizes, and is not too large to show."""
    found = {}
    for name, variant in VARIANTS.items():
        try:
            slots = variant(sizes)
        except InputError:
            continue
        if len(slots) <= MOST_SLOTS and (blocks := blocks_of(slots)) is not None:
            found[name] = blocks
    return found


def blocks_of(slots: Slots) -> dict[str, Any] | None:
    """Blocks: step, kind, group, pass, first rank and number of ranks, whether they predict again; rows of who is seen.

    A row has a hex digit for four blocks. None for too many.
    """
    same = torch.stack([slots.step, slots.is_token.long(), slots.group, slots.in_pass])
    number = same.unique(dim=1, return_inverse=True)[1]
    mask = slots.mask()
    seen = _by_block(mask, number)
    if seen is None:
        number, seen = torch.arange(len(slots)), mask
    if len(seen) > MOST_BLOCKS:
        return None
    firsts = [int(torch.nonzero(number == block)[0]) for block in range(len(seen))]
    rows = []
    for block, first in enumerate(firsts):
        kind = "class" if slots.rank[first] < 0 else "token" if slots.is_token[first] else "query"
        ranks = slots.rank[number == block]
        place = [int(slots.step[first]), kind, int(slots.group[first]), int(slots.in_pass[first])]
        rows.append([*place, int(ranks.min()), len(ranks), int(slots.revises[first])])
    return {"slots": len(slots), "pairs": int(mask.sum()), "blocks": rows, "sees": [_hex(row) for row in seen]}


def _by_block(mask: Tensor, number: Tensor) -> Tensor | None:
    """(G, G) bool, if all slots of a block see, and are seen by, the same; otherwise None."""
    count = int(number.max()) + 1
    belongs = torch.nn.functional.one_hot(number, count).float()
    pairs = belongs.T @ mask.float() @ belongs
    size = belongs.sum(0)
    whole = size[:, None] * size[None]
    return pairs > 0 if bool(((pairs == 0) | (pairs == whole)).all()) else None


def _hex(row: Tensor) -> str:
    bits = "".join("1" if bit else "0" for bit in row.tolist())
    bits += "0" * (-len(bits) % 4)
    return "".join(f"{int(bits[n : n + 4], 2):x}" for n in range(0, len(bits), 4))
