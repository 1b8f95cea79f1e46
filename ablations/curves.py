"""`radar curves FOLDER...`: reports of one study at several numbers of steps, put together: quality against K.

Legend: K steps.
"""

import argparse
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from math import nan
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, ScalarFormatter

from ablations.report import write_text
from ablations.reporting.columns import TESTED, column_of, featured, numbers, shown
from ablations.reporting.figures import COLOURS, LINES, MARKS, bar, single_points
from ablations.reporting.results import facts, gap_notes
from ablations.reporting.statistics import by_arm, interval
from ablations.reporting.tables import tested
from radar.config.load import flatten, to_config, to_dict
from radar.config.renamed import with_new_names
from radar.errors import InputError
from radar.pictures import save_figure
from radar.scoring.row import Row

# Figure -> title, digits. Precision and recall apart: one of them alone can be bought with the other.
PANELS = {"fid": ("fid", 3), "nll": ("held-out NLL (nats per image)", 2), "precision": ("precision", 3)}
PANELS |= {"recall": ("recall", 3)}
NEEDED = ("arm", "steps", "seed", "options", "variant", "correction", "fid_feature", "reference", "samples", "held_out")
MAY_VARY = ("seed", "order.steps")  # may differ between the rows of an arm
ALIKE = ("fid_feature", "reference", "samples", "held_out")
SIDE_BY_SIDE = 1.012  # arms stand side by side at one K, so that their bars can be told apart


def read_rows(folders: Sequence[str]) -> list[Row]:
    """Read the rows of several reports.

    Raises InputError for a folder without results, for rows that were judged differently, and for one that is twice.
    """
    rows = [row for folder in folders for row in _rows_of(Path(folder) / "results.json")]
    if not any(numbers(rows, key) for key in PANELS):
        raise InputError(f"no results yet in: {', '.join(folders)}")
    _check_alike("the reports", [{key: row[key] for key in ALIKE} for row in rows])
    for arm, group in by_arm(rows).items():
        _check_alike(f"the rows of arm '{arm}'", [_trained_with(row) for row in group])
    seen = set()
    for row in rows:
        if (name := (row["arm"], row["steps"], row["seed"])) in seen:
            raise InputError("arm '{}' in {} steps with seed {} is in two reports".format(*name))
        seen.add(name)
    return rows


def _rows_of(path: Path) -> list[Row]:
    try:
        rows: list[Row] = json.loads(path.read_text())["rows"]
        missing = [key for row in rows for key in NEEDED if key not in row]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not the results of a study (written by radar ablate or report)") from error
    if missing:
        raise InputError(f"{path} has rows without {missing[0]}")
    return rows


def _trained_with(row: Row) -> dict[str, Any]:
    """Options that must not differ between the numbers of steps."""
    options = to_config({**with_new_names(row["options"]), "run": "-"})  # what is newer than a row by its default
    return {
        key: value
        for key, value in flatten(to_dict(options)).items()
        if key not in MAY_VARY and not key.startswith("sample.")
    }


def _check_alike(what: str, all_values: Sequence[Mapping[str, Any]]) -> None:
    for key in dict.fromkeys(key for values in all_values for key in values):
        if len(found := {str(values.get(key)) for values in all_values}) > 1:
            raise InputError(f"{what} cannot be compared: {key} is {' and '.join(sorted(found))}")


def by_steps(rows: Sequence[Row]) -> dict[int, list[Row]]:
    """Group the rows by K, the smallest first."""
    groups: dict[int, list[Row]] = {}
    for row in sorted(rows, key=lambda row: int(row["steps"])):
        groups.setdefault(row["steps"], []).append(row)
    return groups


