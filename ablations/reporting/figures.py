"""Figures of a study: fronts of quality against cost, learning curves, importances. Colours for the colour-blind."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator, StrMethodFormatter, SymmetricalLogLocator

from ablations.reporting.columns import arm_means, column_of, featured, numbers
from ablations.reporting.statistics import LEAST_SEEDS, Correlation, by_arm, gap_correlation, interval, pareto_front
from radar.scoring.row import Row

# Okabe and Ito's palette; marks and lines repeat at another rhythm, so that every arm has its own pair.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
plt.rcParams["text.parse_math"] = False  # names are shown as they are, also with a dollar sign
MARKS = "osD^vPX*<>"
MOST_NAMES = 24  # of a legend
SIDE_STEP = 1.015  # arms of equal cost are drawn side by side
LABEL_WIDTH = 0.06  # of an axis, that a number takes
GAPS = {"gap": "the field exp(-r/4)", "gap_data": "the field of the data, per channel"}  # column -> field
LINES = ("-", "--", ":", "-.")


def _canvas() -> tuple[Figure, Axes]:
    """A figure that can still be read on a phone."""
    return plt.subplots(figsize=(5.5, 4.2))


def _legend(axis: Axes, entries: int) -> None:
    """Name the entries below the axes, unless they are the many trials of a search."""
    if entries <= MOST_NAMES:
        axis.legend(
            fontsize=8 if entries <= 16 else 6, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncol=2, frameon=False
        )


def bar(group: Sequence[Row], key: str) -> list[list[float]] | None:
    """Error bar below and above: the range over the rounds of a timing, the interval over seeds of anything else.

    None for fewer seeds than an interval needs; cut where the figure cannot be.
    """
    first = group[0]
    if f"{key}_min" in first:
        return [[first[key] - first[f"{key}_min"]], [first[f"{key}_max"] - first[key]]]
    center, half = interval(numbers(group, key))
    if not half:
        return None
    column = column_of(key)
    return [[min(half, center - column.low)], [min(half, column.high - center)]]


def single_points(axis: Axes, x: float, values: Sequence[float], colour: str) -> None:
    """Show single seeds where they are too few for an interval."""
    if 1 < len(values) < LEAST_SEEDS:
        axis.plot([x] * len(values), values, ".", color=colour, markersize=5, alpha=0.6)


def apart(positions: Sequence[float], low: float, high: float) -> list[float]:
    """Those of growing positions whose labels have room beside the last one's on a logarithmic axis."""
    room, kept = (high / low) ** LABEL_WIDTH, [positions[0]]
    for position in positions[1:]:
        if position >= room * kept[-1]:
            kept.append(position)
    return kept


def draw_front(rows: Sequence[Row], key: str, label: str, direction: str) -> Figure:
    """Draw fid against a cost per arm, bars of 95% intervals (of times: the range), and a line along the front."""
    figure, axis = _canvas()
    arms = {arm: group for arm, group in by_arm(rows).items() if numbers(group, key) and numbers(group, "fid")}
    points: dict[str, tuple[float, float]] = {}
    for number, (arm, group) in enumerate(arms.items()):
        x, y = interval(numbers(group, key)).center, interval(numbers(group, "fid")).center
        beside = sum(other == x for other, _ in points.values())
        points[arm] = (x, y)
        axis.errorbar(
            x * SIDE_STEP**beside, y, yerr=bar(group, "fid"), xerr=bar(group, key), label=arm, markersize=7,
            capsize=3, fmt=MARKS[number % len(MARKS)], color=COLOURS[number % len(COLOURS)],
        )  # fmt: skip
        single_points(axis, x * SIDE_STEP**beside, numbers(group, "fid"), COLOURS[number % len(COLOURS)])
    front = sorted(points[arm] for arm in pareto_front(points, (direction, "minimize")))
    # Between two of them, a cost that is allowed buys the cheaper, and a speed that is asked for needs the faster.
    stairs = {"minimize": "steps-post", "maximize": "steps-pre"}[direction]
    if len(front) > 1:
        axis.plot(*zip(*front, strict=True), color="0.6", linewidth=1, zorder=0, drawstyle=stairs, label="Pareto front")
    if "fid_floor" in rows[0] and rows[0].get("floor_images", rows[0]["held_out"]) == rows[0]["samples"]:
        floor = f"{rows[0]['samples']} held-out images, as many as samples"
        axis.axhline(rows[0]["fid_floor"], color="0.4", linestyle="--", linewidth=1, label=floor)
    axis.set_xscale("log")
    axis.set_xlim(0.8 * min(x for x, _ in points.values()), 1.4 * max(x for x, _ in points.values()))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.0f}" if x >= 10 else f"{x:.2g}"))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xticks(apart(sorted({x for x, _ in points.values()}), *axis.get_xlim()))  # the values themselves
    axis.tick_params(axis="x", labelsize=8)
    axis.set_xlabel(label)
    axis.set_ylabel(f"{featured('fid', rows)}, lower is better")
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)
    _legend(axis, len(arms))
    return figure


