"""Standard edits as columns of a row, tables and pictures of a report."""

import json

import numpy as np
import pytest
from PIL import Image

from ablations.cli import main
from ablations.reporting.edits import SCORES as SHOWN
from ablations.reporting.edits import edit_tables
from radar.config.sampling import EDITS
from radar.editing.protocol import PROTOCOL
from radar.editing.scores import SCORES
from tests.command_line import fails
from tests.test_studies import quick_workers

__all__ = ["quick_workers"]  # a fixture

STUDY = """
name: edits
base: digits
threads: 1
seeds: [0]
config:
  model: {dim: 16, heads: 1, layers: 1}
  train: {max_steps: 2, batch_size: 8, warmup: 1}
  evaluate: {images: 20, timing_batch: 2, timing_repeats: 1, edits: [box, cells, wider], edit_images: 12}
arms:
  raster: {order: {name: raster}, attention: causal}
  random: {order: {name: random}, attention: plain, train: {permutations: random}}
  random inwards:
    {order: {name: random}, attention: plain, train: {permutations: random}, sample: {order: inwards, steps: 3}}
  random on a larger grid:
    {order: {name: random}, attention: plain, train: {permutations: random}, sample: {grid: [8, 10]}}
"""


def test_options_and_protocol_are_alike():
    assert tuple(PROTOCOL) == EDITS
    assert {*SCORES, "diversity"} - {"outside"} <= set(SHOWN)


def test_a_study_with_edits(tmp_path):
    (tmp_path / "edits.yaml").write_text(STUDY)
    out = tmp_path / "out"
    main(
        [
            "ablate",
            str(tmp_path / "edits.yaml"),
            "--out",
            str(out),
            f"data.cache={tmp_path / 'cache'}",
            "--workers",
            "1",
        ]
    )
    rows = {row["arm"]: row for row in json.loads((out / "results.json").read_text())["rows"]}
    assert {*rows["raster"]["edits"]} == {"box", "cells", "wider"}
    box, other = rows["raster"]["edits"]["box"], rows["random inwards"]["edits"]["box"]
    assert box["passes"] == 16 and other["passes"] == 3 and box["hidden"] == other["hidden"] == 16
    assert box["outside"] == 0 and np.isfinite([box["nll_per_cell"], box["fid"], box["kid"], box["gflop"]]).all()
    wider = rows["random"]["edits"]["wider"]
    assert "nll_per_cell" not in wider and wider["passes"] == wider["hidden"] == 32
    tables = edit_tables(list(rows.values()))
    assert list(tables["NLL (nats per hidden cell)"].lines) == list(rows)
    assert tables["forward passes per image"].lines["random inwards"][1].text == "3.0"
    assert "## Edits: fid[digits-cnn]" in (out / "report.md").read_text()
    sheet = Image.open(out / "edit-box.png")
    assert sheet.height > 6 * 64, "images, holes, and a row per arm"
    assert "edit box" in (out / "report.html").read_text()
    on_larger = rows["random on a larger grid"]
    assert on_larger["nll"] is None and sum(on_larger["group_sizes"]) == 80 and on_larger["images_per_s"] > 0
    assert on_larger["edits"]["box"] == rows["random"]["edits"]["box"], "edits are of the images as they are"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("[box, cells, wider]", "[box, eyes]"), "unknown edits 'eyes'; choose from: box, random_box"),
        (
            ("attention: causal", "attention: causal, sample: {steps: 3}"),
            "attention 'causal' decodes one cell per step",
        ),
        (("{name: raster}, attention: causal", "{name: diagonal}, attention: neighbours"), "evaluate.edits=box: "),
        (("{grid: [8, 10]}", "{grid: [80, 100]}"), "sample.grid=[80, 100] is not possible"),
    ],
)
def test_what_cannot_be_edited_is_said_before_any_work(change, message, tmp_path, capsys):
    (tmp_path / "edits.yaml").write_text(STUDY.replace(*change))
    assert message in fails(capsys, "ablate", tmp_path / "edits.yaml", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()
