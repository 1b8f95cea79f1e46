"""report.html: one file with everything in it, no network; sorts its table and plays the generation of every arm."""

import base64
import json
import re
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from PIL import Image, ImageSequence

from ablations.reporting.edits import edit_tables
from ablations.reporting.results import Results, headline, notes, warnings
from ablations.reporting.statistics import by_arm
from ablations.reporting.tables import Cell, Table, full_table, main_table
from ablations.study.plan import trial_name
from radar.config.load import flatten
from radar.scoring.row import Row
from radar.sheets import with_palette

MOST_FRAMES = 32  # of one animation
PACE = 300  # milliseconds per frame
SOURCES = (
    "commit",
    "trained_at",
    "config",
    "hardware",
    "dtype",
    "train_precision",
    "fid_feature",
    "reference",
    "samples",
    "sample_seed",
    "timing_batch",
    "python",
    "torch",
    "lightning",
    "torchmetrics",
    "numpy",
)


def html_page(results: Results, pictures: Mapping[str, str]) -> str:
    """Fill the template in.

    Args:
        results: rows and what is said about them.
        pictures: title -> PNG in the study's folder.
    """
    done = f"{len(results.rows)} of {results.planned} trials done, {len(results.failures)} failed"
    done += f", {results.unfinished} to do" if results.unfinished else ""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    environment.filters["marked"] = marked
    return environment.get_template("report.html").render(
        results=results,
        state=done,
        main=main_table(results.rows, results.baseline),
        all=full_table(results.rows, results.baseline),
        edits=edit_tables(results.rows),
        headline=headline(results.rows),
        warnings=warnings(results),
        notes=notes(results),
        figures={title: embedded((results.out / name).read_bytes()) for title, name in pictures.items()},
        arms=[arm_card(arm, group[0], results.out) for arm, group in by_arm(results.rows).items()],
        provenance=provenance_table(results.rows),
        alike=json.dumps(shared_options(results.rows), indent=1),
        pace=PACE,
    )


def marked(text: str) -> Markup:
    """Escape a text and show what stands in backticks as code."""
    return Markup(re.sub("`([^`]*)`", r"<code>\1</code>", str(escape(text))))


def provenance_table(rows: Sequence[Row]) -> Table:
    """Where every row comes from: commit, hardware, versions, seeds, and all options that are not alike."""
    options, alike = [flatten(row["options"]) for row in rows], shared_options(rows)
    varied = [key for key in dict.fromkeys(key for option in options for key in option) if key not in alike]
    titles = ["arm", "seed", *(key.replace("_", " ") for key in SOURCES), *varied]
    lines = {}
    for row, option in zip(rows, options, strict=True):
        values = [row["arm"], row["seed"], *(row.get(key, "") for key in SOURCES), *(option.get(k) for k in varied)]
        lines[f"{row['arm']}, {row['seed']}"] = [Cell(str(value), value) for value in values]
    return Table(titles, [""] * len(titles), lines)


def shared_options(rows: Sequence[Row]) -> dict[str, Any]:
    """Options that all rows have alike."""
    options = [flatten(row["options"]) for row in rows]
    return {k: v for k, v in options[0].items() if all(json.dumps(o.get(k)) == json.dumps(v) for o in options)}


def embedded(data: bytes) -> str:
    """Write a PNG as a data URI."""
    return "data:image/png;base64," + base64.b64encode(data).decode()


def arm_card(arm: str, row: Row, out: Path) -> dict[str, Any]:
    """Samples of an arm's first seed and the frames of how they come about; both lie where the trial was run."""
    folder = out / "samples" / trial_name(arm, row["seed"])
    card = {"arm": arm, "name": f"{arm}, seed {row['seed']}", "steps": row["steps"], "frames": [], "samples": ""}
    if (folder / "film.gif").exists():
        card["frames"] = [embedded(frame) for frame in film_frames(folder / "film.gif")]
        card["samples"] = embedded((folder / "samples.png").read_bytes())
    return card


def film_frames(path: Path) -> list[bytes]:
    """Frames of a GIF as PNGs, evenly thinned out to MOST_FRAMES, the last kept."""
    with Image.open(path) as film:
        pictures = [frame.convert("RGB") for frame in ImageSequence.Iterator(film)]
    chosen = np.linspace(0, len(pictures) - 1, min(len(pictures), MOST_FRAMES)).round().astype(int)
    frames = []
    for number in chosen:
        data = BytesIO()
        with_palette(np.asarray(pictures[number])).save(data, "PNG", optimize=True)
        frames.append(data.getvalue())
    return frames
