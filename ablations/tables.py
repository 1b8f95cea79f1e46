"""The table of a study as text, Markdown, CSV and LaTeX: one line per arm, mean and 95% interval over seeds."""

import csv
import json
from collections.abc import Mapping, Sequence
from io import StringIO
from typing import Any, NamedTuple

from ablations.statistics import Difference, difference, interval

Row = Mapping[str, Any]


class Column(NamedTuple):
    """A column: key in the rows, title, digits, and whether its figure depends on the feature network."""

    key: str
    title: str
    digits: int
    featured: bool = False


COLUMNS = (
    Column("steps", "steps", 0), Column("gap", "gap (nats)", 2),
    Column("gap_per_step", "gap per step", 3), Column("gap_data", "gap per channel in the data's field", 2),
    Column("fid", "fid", 3, True),
    Column("fid_matched", "fid_matched", 3, True), Column("kid", "kid", 4, True), Column("precision", "precision", 3),
    Column("recall", "recall", 3), Column("accuracy", "accuracy", 3), Column("validity", "validity", 3),
    Column("nll", "NLL (nats)", 2), Column("rfid", "rfid", 3, True), Column("images_per_s", "images/s", 0),
    Column("speedup", "speed-up", 2), Column("train_seconds", "train s", 0), Column("train_tflops", "train TFLOP", 1),
    Column("images_seen", "images seen", 0), Column("slots", "slots", 0), Column("sampled_slots", "slots sampled", 0),
    Column("sample_gflop", "sampling GFLOP per image", 3), Column("params", "params", 0),
    Column("duplicates", "duplicates", 3), Column("memorised", "memorised", 3),
)  # fmt: skip
TUNED = (
    Column("guidance", "guidance", 2),
    Column("temperature", "temperature", 2),
    Column("correction", "correction", 2),
)
TESTED = ("fid", "nll")
LATEX = ("steps", "fid", "accuracy", "nll", "images_per_s")
FIRST = ["arm", "order", "variant", "seed", "steps", "nll", "fid", "fid_feature", "accuracy", "images_per_s"]
FIRST += ["train_seconds", "params"]
NESTED = ("trial", "step_map", "options", "curve", "gaps")  # of the rows: not for a table


def arm_means(rows: Sequence[Row], *keys: str) -> dict[str, tuple[float, ...]]:
    """Means over seeds of several columns, for the arms that have all of them."""
    arms = {arm: [numbers(group, key) for key in keys] for arm, group in by_arm(rows).items()}
    return {arm: tuple(sum(v) / len(v) for v in values) for arm, values in arms.items() if all(values)}


def by_arm(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Group the rows by arm."""
    arms: dict[str, list[Row]] = {}
    for row in rows:
        arms.setdefault(row["arm"], []).append(row)
    return arms


def present(rows: Sequence[Row]) -> list[Column]:
    """Columns that any row has; how images were sampled only where that differs."""
    varied = [column for column in TUNED if len({row[column.key] for row in rows}) > 1]
    return [column for column in COLUMNS if any(column.key in row for row in rows)] + varied


def titled(column: Column, rows: Sequence[Row]) -> str:
    """Title with the feature network where the figure depends on it: fid[digits-cnn]."""
    return f"{column.title}[{rows[0]['fid_feature'].split(':')[0]}]" if column.featured else column.title


def numbers(rows: Sequence[Row], key: str) -> list[float]:
    """Values of one column."""
    return [row[key] for row in rows if row.get(key) is not None]


def shown(values: Sequence[float], digits: int) -> str:
    """Write mean ± half width of the interval."""
    if not values:
        return ""
    center, half = interval(values)
    return f"{center:.{digits}f} ± {half:.{digits}f}" if half else f"{center:.{digits}f}"


def compared(gap: Difference | None, digits: int = 3) -> str:
    """Write a difference to the baseline with its interval and p-value."""
    if gap is None:
        return ""
    if gap.p is None:
        return f"{gap.mean:+.{digits}f}"
    p = f"p = {gap.p:.3f}" if gap.p >= 0.001 else "p < 0.001"
    return f"{gap.mean:+.{digits}f} ± {gap.half:.{digits}f} ({p})"


def tested(rows: Sequence[Row], baseline: str | None) -> list[str]:
    """Figures of which the differences to the baseline are given: none without one, or without other arms."""
    arms = by_arm(rows)
    return [key for key in TESTED if baseline in arms and len(arms) > 1 and numbers(rows, key)]


def text_table(rows: Sequence[Row], baseline: str | None) -> str:
    """Lay the table out in Markdown."""
    columns, arms = present(rows), by_arm(rows)
    lines = [["arm", "seeds", *(titled(column, rows) for column in columns)]]
    lines += [
        [arm, str(len(group)), *(shown(numbers(group, column.key), column.digits) for column in columns)]
        for arm, group in arms.items()
    ]
    if "fid_floor" in rows[0]:
        floor = [f"{rows[0]['fid_floor']:.3f}" if column.key == "fid_matched" else "" for column in columns]
        lines.append([f"real, held out (n={rows[0]['held_out']})", "", *floor])
    for place, key in enumerate(tested(rows, baseline), start=2):
        for number, line in enumerate(lines):
            group = arms.get(line[0], []) if line[0] != baseline else []
            gap = difference(group, arms[baseline or ""], key)
            line.insert(place, compared(gap) if number else f"{key} against {baseline}")
    lines = [[cell.replace("|", "\\|") for cell in line] for line in lines]
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
    lines = [
        [arm, *(shown(numbers(group, column.key), column.digits) for column in columns)]
        for arm, group in by_arm(rows).items()
    ]
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
