"""Tables and pictures of a study: results.csv, results.json, report.md and PNGs, from the rows that are done."""

import csv
import json
import re
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.ticker import StrMethodFormatter

from experiments.pictures import draw_steps, save_figure
from radar.files import replacing

Row = dict[str, Any]

# Columns of the table in report.md: key, header, digits. Spreads are shown where there are several seeds.
COLUMNS = [
    ("steps", "steps", 0), ("gap", "gap (nats)", 2), ("nll", "NLL (nats)", 2), ("fid", "fid", 3),
    ("fid_matched", "fid_matched", 3), ("kid", "kid", 4), ("precision", "precision", 3), ("recall", "recall", 3),
    ("accuracy", "accuracy", 3), ("validity", "validity", 3), ("rfid", "rfid", 3), ("duplicates", "duplicates", 3),
    ("memorised", "memorised", 3), ("images_per_s", "images/s", 0), ("speedup", "speed-up", 2),
    ("train_seconds", "train s", 0), ("train_tflops", "train TFLOP", 1), ("images_seen", "images seen", 0),
    ("slots", "slots", 0), ("params", "params", 0),
]  # fmt: skip
DISTANCES = ("fid", "fid_matched", "kid", "rfid")
FIGURES = [
    ("steps", "steps (forward passes)", "fid-steps.png"),
    ("images_per_s", "images per second", "fid-speed.png"),
]
FIRST = ["arm", "order", "variant", "seed", "steps", "nll", "fid", "fid_feature", "accuracy", "images_per_s"]
FIRST += ["train_seconds", "params"]
SHARED = ("fid_feature", "reference", "samples", "hardware", "dtype", "train_precision", "commit", "torch", "lightning")


def write_report(name: str, rows: Sequence[Row], speeds: dict[str, dict[str, float]], out: Path, command: str) -> str:
    """Write all files of the report; return the table as text.

    Args:
        name: of the study.
        rows: one per (arm, seed) that is done.
        speeds: arm -> images_per_s and the like, empty before the timing.
        out: folder.
        command: that makes this report again.
    """
    full = [{**row, **speeds.get(row["arm"], {})} for row in rows]
    _write_json(name, full, out / "results.json", command)
    _write_csv(full, out / "results.csv")
    if not full:
        return "no results"
    table = markdown_table(full)
    draw_steps(step_maps(full), out / "steps.png")
    for key, label, name_of_file in FIGURES:
        shown = [row for row in full if "fid" in row and key in row]
        if shown:
            draw_against(shown, key, label, out / name_of_file)
    with replacing(out / "report.md") as temporary:
        temporary.write_text(_page(name, full, table, command, out))
    return table


def _write_json(name: str, rows: Sequence[Row], path: Path, command: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps({"study": name, "command": command, "rows": rows}, indent=1))


def _write_csv(rows: Sequence[Row], path: Path) -> None:
    keys = list(
        dict.fromkeys(FIRST + [key for row in rows for key in row if key not in ("trial", "step_map", "options")])
    )
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, keys, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def trial_name(arm: str, seed: int) -> str:
    """Name files of one arm and seed: letters, digits, dots and dashes only."""
    return f"{re.sub('[^A-Za-z0-9.]+', '-', arm)}-seed{seed}"


def by_arm(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Group the rows by arm."""
    arms: dict[str, list[Row]] = {}
    for row in rows:
        arms.setdefault(row["arm"], []).append(row)
    return arms


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (0 for one value)."""
    return mean(values), stdev(values) if len(values) > 1 else 0.0


def markdown_table(rows: Sequence[Row]) -> str:
    """Lay out one line per arm, mean and standard deviation over seeds; distances carry the feature network's name."""
    feature = rows[0]["fid_feature"].split(":")[0]
    columns = [column for column in COLUMNS if any(column[0] in row for row in rows)]
    titles = [f"{title}[{feature}]" if key in DISTANCES else title for key, title, _ in columns]
    lines = [["arm", "seeds", *titles]]
    for arm, group in by_arm(rows).items():
        cells = [_cell([row[key] for row in group if key in row], digits) for key, _, digits in columns]
        lines.append([arm, str(len(group)), *cells])
    floor = [f"{rows[0]['fid_floor']:.3f}" if key == "fid_matched" else "" for key, _, _ in columns]
    lines.append([f"real, held out (n={rows[0]['held_out']})", "", *floor])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join("| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in lines)


def _cell(values: Sequence[float], digits: int) -> str:
    if not values:
        return ""
    center, deviation = spread(values)
    return f"{center:.{digits}f} ± {deviation:.{digits}f}" if deviation else f"{center:.{digits}f}"


def step_maps(rows: Sequence[Row]) -> list[tuple[str, torch.Tensor]]:
    """Titles and step maps (h, w) of the arms."""
    return [(arm, torch.tensor(group[0]["step_map"])) for arm, group in by_arm(rows).items()]


def draw_against(rows: Sequence[Row], key: str, label: str, path: Path) -> None:
    """Draw fid against `key` per arm, bars of one standard deviation over seeds, and the real-versus-real floor."""
    feature = rows[0]["fid_feature"].split(":")[0]
    figure, axis = plt.subplots(figsize=(7, 4.5))
    for number, (arm, group) in enumerate(by_arm(rows).items()):
        center, deviation = spread([row["fid"] for row in group])
        mark = "osD^vPX*<>"[number % 10]
        axis.errorbar(group[0][key], center, yerr=deviation, fmt=mark, capsize=3, label=arm, markersize=8)
    _label(axis, label, f"fid[{feature}], lower is better")
    axis.axhline(rows[0]["fid_floor"], color="0.5", linestyle="--", linewidth=1, label="held-out images against train")
    axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    save_figure(figure, path)


def _label(axis: Axes, x: str, y: str) -> None:
    axis.set_xscale("log")
    for ticks in (axis.xaxis.set_major_formatter, axis.xaxis.set_minor_formatter):
        ticks(StrMethodFormatter("{x:.0f}"))
    axis.set_xlabel(x)
    axis.set_ylabel(y)
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)


def _page(name: str, rows: Sequence[Row], table: str, command: str, out: Path) -> str:
    first, seeds = rows[0], sorted({row["seed"] for row in rows})
    facts = [f"- {key.replace('_', ' ')}: {', '.join(sorted({str(row.get(key)) for row in rows}))}" for key in SHARED]
    lines = [
        f"# {name}", "", f"`{command}`", "", table, "",
        f"Mean ± standard deviation over seeds {seeds}. fid is biased by the number of images: `fid` is of "
        f"{first['samples']} samples, `fid_matched` of as many as there are held-out images, to be compared with the "
        "last line, the real-versus-real floor. The feature network was trained on the reference set. NLL is in nats "
        "per held-out image: exact for causal and plain, teacher-forced "
        "on the new cells for variants that revise. Speed: median of rounds that go through all arms in turn after one "
        "dropped round, nothing else running, tokens and decoding, batch "
        f"{first['timing_batch']}; speed-up is against the first arm. Training "
        "seconds are of processes that run side by side.", "", *facts, "",
    ]  # fmt: skip
    lines += [f"![fid against {label}]({file})" for _, label, file in FIGURES if (out / file).exists()]
    lines += ["![step maps](steps.png)", "", "## Samples", ""]
    for row in {row["arm"]: row for row in reversed(rows)}.values():
        folder = f"samples/{trial_name(row['arm'], row['seed'])}"
        lines += [f"**{row['arm']}**", "", f"![{row['arm']}]({folder}/samples.png)", ""]
    return "\n".join(lines) + "\n"
