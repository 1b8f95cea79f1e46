"""The table of a study as text, Markdown, CSV and LaTeX: one line per arm, mean and 95% interval over seeds."""

import csv
import json
from collections.abc import Sequence
from io import StringIO
from math import inf
from typing import NamedTuple

from ablations.reporting.statistics import Difference, by_arm, difference, holm, interval
from radar.decoding.orders import sizes_text
from radar.scoring.row import Row


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        key, title, digits: name in the rows, and how it is shown.
        featured: whether its figure depends on the feature network.
        low, high: what it cannot be below or above.
        listed: whether its values are a choice, which is listed and not averaged.
    """

    key: str
    title: str
    digits: int
    featured: bool = False
    low: float = -inf
    high: float = inf
    listed: bool = False


def _share(key: str, title: str = "") -> Column:
    return Column(key, title or key, 3, low=0, high=1)


COLUMNS = (
    Column("steps", "steps", 0), Column("group_sizes", "group sizes", 0, listed=True), Column("gap", "gap (nats)", 2),
    Column("gap_per_step", "gap per step", 3), Column("gap_data", "gap per channel in the data's field", 2),
    Column("fid", "fid", 3, True, low=0),
    Column("fid_matched", "fid_matched", 3, True, low=0), Column("kid", "kid", 4, True), _share("precision"),
    _share("recall"), _share("accuracy"), _share("validity"),
    Column("nll", "NLL (nats)", 2, low=0), Column("rfid", "rfid", 3, True, low=0),
    Column("images_per_s", "images/s", 0),
    Column("speedup", "speed-up", 2), Column("train_seconds", "train s", 0), Column("train_tflops", "train TFLOP", 1),
    Column("images_seen", "images seen", 0), Column("slots", "slots", 0), Column("sampled_slots", "slots sampled", 0),
    Column("sample_gflop", "sampling GFLOP per image", 3), Column("params", "params", 0),
    _share("duplicates"), _share("memorised"),
)  # fmt: skip
TUNED = (
    Column("guidance", "guidance", 2, listed=True),
    Column("temperature", "temperature", 2, listed=True),
    Column("correction", "correction", 2, listed=True),
)
OF_SAMPLE = "sample."  # columns of other options of sampling
NOT_TUNED = ("images", "batch_size", "seed", "order", "steps", "order_per_image")  # which arms say themselves
TESTED = ("fid", "nll")
LATEX = ("steps", "fid", "accuracy", "nll", "images_per_s")
FIRST = ["arm", "order", "variant", "seed", "steps", "nll", "fid", "fid_feature", "accuracy", "images_per_s"]
FIRST += ["train_seconds", "params"]
NESTED = ("trial", "step_map", "options", "curve", "gaps")  # of the rows: not for a table


def arm_means(rows: Sequence[Row], *keys: str) -> dict[str, tuple[float, ...]]:
    """Means over seeds of several columns, for the arms that have all of them."""
    arms = {arm: [numbers(group, key) for key in keys] for arm, group in by_arm(rows).items()}
    return {arm: tuple(sum(v) / len(v) for v in values) for arm, values in arms.items() if all(values)}


def present(rows: Sequence[Row]) -> list[Column]:
    """Columns that any row has; how images were sampled only where that differs."""
    varied = [column for column in TUNED if len({row.get(column.key) for row in rows}) > 1]
    options = {key: value for row in rows for key, value in row["options"].get("sample", {}).items()}
    own = [key for key in options if key not in (*NOT_TUNED, *(column.key for column in TUNED))]
    others = [key for key in own if len({str(row["options"]["sample"].get(key)) for row in rows}) > 1]
    varied += [Column(f"{OF_SAMPLE}{key}", key.replace("_", " "), 2, listed=True) for key in others]
    return [column for column in COLUMNS if any(column.key in row for row in rows)] + varied


def titled(column: Column, rows: Sequence[Row]) -> str:
    """Title with the feature network where the figure depends on it: fid[digits-cnn]."""
    return f"{column.title}[{rows[0]['fid_feature'].split(':')[0]}]" if column.featured else column.title


def numbers(rows: Sequence[Row], key: str) -> list[float]:
    """Values of one column."""
    return [row[key] for row in rows if row.get(key) is not None]


def column_of(key: str) -> Column:
    """Find a column by its key."""
    return next(column for column in (*COLUMNS, *TUNED) if column.key == key)


def shown(values: Sequence[float], digits: int, low: float = -inf, high: float = inf) -> str:
    """Write mean ± half of the interval; fewer values than an interval needs one by one.

    An interval that would reach beyond what is possible is written by its ends, which are cut there.
    """
    if not values:
        return ""
    center, half = interval(values)
    if half is None:
        return ", ".join(dict.fromkeys(f"{value:.{digits}f}" for value in values))
    if low <= center - half and center + half <= high:
        return f"{center:.{digits}f} ± {half:.{digits}f}" if half else f"{center:.{digits}f}"
    return f"{center:.{digits}f} [{max(low, center - half):.{digits}f}, {min(high, center + half):.{digits}f}]"


def cell(rows: Sequence[Row], column: Column) -> str:
    """Write one column of an arm's rows: a choice listed, a timing with its range, the rest by mean and interval."""
    if column.key == "group_sizes":
        return "; ".join(dict.fromkeys(sizes_text(row["group_sizes"]) for row in rows if row.get("group_sizes")))
    if column.key.startswith(OF_SAMPLE):
        found = [row["options"]["sample"].get(column.key.removeprefix(OF_SAMPLE)) for row in rows]
        return ", ".join(dict.fromkeys("" if value is None else str(value) for value in found))
    values = numbers(rows, column.key)
    if column.listed:
        return ", ".join(f"{value:.{column.digits}f}" for value in sorted(set(values)))
    if values and f"{column.key}_min" in rows[0]:
        low, high = (f"{rows[0][f'{column.key}_{end}']:.{column.digits}f}" for end in ("min", "max"))
        return f"{values[0]:.{column.digits}f} [{low}, {high}]"
    return shown(values, column.digits, column.low, column.high)


