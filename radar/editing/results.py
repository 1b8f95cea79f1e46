"""One edit of some images: drawn, scored, and written as pictures, arrays and a row. Legend: B images, N cells."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from radar.editing.edits import TASKS, Edited, Editor
from radar.editing.pictures import save_film, save_sheet
from radar.editing.scores import diversity, mean_of, score_edits
from radar.encoders.network import FeatureNetwork
from radar.files import replacing
from radar.provenance import git_commit, hardware

SEEDS = 4  # of which diversity is measured


def draw_seeds(editor: Editor, edited: Edited, images: Tensor, own: Tensor) -> list[Edited]:
    """What several seeds draw for the first of the edited images, `images` (B, 3, H, W) of labels `own` (B,)."""
    count, seed = len(images), editor.settings.seed
    others = (editor.seeded(seed + n)(images, own, range(count)) for n in range(1, SEEDS))
    return [edited.take(slice(count)), *others]


def edit_and_save(
    editor: Editor, images: Tensor, own: Tensor, network: FeatureNetwork, blur: float, folder: Path
) -> dict[str, Any]:
    """Edit images (B, 3, H, W) of labels `own` (B,), write what came of it, return a row.

    Nothing is written before all is drawn and scored.
    """
    numbers, edit, generator = range(len(images)), editor.edit, editor.generator
    compared, edited = not TASKS[edit.task].extends, editor(images, own, numbers)
    scores = score_edits(edited, numbers, editor.filler, network, compared)
    if compared:
        scores["diversity"] = diversity(draw_seeds(editor, edited, images, own), network)
    classes, pairs = [*generator.data.classes, ""], zip(edited.own.tolist(), edited.labels.tolist(), strict=True)
    names = [classes[new] if old == new else f"{classes[old]} > {classes[new]}" for old, new in pairs]
    folder.mkdir(parents=True, exist_ok=True)
    save_sheet(edited, generator.grid, names, blur, folder / "edit.png", not compared)
    save_film(editor, images, edited, numbers, names, folder / "film.gif")
    save_arrays(edited, folder / "edited.npz")
    means = {name: mean_of(values) for name, values in scores.items()}
    return {
        "scores": {name: found._asdict() for name, found in means.items() if found is not None},
        "edited": len(images),
        "task": edit.task,
        "hidden_cells": float(edited.hidden.sum(1).double().mean()),
        "passes": steps_of(editor, edited, numbers),
        "edit": {name: value for name, value in vars(edit).items() if value is not None},
        "sample": vars(editor.settings),
        "feature_network": network.title,
        "hardware": hardware(generator.module.device),
        "commit": git_commit(),
    }


def steps_of(editor: Editor, edited: Edited, numbers: Sequence[int]) -> list[int]:
    """Different numbers of forward passes that the images took."""
    return sorted({part.steps for part in editor.filler.alike(edited.hidden, numbers)})


def save_arrays(edited: Edited, path: Path) -> None:
    """Write arr_0 images (B, H, W, 3) uint8 and arr_1 labels as ADM does; hidden (B, N), tokens (B, N)."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file,
            arr_0=edited.after.permute(0, 2, 3, 1).numpy(),
            arr_1=edited.labels.numpy(),
            hidden=edited.hidden.numpy(),
            tokens=edited.tokens.numpy(),
        )
