"""Does the cost on paper predict the time? Each grid is predicted from what was measured on the others.

seconds = products / r1 + attention operations / r2 + bytes / r3 + passes * t, with rates of at least zero fitted to
all arms at once by least squares of the relative error [ours].
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

Row = dict[str, Any]
TERMS = ("products", "attention", "bytes", "passes")
ALLOWED = 0.25


def fit_rates(rows: Sequence[Row]) -> NDArray[np.float64]:
    """Seconds per operation of a product, of attention, per byte and per pass (4,)."""
    relative = np.array([[row["cost"][term] / row["seconds"] for term in TERMS] for row in rows], dtype=np.float64)
    scale = np.maximum(relative.max(0), 1e-300)
    return np.asarray(nnls(relative / scale, np.ones(len(rows)))[0] / scale)


def predict(row: Row, rates: NDArray[np.float64]) -> float:
    """Seconds."""
    return float(sum(rate * row["cost"][term] for rate, term in zip(rates, TERMS, strict=True)))


def check_scaling(rows: Sequence[Row]) -> str:
    """Table of measured and predicted seconds of sampling; empty with fewer than three grids.

    Measured are the shortest of the rounds: what is predicted is a machine that nobody disturbs.
    """
    rows = [row | {"seconds": row["batch"] / row["images_per_s_max"]} for row in rows if row["what"] == "sample"]
    grids = list(dict.fromkeys(row["grid"] for row in rows))
    if len(grids) < 3:
        return ""
    width = max(len(row["arm"]) for row in rows)
    lines, errors = [f"{'arm':{width}} {'grid':>6} {'batch':>5} {'seconds':>9} {'predicted':>9} {'error':>6}"], []
    for grid in grids:
        rates = fit_rates([row for row in rows if row["grid"] != grid])
        for row in [row for row in rows if row["grid"] == grid]:
            guess = predict(row, rates)
            error = guess / row["seconds"] - 1
            errors.append(error)
            lines.append(
                f"{row['arm']:{width}} {grid:>6} {row['batch']:5} {row['seconds']:9.4f} {guess:9.4f} {error:+6.0%}"
                + ("" if abs(error) <= ALLOWED else "  beyond 25%")
            )
    within, worst = sum(abs(error) <= ALLOWED for error in errors), max(errors, key=abs)
    lines.append(f"{within} of {len(errors)} within 25% of what the other grids predict; largest error {worst:+.0%}")
    return "\n".join([*lines, describe_rates(fit_rates(rows))])


def describe_rates(rates: NDArray[np.float64]) -> str:
    """Name the rates that fit all grids."""
    per_second = [f"{1e-9 / rate:.1f}" if rate > 0 else "without limit" for rate in rates[:3]]
    return "fitted to all: products {} GFLOP/s, attention {} GFLOP/s, bytes {} GB/s".format(*per_second) + (
        f", {1e3 * rates[3]:.2f} ms per pass"
    )