def draw_gap(rows: Sequence[Row], key: str, label: str) -> Figure | None:
    """Draw a figure against the independence gap in each field, a mark per arm; None for too few arms."""
    found = {gap: correlation for gap in GAPS if (correlation := gap_correlation(rows, gap, key)) is not None}
    if not found:
        return None
    figure, panels = plt.subplots(1, len(found), figsize=(1 + 4.5 * len(found), 4.2), sharey=True, squeeze=False)
    for axis, (gap, correlation) in zip(panels[0], found.items(), strict=True):
        _draw_arms(axis, rows, gap, key)
        axis.set_xlabel(f"independence gap (nats) in {GAPS[gap]}", fontsize=9)
        axis.set_title(correlated(*correlation), fontsize=9)
    panels[0, 0].set_ylabel(label)
    handles, names = panels[0, 0].get_legend_handles_labels()
    if len(names) <= MOST_NAMES:
        options: dict[str, Any] = {"fontsize": 8, "ncol": 2 * len(found), "frameon": False}
        figure.legend(handles, names, loc="upper center", bbox_to_anchor=(0.5, 0), **options)
    return figure


def _draw_arms(axis: Axes, rows: Sequence[Row], gap: str, key: str) -> None:
    """Draw every arm with its interval at the place on the x-axis that its gap gives it."""
    means = arm_means(rows, gap, key)
    axis.set_xscale("symlog", linthresh=0.1)
    for number, (arm, group) in enumerate(by_arm(rows).items()):
        if arm in means:
            axis.errorbar(
                means[arm][0], means[arm][1], yerr=bar(group, key), label=arm, markersize=7, capsize=3,
                fmt=MARKS[number % len(MARKS)], color=COLOURS[number % len(COLOURS)],
            )  # fmt: skip
            single_points(axis, means[arm][0], numbers(group, key), COLOURS[number % len(COLOURS)])
    low, high = axis.get_xlim()
    axis.set_xlim(left=max(-0.02, low))
    ticks = (1, 2, 5) if high > 5 * low else range(1, 10)
    axis.xaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=0.1, subs=ticks))
    axis.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.grid(alpha=0.3)


def correlated(name: str, found: Correlation) -> str:
    """Write a rank correlation over a group of arms with its interval."""
    span = f"[{found.low:.2f}, {found.high:.2f}]"
    return f"Spearman's rank correlation {found.rho:.2f} {span}, {found.arms} arms ({name})"


def draw_learning_curves(rows: Sequence[Row], key: str, label: str) -> Figure | None:
    """Draw a validated figure by optimizer step, a line per arm: the mean over seeds, and their range as a band."""
    figure, axis = _canvas()
    curves = {arm: [dict(row[key]) for row in group if row.get(key)] for arm, group in by_arm(rows).items()}
    drawn: list[list[dict[int, float]]] = []
    for number, (arm, group) in enumerate(curves.items()):
        steps = sorted({step for curve in group for step in curve})
        if steps and group not in drawn:  # arms that differ in sampling have one training
            drawn.append(group)
            style: dict[str, Any] = {
                "color": COLOURS[number % len(COLOURS)],
                "linestyle": LINES[number // len(COLOURS) % len(LINES)],
            }
            values = [[curve[step] for curve in group if step in curve] for step in steps]
            axis.plot(
                steps, [sum(v) / len(v) for v in values], label=arm, marker=MARKS[number % 10], markersize=4, **style
            )
            axis.fill_between(steps, list(map(min, values)), list(map(max, values)), alpha=0.15, color=style["color"])
    if not drawn:
        plt.close(figure)
        return None
    axis.set_xlabel("optimizer steps")
    axis.set_ylabel(label)
    axis.grid(alpha=0.3)
    _legend(axis, len(drawn))
    return figure


def draw_importances(importances: Mapping[str, Mapping[str, float]]) -> Figure | None:
    """Draw each parameter's share in the variance of each objective."""
    if not importances:
        return None
    figure, axis = _canvas()
    names = list(dict.fromkeys(name for shares in importances.values() for name in shares))
    height = 0.8 / len(importances)
    for number, (objective, shares) in enumerate(importances.items()):
        positions = [i + number * height for i in range(len(names))]
        axis.barh(positions, [shares.get(n, 0.0) for n in names], height, label=objective, color=COLOURS[number])
    axis.set_yticks([i + 0.4 - height / 2 for i in range(len(names))], names, fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel("share of the variance (fANOVA)")
    axis.set_xlim(0, 1)
    _legend(axis, len(importances))
    return figure
