"""All orders side by side: sizes, neighbours decoded together, independence gap. Legend: N = h * w cells, K steps."""

from typing import NamedTuple

from torch import Tensor

from radar.config.options import OrderConfig
from radar.decoding.groups import adjacent_share, known_neighbours, sizes_text, step_sizes
from radar.decoding.orders import ORDERS, PARTICULAR, decode_steps
from radar.decoding.rings import DISTANCES
from radar.decoding.total_correlation import exponential_covariance, independence_gap


class ComparedOrder(NamedTuple):
    """An order on a grid: step map (h, w), group sizes (K), shares of adjacent pairs and known neighbours, nats."""

    title: str
    map: Tensor
    sizes: list[int]
    adjacent: float
    known: float
    early: float
    gap: float


def listed_orders(h: int, w: int, steps: int | None) -> list[tuple[str, OrderConfig]]:
    """List every order with its defaults, radial in every metric, and the scattered ones in as many steps as radial."""
    rows = [(name, OrderConfig(name=name)) for name in ORDERS if name not in PARTICULAR]
    rows += [(f"radial {metric}", OrderConfig(name="radial", metric=metric)) for metric in list(DISTANCES)[1:]]
    radial = int(decode_steps(OrderConfig(name="radial"), h, w).max()) + 1
    grouped = radial if steps is None else steps
    for name in ("random", "halton", "checkerboard", "lpd", "optimised"):
        rows.append((f"{name} cosine {grouped}", OrderConfig(name=name, steps=grouped, schedule="cosine")))
    return rows


def compare_orders(h: int, w: int, length: float = 4.0, steps: int | None = None) -> list[ComparedOrder]:
    """Compare all orders in the field exp(-r / length) + 1e-4 I; `steps` groups in the scattered ones."""
    covariance, found = exponential_covariance(h, w, length), []
    for title, order in listed_orders(h, w, steps):
        step = decode_steps(order, h, w)
        gap = float(independence_gap(step, covariance).sum())
        shares = adjacent_share(step, h, w), known_neighbours(step, h, w), known_neighbours(step, h, w, 1 / 8)
        found.append(ComparedOrder(title, step.view(h, w), step_sizes(step), *shares, gap))
    return found


def orders_table(orders: list[ComparedOrder], length: float) -> str:
    """Lay them out as text."""
    h, w = orders[0].map.shape
    lines = [
        f"{h}x{w} grid; gap: independence gap in nats of a Gaussian field, exp(-r/{length:g}) + 1e-4 I",
        f"{'order':22} {'K':>5} {'largest':>8} {'adjacent':>9} {'known':>6} {'early':>6} {'gap':>8} {'per step':>9}  "
        "sizes",
    ]
    for title, _, sizes, adjacent, known, early, gap in orders:
        lines.append(
            f"{title:22} {len(sizes):5} {max(sizes):8} {adjacent:9.0%} {known:6.0%} {early:6.0%} {gap:8.2f} "
            f"{gap / len(sizes):9.4f}  {sizes_text(sizes)}"
        )
    lines.append("largest: cells of the largest group; adjacent: share of neighbouring pairs of cells decoded together")
    lines.append(
        "known: mean share of a cell's four neighbours that are known when it is decoded; early: of the first eighth"
    )
    return "\n".join(lines) + "\n"
