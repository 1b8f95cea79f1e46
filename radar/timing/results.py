"""Benchmarks as a table, a picture and a comparison of two files."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from radar.errors import InputError
from radar.pictures import save_figure

Row = dict[str, Any]
KEY = ("what", "arm", "grid", "batch", "guidance")
FACTS = ("hardware", "threads", "kernels", "params", "vocabulary", "classes", "options", "environment")  # of a speed


def facts(found: Row) -> str:
    """Say on what was measured."""
    dtypes = sorted({row["dtype"] for row in found["rows"]})
    rates = {"float32": found["gflops_per_s"], "bfloat16": found["gflops_per_s_bfloat16"]}
    products = " and ".join(f"{dtype} {rates[dtype]:,.0f} GFLOP/s" for dtype in dtypes)
    text = f"{found['hardware']}, {found['params'] / 1e6:.1f}M parameters, commit {found['commit']}"
    return f"{text}{', own kernels' * found['kernels']}: {products}, copy {found['copy_gbytes_per_s']:,.1f} GB/s"


def table(rows: Sequence[Row]) -> str:
    """Lay the rows out as text."""
    width = max(len(row["arm"]) for row in rows)
    lines = [f"{'':8}{'arm':{width}} {'grid':>6} {'batch':>5} {'s':>4} {'steps':>5} {'slots':>6} {'ms/step':>8} "
             f"{'images/s':>9} {'(min..max)':>19} {'GFLOP/im':>9} {'over floor':>10} {'peak MB':>8}"]  # fmt: skip
    for row in rows:
        spread = f"({row['images_per_s_min']:.2f}..{row['images_per_s_max']:.2f})"
        peak = "" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 1e6:.0f}"
        scale = "" if row["guidance"] is None else f"{row['guidance']:g}"
        step = f"{row['ms_per_step']:.2f}" if "ms_per_step" in row else ""
        lines.append(
            f"{row['what']:8}{row['arm']:{width}} {row['grid']:>6} {row['batch']:5} {scale:>4} {row['steps'] or '':5} "
            f"{row['slots'] or '':6} {step:>8} {row['images_per_s']:9.2f} {spread:>19} "
            f"{row['flops_per_image'] / 1e9:9.2f} {row['over_floor']:10.2f} {peak:>8}"
        )
    return "\n".join(lines)


def draw(rows: Sequence[Row], title: str, path: Path) -> None:
    """Draw images per second of every row, and how far the floor would allow it."""
    figure, axis = plt.subplots(figsize=(8, 0.3 * len(rows) + 1.6))
    names = [" ".join(f"{row[key]}" for key in ("what", "arm", "grid")) + f", batch {row['batch']}" for row in rows]
    scales = ["" if row["guidance"] in (None, 1) else f", guidance {row['guidance']:g}" for row in rows]
    names = [name + scale for name, scale in zip(names, scales, strict=True)]
    speeds, floors = [r["images_per_s"] for r in rows], [r["images_per_s"] * r["over_floor"] for r in rows]
    axis.barh(names, floors, color="0.85", label="roofline floor")
    axis.barh(names, speeds, height=0.5, color="#0072B2", label="measured (median)")
    axis.invert_yaxis()
    axis.set_xscale("log")
    axis.set_xlabel("images per second")
    axis.set_title(title, fontsize=8, loc="right")
    axis.legend(
        fontsize=8, loc="upper center", bbox_to_anchor=(0.4, -1.2 / (0.3 * len(rows) + 1.6)), ncol=2, frameon=False
    )
    save_figure(figure, path)


def compare(before: Path, after: Path) -> str:
    """List the ratio of images per second, after to before, of the rows that both files hold; raises InputError."""
    (old_facts, old), (new_facts, new) = map(_read, (before, after))
    if not (both := [key for key in old if key in new]):
        raise InputError(f"{before} and {after} have no row in common")
    differ = [
        f"different {key}: {old_facts[key]} and {new_facts[key]}" for key in FACTS if old_facts[key] != new_facts[key]
    ]
    width = max(len(row["arm"]) for row in old.values())
    head = f"{'':8}{'arm':{width}} {'grid':>6} {'batch':>5} {'s':>4} {'first':>9} {'second':>9} {'ratio':>6}"
    lines = [*differ, head]
    for key in both:
        first, second = (rows[key]["images_per_s"] for rows in (old, new))
        what, arm, grid, batch, scale = key
        speeds = f"{first:9.2f} {second:9.2f} {second / first:6.2f}"
        lines.append(f"{what:8}{arm:{width}} {grid:>6} {batch:5} {scale or '':4} {speeds}")
    return "\n".join(lines)


def _read(path: Path) -> tuple[dict[str, Any], dict[tuple[Any, ...], Row]]:
    try:
        found = {"kernels": False} | json.loads(path.read_text())  # older files are from before there were any
        return {key: found[key] for key in FACTS}, {tuple(row[key] for key in KEY): row for row in found["rows"]}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path} is not a result of this radar bench: {error!r}") from error
