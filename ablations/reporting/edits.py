"""Scores and pictures of standard edits: one table per score and one sheet per edit, a line per arm."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ablations.reporting.columns import featured, shown
from ablations.reporting.statistics import by_arm, interval
from ablations.reporting.tables import Cell, Table
from radar.editing.protocol import PICTURES
from radar.scoring.row import Row
from radar.sheets import captioned, pixel_scale, save_image, tile

# Score -> title, digits, whether it depends on the feature network. What each means is in docs/editing.md.
SCORES = {
    "nll_per_cell": ("NLL (nats per hidden cell)", 3, False),
    "fid": ("fid", 3, True),
    "kid": ("kid", 4, True),
    "psnr": ("PSNR in the hole (dB)", 2, False),
    "ssim": ("SSIM", 3, False),
    "feature_distance": ("feature distance", 2, True),
    "seam": ("seam (grey levels)", 2, False),
    "accuracy": ("accuracy", 3, True),
    "diversity": ("diversity", 2, True),
    "recoded": ("share of given cells that the tokenizer would let the hidden part change", 3, False),
    "passes": ("forward passes per image", 1, False),
    "gflop": ("operations per image (10^9)", 4, False),
}


def edit_tables(rows: Sequence[Row]) -> dict[str, Table]:
    """Title -> a column per edit, a line per arm; a score that no row has is left out."""
    names = list(dict.fromkeys(name for row in rows for name in row.get("edits") or {}))
    found = {}
    for key, (title, digits, by_network) in SCORES.items():
        lines = {}
        for arm, group in by_arm(rows).items():
            cells = [[edits[name][key] for edits in _edits(group) if key in edits.get(name, {})] for name in names]
            lines[arm] = [Cell(arm, arm), *(_cell(values, digits) for values in cells)]
        if any(cell.text for line in lines.values() for cell in line[1:]):
            found[featured(title, rows) if by_network else title] = Table(
                ["arm", *names], [""] * (len(names) + 1), lines
            )
    return found


def _edits(rows: Sequence[Row]) -> list[dict[str, Any]]:
    return [row.get("edits") or {} for row in rows]


def _cell(values: Sequence[float], digits: int) -> Cell:
    return Cell(shown(values, digits), interval(values).center if values else "")


def save_edit_sheets(arms: dict[str, Path], out: Path) -> dict[str, str]:
    """Write a sheet of every edit, of the arms whose pictures are in these folders; title -> file."""
    kept = {arm: dict(np.load(folder / PICTURES)) for arm, folder in arms.items() if (folder / PICTURES).exists()}
    saved = {}
    for name in dict.fromkeys(key.partition("/")[0] for arrays in kept.values() for key in arrays):
        there = {arm: arrays for arm, arrays in kept.items() if f"{name}/after" in arrays}
        first = next(iter(there.values()))
        rows = [first[f"{name}/before"], first[f"{name}/hole"], *(each[f"{name}/after"] for each in there.values())]
        images = torch.from_numpy(np.concatenate(rows))
        sheet = tile(images, len(rows[0]), pixel_scale(images.shape[3]))
        save_image(captioned(sheet, (), ["before", "hole", *there]), out / f"edit-{name}.png")
        saved[f"edit {name}: the same images and holes, first seed"] = f"edit-{name}.png"
    return saved
