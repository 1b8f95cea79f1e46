"""Means with intervals, paired comparisons against a baseline, and fronts of arms that no other arm beats."""

from collections.abc import Mapping, Sequence
from math import sqrt
from statistics import mean, stdev
from typing import Any, NamedTuple

from scipy.stats import t as student
from scipy.stats import ttest_rel

Row = Mapping[str, Any]
CONFIDENCE = 0.95


class Interval(NamedTuple):
    """Mean and half width of its confidence interval; the half width is None for a single value."""

    center: float
    half: float | None


class Difference(NamedTuple):
    """Mean difference to the baseline over the seeds that both have, and the p-value of the paired t-test."""

    mean: float
    p: float | None
    pairs: int


def interval(values: Sequence[float]) -> Interval:
    """Mean with Student's 95% interval over seeds."""
    if len(values) < 2:
        return Interval(mean(values), None)
    factor = float(student.ppf((1 + CONFIDENCE) / 2, len(values) - 1))
    return Interval(mean(values), factor * stdev(values) / sqrt(len(values)))


def difference(rows: Sequence[Row], baseline: Sequence[Row], key: str) -> Difference | None:
    """Compare an arm's rows with the baseline's, seed by seed, two-sided; None without a common seed."""
    base = {row["seed"]: row[key] for row in baseline if key in row}
    pairs = [(row[key], base[row["seed"]]) for row in rows if key in row and row["seed"] in base]
    if not pairs:
        return None
    gaps = [mine - theirs for mine, theirs in pairs]
    if len(pairs) < 2 or stdev(gaps) == 0:
        return Difference(mean(gaps), None, len(pairs))
    return Difference(mean(gaps), float(ttest_rel(*zip(*pairs, strict=True)).pvalue), len(pairs))


def pareto_front(points: Mapping[str, Sequence[float]], directions: Sequence[str]) -> list[str]:
    """Names of the points that no other point equals or beats in everything and beats in something."""
    signs = [1.0 if direction == "minimize" else -1.0 for direction in directions]
    costs = {name: [s * v for s, v in zip(signs, values, strict=True)] for name, values in points.items()}

    def beats(one: Sequence[float], other: Sequence[float]) -> bool:
        return all(a <= b for a, b in zip(one, other, strict=True)) and list(one) != list(other)

    return [name for name, cost in costs.items() if not any(beats(other, cost) for other in costs.values())]