def draw_curves(rows: Sequence[Row]) -> Figure:
    """Draw a panel per figure: a line per arm over K, with 95% intervals over seeds."""
    keys = [key for key in PANELS if numbers(rows, key)]
    lines = -(-len(keys) // 2)
    figure, panels = plt.subplots(lines, 2, figsize=(11, 4 * lines), squeeze=False)
    steps, arms = sorted({row["steps"] for row in rows}), by_arm(rows)
    for panel in panels.flat[len(keys) :]:
        panel.remove()
    for axis, key in zip(panels.flat, keys, strict=False):
        for number, (arm, group) in enumerate(arms.items()):
            parts = {k: part for k, part in by_steps(group).items() if numbers(part, key)}
            positions = {k: k * SIDE_BY_SIDE ** (number - len(arms) / 2) for k in parts}
            bars = [bar(part, key) or [[nan], [nan]] for part in parts.values()]
            for k, part in parts.items():
                single_points(axis, positions[k], numbers(part, key), COLOURS[number % len(COLOURS)])
            axis.errorbar(
                list(positions.values()), [interval(numbers(part, key)).center for part in parts.values()],
                yerr=[[below[0] for below, _ in bars], [above[0] for _, above in bars]],
                label=arm, capsize=2, markersize=5, linewidth=1,
                fmt=MARKS[number % len(MARKS)], linestyle=LINES[number // len(COLOURS) % len(LINES)],
                color=COLOURS[number % len(COLOURS)],
            )  # fmt: skip
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter(ScalarFormatter())
        axis.xaxis.set_minor_locator(NullLocator())
        axis.set_xticks(steps)
        axis.set_xlabel("steps (forward passes)")
        axis.set_ylabel(_title(key, rows))
        axis.grid(alpha=0.3)
    names = panels[0, 0].get_legend_handles_labels()
    figure.legend(*names, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, 0.06), ncol=4, frameon=False)
    return figure


def steps_table(rows: Sequence[Row], cell: Callable[[str, Sequence[Row]], str]) -> str:
    """Lay out a line per arm and a column per K; `cell` writes what stands there, from all rows of that K."""
    groups = by_steps(rows)
    lines = [["arm", *(f"K = {k}" for k in groups)], ["---"] * (len(groups) + 1)]
    lines += [[arm, *(cell(arm, group) for group in groups.values())] for arm in by_arm(rows)]
    return "\n".join("| " + " | ".join(text.replace("|", "\\|") for text in line) + " |" for line in lines)


def curves_page(rows: Sequence[Row], folders: Sequence[str], baseline: str) -> str:
    """Lay out curves.md: every figure by arm and K, differences to the baseline at equal K, rank correlations."""
    parts = [
        "# Quality against the number of steps",
        f"`{shlex.join(['radar', 'curves', *folders, '--baseline', baseline])}`",
    ]
    parts += ["![figures against steps](curves.png)", "\n".join(facts(rows))]
    parts.append(
        "Mean ± half of the 95% interval (Student's t) over seeds, fewer than three are listed; differences are "
        "paired by seed: p of a two-sided t-test, and by Holm's procedure for the arms of one K."
    )
    for key, (_, digits) in PANELS.items():
        if numbers(rows, key):
            parts += [f"## {_title(key, rows)}", steps_table(rows, _mean_of(key, digits))]
        if key in TESTED and numbers(rows, key):
            parts += [f"Against {baseline}, at equal K:", steps_table(rows, _difference_of(key, baseline))]
    said = [f"- K = {k}: {note}" for k, group in by_steps(rows).items() for note in gap_notes(group)]
    parts += ["## Rank correlation with the independence gap, at equal K", "\n".join(said)] if said else []
    return "\n\n".join(parts) + "\n"


def _title(key: str, rows: Sequence[Row]) -> str:
    title = PANELS[key][0]
    return featured(title, rows) if key == "fid" else title


def _mean_of(key: str, digits: int) -> Callable[[str, Sequence[Row]], str]:
    column = column_of(key)
    return lambda arm, rows: shown(numbers(by_arm(rows).get(arm, []), key), digits, column.low, column.high)


def _difference_of(key: str, baseline: str) -> Callable[[str, Sequence[Row]], str]:
    def cell(arm: str, rows: Sequence[Row]) -> str:
        gap = tested(rows, baseline).get(key, {}).get(arm)
        return "" if gap is None else gap[1]

    return cell


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what it takes."""
    parser.add_argument("folders", nargs="+", help="folders of reports, with results.json")
    parser.add_argument("--baseline", help="arm that the others are compared with (default: the first)")
    parser.add_argument("--out", default="runs/curves", help="folder for curves.md and curves.png")


def main(args: argparse.Namespace) -> None:
    """Run `radar curves`."""
    rows = read_rows(args.folders)
    baseline = args.baseline or rows[0]["arm"]
    if baseline not in (arms := by_arm(rows)):
        raise InputError(f"baseline '{baseline}' is not an arm; choose from: {', '.join(arms)}")
    out, page = Path(args.out), curves_page(rows, args.folders, baseline)
    save_figure(draw_curves(rows), out / "curves.png")
    write_text(out / "curves.md", page)
    print(page)
    print(out / "curves.md")