def compared(gap: Difference | None, digits: int = 3, corrected: float | None = None) -> str:
    """Write a difference with its interval, p, and p corrected; of fewer seeds than these need, one by one."""
    if gap is None:
        return ""
    if gap.half is None:
        return ", ".join(f"{value:+.{digits}f}" for value in gap.values)
    text = f"{gap.mean:+.{digits}f} ± {gap.half:.{digits}f}"
    if gap.p is None:
        return text
    return f"{text} ({_p(gap.p)}" + ("" if corrected is None else f"; Holm {_p(corrected)}") + ")"


def _p(value: float) -> str:
    return f"p = {value:.3f}" if value >= 0.001 else "p < 0.001"


def tested(rows: Sequence[Row], baseline: str | None) -> dict[str, dict[str, tuple[Difference, str]]]:
    """Differences to the baseline and their text, by figure and arm: none without one, or without other arms.

    Holm's correction is over the arms that are tested in one figure.
    """
    arms, found = by_arm(rows), dict[str, dict[str, tuple[Difference, str]]]()
    base = arms.get(baseline or "", [])
    for key in TESTED if base and len(arms) > 1 else ():
        gaps = {arm: difference(group, base, key) for arm, group in arms.items() if arm != baseline}
        known = {arm: gap for arm, gap in gaps.items() if gap is not None}
        with_p = {arm: gap.p for arm, gap in known.items() if gap.p is not None}
        corrected = dict(zip(with_p, holm(list(with_p.values())), strict=True))
        if known:
            found[key] = {arm: (gap, compared(gap, corrected=corrected.get(arm))) for arm, gap in known.items()}
    return found


def text_table(rows: Sequence[Row], baseline: str | None) -> str:
    """Lay the table out in Markdown."""
    columns, arms, tests = present(rows), by_arm(rows), tested(rows, baseline)
    header = ["arm", "seeds", *(f"{key} against {baseline}" for key in tests)]
    lines = [header + [titled(column, rows) for column in columns]]
    for arm, group in arms.items():
        gaps = [tests[key][arm][1] if arm in tests[key] else "" for key in tests]
        lines.append([arm, str(len(group)), *gaps, *(cell(group, column) for column in columns)])
    if "fid_floor" in rows[0]:
        count = rows[0].get("floor_images", rows[0]["held_out"])
        floor = [f"{rows[0]['fid_floor']:.3f}" if column.key == "fid_matched" else "" for column in columns]
        lines.append([f"real, held out (n={count})", "", *[""] * len(tests), *floor])
    lines = [[text.replace("|", "\\|") for text in line] for line in lines]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join("| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in lines)


def csv_table(rows: Sequence[Row]) -> str:
    """One line per (arm, seed), all columns; tried parameters as JSON."""
    keys = list(dict.fromkeys(FIRST + [key for row in rows for key in row if key not in NESTED]))
    text = StringIO(newline="")
    writer = csv.DictWriter(text, keys, extrasaction="ignore")
    writer.writeheader()
    writer.writerows({k: json.dumps(v) if isinstance(v, dict | list) else v for k, v in row.items()} for row in rows)
    return text.getvalue()


def latex_table(name: str, rows: Sequence[Row]) -> str:
    """Lay the main columns out with booktabs; mean and 95% interval over seeds."""
    columns = [column for column in present(rows) if column.key in LATEX]
    titles = ["arm", *(titled(column, rows) for column in columns)]
    lines = [[arm, *(cell(group, column) for column in columns)] for arm, group in by_arm(rows).items()]
    seeds = sorted({row["seed"] for row in rows})
    facts = f"Seeds {seeds}, {rows[0]['samples']} samples, {rows[0]['hardware']}, commit {rows[0]['commit']}"
    body = [" & ".join(_escape(cell) for cell in line) + r" \\" for line in [titles, *lines]]
    return "\n".join([
        r"% needs \usepackage{booktabs}", r"\begin{table}", rf"\caption{{{_escape(name)}: mean and 95\% interval. "
        rf"{_escape(facts)}.}}", rf"\begin{{tabular}}{{l{'r' * len(columns)}}}", r"\toprule", body[0], r"\midrule",
        *body[1:], r"\bottomrule", r"\end{tabular}", r"\end{table}", "",
    ])  # fmt: skip


def _escape(text: str) -> str:
    special = {"\\": r"\textbackslash{}", "±": r"$\pm$", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    special |= {c: "\\" + c for c in "&%$#_{}"}
    return "".join(special.get(character, character) for character in text)
