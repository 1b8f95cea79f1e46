"""The tables of a study as text, Markdown, CSV and LaTeX: one line per arm."""

import csv
import json
from collections.abc import Mapping, Sequence
from io import StringIO
from typing import Any, NamedTuple

from ablations.reporting.columns import (
    OF_SAMPLE,
    TESTED,
    Column,
    by_network,
    cell,
    column_of,
    numbers,
    present,
    titled,
)
from ablations.reporting.statistics import Difference, by_arm, difference, holm, interval
from radar.scoring.row import EXPLAINED, Row

Gaps = Mapping[str, tuple[Difference, str]]  # by arm

MAIN = ("steps", "fid", "nll", "accuracy", "images_per_s")  # columns
LATEX = ("steps", "fid", "accuracy", "nll", "images_per_s")
FIRST = ["arm", "order", "variant", "seed", "steps", "nll", "fid", "fid_feature", "accuracy", "images_per_s"]
FIRST += ["train_seconds", "params"]
NESTED = ("trial", "step_map", "options", "curve", "fid_curve", "gaps", "edits")  # of the rows: not for a table


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


class Cell(NamedTuple):
    """A text, and the value to sort by."""

    text: str
    value: Any


class Table(NamedTuple):
    """Titles, what each means (empty where it says so itself), and a line of cells per arm."""

    titles: list[str]
    meanings: list[str]
    lines: dict[str, list[Cell]]


def main_table(rows: Sequence[Row], baseline: str | None) -> Table:
    """What is read first: eight columns, and one for every further feature network."""
    keys = [one.key for key in MAIN for one in by_network(column_of(key), rows)]
    there = {column.key: column for column in present(rows)}
    columns, tests = [there[key] for key in keys if key in there], tested(rows, baseline)
    compared_by = next((key for key in TESTED if key in tests), None)
    table = _layout(rows, columns)
    if compared_by is not None:
        at = 1 + next(i for i, column in enumerate(columns) if column.key == compared_by)
        _insert(table, at, compared_by, baseline, tests[compared_by])
    return _counted(table, rows)


def full_table(rows: Sequence[Row], baseline: str | None) -> Table:
    """All columns, and the differences to the baseline."""
    table = _layout(rows, present(rows))
    for key, gaps in reversed(tested(rows, baseline).items()):
        _insert(table, 0, key, baseline, gaps)
    return _counted(table, rows)


def _layout(rows: Sequence[Row], columns: Sequence[Column]) -> Table:
    titles = [titled(column, rows) for column in columns]
    meanings = [EXPLAINED.get(column.key.removeprefix(OF_SAMPLE).partition("[")[0], "") for column in columns]
    lines = {}
    for arm, group in by_arm(rows).items():
        values = [[] if column.listed else numbers(group, column.key) for column in columns]
        lines[arm] = [
            Cell(cell(group, column), interval(found).center if found else "")
            for column, found in zip(columns, values, strict=True)
        ]
    return Table(titles, meanings, lines)


def _insert(table: Table, at: int, key: str, baseline: str | None, gaps: Gaps) -> None:
    table.titles.insert(at, f"{key} against {baseline}")
    table.meanings.insert(at, f"{key} less that of {baseline}, paired by seed")
    for arm, line in table.lines.items():
        gap, text = gaps.get(arm, (None, ""))
        line.insert(at, Cell(text, "" if gap is None else gap.mean))


def _counted(table: Table, rows: Sequence[Row]) -> Table:
    """Put the arm in front and the number of seeds behind."""
    seeds = {arm: len(group) for arm, group in by_arm(rows).items()}
    lines = {arm: [Cell(arm, arm), *line, Cell(str(seeds[arm]), seeds[arm])] for arm, line in table.lines.items()}
    return Table(["arm", *table.titles, "seeds"], ["", *table.meanings, "trainings that are averaged"], lines)


def text_table(table: Table) -> str:
    """Write a table in Markdown."""
    lines = [table.titles, *([cell.text for cell in line] for line in table.lines.values())]
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
    columns = [column for column in present(rows) if column.key.partition("[")[0] in LATEX]
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
