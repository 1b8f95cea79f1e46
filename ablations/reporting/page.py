"""report.html: one file with everything in it, no network; sorts its table and plays the generation of every arm."""

import base64
import json
import re
from collections.abc import Mapping, Sequence
from html import escape
from io import BytesIO
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from PIL import Image, ImageSequence

from ablations.reporting.results import Results, notes
from ablations.reporting.statistics import by_arm, interval
from ablations.reporting.tables import cell, numbers, present, tested, titled
from ablations.study.plan import trial_name
from radar.config.load import flatten
from radar.scoring.row import Row

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
    return Template(Path(__file__).with_name("report.html").read_text()).substitute(
        title=escape(results.name),
        state=done,
        command=escape(results.command),
        table=results_table(results),
        notes="".join(f"<li>{marked(note)}</li>" for note in notes(results)),
        figures="".join(figure(title, results.out / name) for title, name in pictures.items()),
        arms="".join(arm_card(arm, group[0], results.out) for arm, group in by_arm(results.rows).items()),
        count=len(results.rows),
        provenance=provenance_table(results.rows),
        pace=PACE,
    )


def marked(text: str) -> str:
    """Escape a text and show what stands in backticks as code."""
    return re.sub("`([^`]*)`", r"<code>\1</code>", escape(text))


def table_html(header: Sequence[str], lines: Sequence[tuple[str, Sequence[tuple[str, Any]]]]) -> str:
    """Build a sortable table: lines of (class, cells), cells of (text, value to sort by)."""
    head = "".join(f"<th><button>{escape(title)}</button></th>" for title in header)
    body = "".join(
        f'<tr class="{mark}">'
        + "".join(f'<td data-value="{escape(str(value))}">{escape(text)}</td>' for text, value in cells)
        + "</tr>"
        for mark, cells in lines
    )
    return f'<table class="sortable"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def results_table(results: Results) -> str:
    """One line per arm: mean with interval, and paired differences to the baseline."""
    arms, columns = by_arm(results.rows), present(results.rows)
    tests = tested(results.rows, results.baseline)
    header = ["arm", "seeds", *(f"{key} against {results.baseline}" for key in tests)]
    header += [titled(column, results.rows) for column in columns]
    lines = []
    for arm, group in arms.items():
        cells: list[tuple[str, Any]] = [(arm, arm), (str(len(group)), len(group))]
        for key in tests:
            gap, text = tests[key].get(arm, (None, ""))
            cells.append((text, "" if gap is None else gap.mean))
        for column in columns:
            values = [] if column.listed else numbers(group, column.key)
            cells.append((cell(group, column), interval(values).center if values else ""))
        lines.append(("baseline" if arm == results.baseline else "", cells))
    return table_html(header, lines)


def provenance_table(rows: Sequence[Row]) -> str:
    """Where every row comes from: commit, hardware, versions, seeds, and all options that are not alike."""
    options = [flatten(row["options"]) for row in rows]
    keys = dict.fromkeys(key for option in options for key in option)
    varied = [key for key in keys if len({json.dumps(option.get(key)) for option in options}) > 1]
    header = ["arm", "seed", *(key.replace("_", " ") for key in SOURCES), *varied]
    lines = []
    for row, option in zip(rows, options, strict=True):
        values = [row["arm"], row["seed"], *(row.get(key, "") for key in SOURCES), *(option.get(k) for k in varied)]
        lines.append(("", [(str(value), value) for value in values]))
    alike = {key: value for key, value in options[0].items() if key not in varied}
    return (
        table_html(header, lines)
        + f"<p>Options that all rows share:</p><pre>{escape(json.dumps(alike, indent=1))}</pre>"
    )


def embedded(data: bytes) -> str:
    """Write a PNG as a data URI."""
    return "data:image/png;base64," + base64.b64encode(data).decode()


def figure(title: str, path: Path) -> str:
    """Embed a PNG with its caption."""
    picture = f'<img src="{embedded(path.read_bytes())}" alt="{escape(title)}">'
    return f"<figure>{picture}<figcaption>{escape(title)}</figcaption></figure>"


def arm_card(arm: str, row: Row, out: Path) -> str:
    """Show the samples of an arm's first seed and play how they come about; both lie where the trial was run."""
    folder = out / "samples" / trial_name(arm, row["seed"])
    if not (folder / "film.gif").exists():
        return f"<article><h3>{escape(arm)}</h3><p>Its samples are on another machine.</p></article>"
    frames = [embedded(frame) for frame in film_frames(folder / "film.gif")]
    name = escape(f"{arm}, seed {row['seed']}")
    return (
        f"<article><h3>{escape(arm)}</h3>"
        f'<figure><img class="pixels film" src="{frames[-1]}" alt="generation of {name}"><div class="player">'
        f'<script type="application/json">{json.dumps(frames)}</script><button type="button">Play</button>'
        f'<input type="range" min="0" max="{len(frames) - 1}" value="{len(frames) - 1}" aria-label="pass"></div>'
        f"<figcaption>{row['steps']} passes, {name}</figcaption></figure>"
        f'<figure><img class="pixels" src="{embedded((folder / "samples.png").read_bytes())}" alt="samples of {name}">'
        f"<figcaption>samples, a column per class</figcaption></figure></article>"
    )


def film_frames(path: Path) -> list[bytes]:
    """Frames of a GIF as PNGs, evenly thinned out to MOST_FRAMES, the last kept."""
    with Image.open(path) as film:
        pictures = [frame.convert("RGB") for frame in ImageSequence.Iterator(film)]
    chosen = np.linspace(0, len(pictures) - 1, min(len(pictures), MOST_FRAMES)).round().astype(int)
    frames = []
    for number in chosen:
        data = BytesIO()
        pictures[number].quantize(64).save(data, "PNG", optimize=True)
        frames.append(data.getvalue())
    return frames
