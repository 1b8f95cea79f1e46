"""Means with intervals, paired comparisons against a baseline, and fronts of arms that no other arm beats."""

from collections.abc import Mapping, Sequence
from math import sqrt
from statistics import mean, stdev
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap, rankdata, spearmanr, ttest_1samp
from scipy.stats import t as student

from radar.scoring.row import Row

Values = NDArray[np.float64]
CONFIDENCE = 0.95


ROUNDING = 1e-9  # relative; what differs by less is equal
LEAST_SEEDS = 3  # values for an interval or a test: that of two is 12.7 standard errors to each side


class Interval(NamedTuple):
    """Mean and half width of its confidence interval; the half width is None for fewer than LEAST values."""

    center: float
    half: float | None


class Difference(NamedTuple):
    """Mean difference over the seeds that both have, half of its interval, p of the paired t-test, all differences.

    Half width and p are None for fewer than LEAST seeds, and p where all differences are equal.
    """

    mean: float
    half: float | None
    p: float | None
    values: tuple[float, ...]


def interval(values: Sequence[float]) -> Interval:
    """Mean with Student's 95% interval over seeds."""
    if len(values) < LEAST_SEEDS:
        return Interval(mean(values), None)
    factor = float(student.ppf((1 + CONFIDENCE) / 2, len(values) - 1))
    return Interval(mean(values), factor * stdev(values) / sqrt(len(values)))


def by_arm(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Group the rows by arm."""
    arms: dict[str, list[Row]] = {}
    for row in rows:
        arms.setdefault(row["arm"], []).append(row)
    return arms


def of_seeds(rows: Sequence[Row], key: str) -> dict[int, float]:
    """One figure by seed, where a row has it."""
    return {row["seed"]: row[key] for row in rows if row.get(key) is not None}


def difference(rows: Sequence[Row], baseline: Sequence[Row], key: str) -> Difference | None:
    """Compare an arm's rows with the baseline's, seed by seed, two-sided; None without a common seed."""
    mine, base = of_seeds(rows, key), of_seeds(baseline, key)
    return summary([mine[seed] - base[seed] for seed in mine if seed in base])


def contrast(pairs: Sequence[tuple[Sequence[Row], Sequence[Row]]], key: str) -> Difference | None:
    """Difference between two differences of arms, (a - b) - (c - d), over the seeds that all have."""
    figures = [of_seeds(rows, key) for pair in pairs for rows in pair]
    a, b, c, d = figures
    seeds = [seed for seed in a if all(seed in found for found in figures)]
    return summary([(a[seed] - b[seed]) - (c[seed] - d[seed]) for seed in seeds])


def summary(gaps: Sequence[float]) -> Difference | None:
    """Mean, interval and test against 0 of paired differences; None for none."""
    if not gaps:
        return None
    half = interval(gaps).half
    differ = half is not None and half > ROUNDING * max(map(abs, gaps))
    p = float(ttest_1samp(gaps, 0).pvalue) if differ else None
    return Difference(mean(gaps), half, p, tuple(gaps))


def holm(values: Sequence[float]) -> list[float]:
    """Correct p-values for their number, by Holm's step-down procedure."""
    found, largest = [0.0] * len(values), 0.0
    for rank, index in enumerate(sorted(range(len(values)), key=lambda i: values[i])):
        largest = max(largest, min(1.0, (len(values) - rank) * values[index]))
        found[index] = largest
    return found


class Correlation(NamedTuple):
    """Spearman's rank correlation over some arms, with the bootstrap interval over arms."""

    rho: float
    low: float
    high: float
    arms: int


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> Correlation | None:
    """Correlate the ranks of two figures, one value each per arm; None where one is constant or for under five."""
    if len(x) < 5 or len(set(x)) < 2 or len(set(y)) < 2:
        return None
    rho = float(spearmanr(x, y).statistic)

    def again(a: Values, b: Values, axis: int) -> Values:
        a, b = (rankdata(values, axis=axis) - (len(x) + 1) / 2 for values in (a, b))
        scale = np.sqrt((a * a).sum(axis) * (b * b).sum(axis))
        return np.where(scale > 0, (a * b).sum(axis) / np.where(scale > 0, scale, 1), rho)  # where one is constant

    options: dict[str, Any] = {"paired": True, "vectorized": True, "method": "percentile", "n_resamples": 2000}
    found = bootstrap((x, y), again, confidence_level=CONFIDENCE, rng=np.random.default_rng(0), **options)
    return Correlation(rho, float(found.confidence_interval.low), float(found.confidence_interval.high), len(x))


def gap_correlation(rows: Sequence[Row], gap: str, key: str) -> tuple[str, Correlation] | None:
    """Correlate the means of a figure with those of a gap, over arms of one attention, all corrected or none.

    Of the largest such group (the first, of equal ones), with its name; None if it has too few arms.
    """
    arms = by_arm([row for row in rows if row.get(gap) is not None and row.get(key) is not None])
    groups: dict[str, list[list[Row]]] = {}
    for arm in arms.values():
        corrected = ", corrected" if any(row["correction"] for row in arm) else ""
        groups.setdefault(arm[0]["variant"] + corrected, []).append(arm)
    if not groups:
        return None
    name, largest = max(groups.items(), key=lambda item: len(item[1]))
    x, y = ([mean(row[column] for row in arm) for arm in largest] for column in (gap, key))
    return None if (found := rank_correlation(x, y)) is None else (name, found)


def pareto_front(points: Mapping[str, Sequence[float]], directions: Sequence[str]) -> list[str]:
    """Names of the points that no other point equals or beats in everything and beats in something."""
    signs = [1.0 if direction == "minimize" else -1.0 for direction in directions]
    costs = {name: [s * v for s, v in zip(signs, values, strict=True)] for name, values in points.items()}

    def beats(one: Sequence[float], other: Sequence[float]) -> bool:
        return all(a <= b for a, b in zip(one, other, strict=True)) and list(one) != list(other)

    return [name for name, cost in costs.items() if not any(beats(other, cost) for other in costs.values())]
