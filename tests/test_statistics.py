"""Rank correlations, and what a report says of the independence gap."""

import pytest

from ablations.reporting.columns import arm_means
from ablations.reporting.figures import draw_gap
from ablations.reporting.results import gap_notes
from ablations.reporting.statistics import rank_correlation


def row(arm: str, seed: int, gap: float | None, fid: float, nll: float | None, variant="plain") -> dict[str, object]:
    data = None if gap is None else gap % 4
    return {
        "arm": arm,
        "seed": seed,
        "gap": gap,
        "gap_data": data,
        "fid": fid,
        "nll": nll,
        "variant": variant,
        "correction": 0.0,
        "fid_feature": "cnn:0",
    }


ROWS = [
    row(f"arm {i}", seed, float(i), 1.0 + i + 0.1 * seed, 90.0 - i) for i in range(6) for seed in (0, 1)
] + [row("found", 0, None, 0.1, None), row("no nll", 0, 9.0, 20.0, None)]  # fmt: skip


def test_rank_correlation():
    rising = rank_correlation([1, 2, 3, 4, 5, 6], [1, 4, 9, 16, 25, 36])
    assert tuple(rising) == pytest.approx((1, 1, 1, 6))
    falling = rank_correlation([1, 2, 3, 4, 5, 6, 7], [7, 5, 6, 4, 3, 1, 2])
    assert falling.rho < -0.9 and -1 <= falling.low <= falling.rho <= falling.high < 0
    assert falling == rank_correlation([1, 2, 3, 4, 5, 6, 7], [7, 5, 6, 4, 3, 1, 2]), "the same every time"
    assert rank_correlation([1, 2, 3, 4], [1, 2, 3, 4]) is None, "four are in order by chance too often"
    assert rank_correlation([1] * 5, [1, 2, 3, 4, 5]) is None


def test_arms_without_a_gap_or_nll_are_left_out():
    means = arm_means(ROWS, "gap", "fid")
    assert means["arm 2"] == pytest.approx((2.0, 3.05)) and "found" not in means and len(means) == 7
    assert set(arm_means(ROWS, "gap", "nll")) == {f"arm {i}" for i in range(6)}
    fid, nll, *others = gap_notes(ROWS)
    assert len(others) == 2 and all("in the field of the data" in note for note in others)
    assert "rank correlation 1.00 [1.00, 1.00], 7 arms" in fid and "rank correlation -1.00" in nll
    other = [row(f"nested {i}", 0, float(i), -float(i), None, "nested") for i in range(5)]
    assert gap_notes(ROWS + other)[0] == fid, "arms of another attention are not mixed in"
    assert len(draw_gap(ROWS, "nll", "NLL").axes) == 2
    assert len(draw_gap([{**r, "gap_data": None} for r in ROWS], "nll", "NLL").axes) == 1
    assert draw_gap(ROWS[:4], "nll", "NLL") is None and gap_notes(ROWS[:4]) == []
