"""`radar edit`: what it writes, from which images, and one line for what cannot be done."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ablations.cli import main
from radar.config.load import load_config
from radar.data import load_data
from radar.data.images import split_images
from radar.editing.edits import Edited, blended
from radar.editing.holes import KEEPS, hidden_by_keep, inside
from radar.editing.scores import SCORES, mean_of
from radar.editing.sources import images_to_edit
from radar.training.runs import train_generator
from tests.command_line import fails

SMALL = ["model.dim=16", "model.heads=1", "model.layers=1", "train.batch_size=4", "train.warmup=1", "train.max_steps=2"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, cache) -> Path:
    run = tmp_path_factory.mktemp("run")
    return train_generator(load_config(None, [*SMALL, f"run={run}", f"data.cache={cache}", "sample.correction=0.5"]))


def test_what_it_writes(checkpoint, tmp_path, capsys):
    main(["edit", str(checkpoint), "--box", "0.25,0.25,0.75,0.75", "--count", "12", "--out", str(tmp_path)])
    assert Image.open(tmp_path / "edit.png").width > 500 and Image.open(tmp_path / "film.gif").n_frames > 3
    row, arrays = json.loads((tmp_path / "edit.json").read_text()), np.load(tmp_path / "edited.npz")
    assert set(row["scores"]) == {*SCORES, "diversity"} and row["hidden_cells"] == 16 and row["edited"] == 12
    assert row["scores"]["outside"]["mean"] == row["scores"]["recoded"]["mean"] == 0, "a pixel is a cell here"
    real, labels = images_to_edit("held_out", load_data(load_config(None).data), 12, None)
    assert arrays["arr_1"].tolist() == labels.tolist() == [*range(10), 0, 1]
    hidden = torch.from_numpy(arrays["hidden"]).view(12, 1, 8, 8)
    after = torch.from_numpy(arrays["arr_0"]).permute(0, 3, 1, 2)
    assert ((after == real) | hidden).all() and (after != real).any() and hidden.sum() == 12 * 16
    assert "nll_per_cell" in capsys.readouterr().out


def test_a_class_edit_draws_the_class_that_is_asked_for(checkpoint, tmp_path):
    options = [
        "edit",
        str(checkpoint),
        "--task",
        "class-edit",
        "--keep",
        "left",
        "--count",
        "3",
        "--out",
        str(tmp_path),
    ]
    main([*options, "--to-class", "7"])
    assert np.load(tmp_path / "edited.npz")["arr_1"].tolist() == [7] * 3
    main(options)
    assert np.load(tmp_path / "edited.npz")["arr_1"].tolist() == [1, 2, 3]


def test_images_of_folders_and_files(tmp_path):
    data = load_data(load_config(None).data)
    images, labels = split_images(data.held_out, 3)
    for name, image in zip(("4", "9", "whatever"), images, strict=True):
        (tmp_path / name).mkdir()
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / name / "x.png")
    found, own = images_to_edit(str(tmp_path), data, 10, None)
    assert torch.equal(found, images) and own.tolist() == [4, 9, 10]
    assert images_to_edit(str(tmp_path), data, 2, 5)[1].tolist() == [5, 5]
    pixels = images.permute(0, 2, 3, 1).numpy()
    np.savez(tmp_path / "a.npz", arr_0=pixels, arr_1=labels.numpy())
    found, own = images_to_edit(str(tmp_path / "a.npz"), data, 2, None)
    assert torch.equal(found, images[:2]) and torch.equal(own, labels[:2])
    np.savez(tmp_path / "b.npz", arr_0=pixels)
    assert images_to_edit(str(tmp_path / "b.npz"), data, 9, None)[1].tolist() == [10] * 3, "no class"


@pytest.mark.parametrize("keep", list(KEEPS))
def test_what_is_kept(keep):
    for share in (0.0, 0.25, 0.5, 1.0):
        hidden = hidden_by_keep(f"{keep}:{share}", 8, 12, range(3))
        assert hidden.shape == (3, 96)
    half = hidden_by_keep(keep, 8, 12, range(3))
    share = 0.25 if keep == "border" else 0.5
    assert torch.equal(half, hidden_by_keep(f"{keep}:{share}", 8, 12, range(3)))
    assert (half[0] != half[1]).any() == (keep in ("random", "all_but_box"))
    assert half.sum(1).unique().tolist() == {"center": [72], "border": [24], "all_but_box": [24]}.get(keep, [48])


def test_nothing_of_the_original_shows_through_a_blended_hole():
    before, drawn = torch.full((1, 3, 8, 8), 200, dtype=torch.uint8), torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    hidden, none = ~inside(8, 8, (0, 0, 1, 0.5)).flatten()[None], torch.zeros(1, 64)
    mixed = blended(Edited(before, before, drawn, hidden, *[none] * 6), (8, 8), 1.0)
    assert (mixed[:, :, 4:] == 0).all() and (mixed[:, :, 3] > 0).all() and (mixed[:, :, 3] < 200).all()
    assert (mixed[:, :, 0] == 200).all()


def test_means_of_scores():
    assert mean_of(torch.tensor([1.0, float("nan")])) == (1.0, None, 1)
    assert mean_of(torch.tensor([float("nan")])) is None
    mean, half, count = mean_of(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    assert (mean, count) == (2, 3) and half == pytest.approx(4.303 / 3**0.5, abs=1e-3)


def test_a_cell_is_hidden_where_any_of_it_is():
    assert inside(4, 4, (0.25, 0.25, 0.75, 0.75)).sum() == 4
    assert inside(4, 4, (0.2, 0.2, 0.8, 0.8)).sum() == 16
    assert inside(3, 3, (0.4, 0.4, 0.41, 0.41)).sum() == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--box", "0.5,0.5,0.4,0.9"], "--box 0.5,0.5,0.4,0.9 is not possible"),
        (["--box", "0,0,1.5,1"], "--box 0,0,1.5,1 is not possible"),
        (["--box", "a,b"], "--box a,b is not of the form"),
        (["--keep", "middle"], "unknown part to keep 'middle'; choose from: left, "),
        (["--keep", "left:2"], "--keep left:2 is not possible"),
        (["--keep", "left:x"], "--keep left:x is not possible"),
        (["--keep", "left:1"], "there is no hole"),
        (["--keep", "left", "--box", "0,0,1,1"], "--box and --keep both say what is hidden"),
        (["--mask", "none.png"], "--mask none.png does not exist"),
        (["--mask", "text.png"], "--mask text.png is no picture that can be read"),
        (["--revise-given", "sample.correction=0"], "--revise-given has no effect without sample.correction"),
        (["--images", "strings.npz"], "--images strings.npz cannot be read as .npz with arr_0 (ValueError)"),
        (["--images", "number.npz"], "--images number.npz cannot be read as .npz with arr_0 (IndexError)"),
        (["--images", "unknown", "--task", "class-edit"], "--task class-edit needs --to-class"),
        (["evaluate.features=[]"], "evaluate.features=[] is not possible"),
        (["sample.images=3"], "'sample.images=3' has no effect on radar edit"),
        (["--mask", "large.png"], "--mask large.png has 9x8 pixels, the images 8x8"),
        (["--task", "paint"], "unknown task 'paint'; choose from: inpaint, outpaint, class-edit"),
        (["--encode", "half"], "unknown encoding 'half'"),
        (["--to-class", "3"], "--to-class 3 has no effect with --task inpaint"),
        (["--task", "class-edit", "--to-class", "cat"], "class 'cat' is none of the model's: 0, 1, 2"),
        (["--class", "cat"], "class 'cat' is none of the model's"),
        (["--images", "nowhere"], "--images nowhere is neither a folder nor an .npz file"),
        (["--images", "empty"], "--images empty holds no images"),
        (["--images", "sizes"], "large.png has 9x8 pixels, the model's images 8x8"),
        (["--images", "broken"], "image broken/x.png cannot be read: not an image"),
        (["--images", "text.npz"], "--images text.npz cannot be read as .npz with arr_0"),
        (["--images", "floats.npz"], "--images floats.npz: arr_0 is float64 (2, 8, 8, 3), and uint8"),
        (["--images", "labels.npz"], "--images labels.npz: arr_1 is not 2 numbers of the model's classes"),
        (
            ["--order", "halton"],
            "sample.order=halton: sample.order=halton needs a model that was trained on many orders",
        ),
        (["--steps", "0"], "sample.steps=0 is not possible"),
        (["--count", "0"], "--count 0 is not possible"),
        (["--blend", "-1"], "--blend -1.0 is not possible"),
        (["order.name=halton"], "'order.name=halton' would change what was trained"),
    ],
)
def test_bad_input_is_one_line(arguments, message, checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("empty", "sizes", "broken"):
        Path(name).mkdir()
    for path in ("text.png", "broken/x.png", "text.npz"):
        Path(path).write_text("text")
    for path in ("large.png", "sizes/large.png"):
        Image.new("RGB", (9, 8)).save(path)
    Path("unknown").mkdir()
    Image.new("RGB", (8, 8)).save("unknown/x.png")
    np.savez("strings.npz", arr_0=np.zeros((2, 8, 8, 3), np.uint8), arr_1=np.array(["cat", "dog"]))
    np.savez("number.npz", arr_0=np.uint8(3))
    np.savez("floats.npz", arr_0=np.zeros((2, 8, 8, 3)))
    np.savez("labels.npz", arr_0=np.zeros((2, 8, 8, 3), np.uint8), arr_1=np.array([0, 11]))
    assert message in fails(capsys, "edit", checkpoint, "--out", "made", *arguments)
    assert not Path("made").exists(), "nothing is written"


def test_attention_that_decodes_one_cell_per_step(tmp_path, cache, capsys):
    options = [*SMALL, "order.name=raster", "attention=causal", f"run={tmp_path / 'run'}", f"data.cache={cache}"]
    made = train_generator(load_config(None, options))
    main(["edit", str(made), "--count", "2", "--out", str(tmp_path / "cells")])
    assert json.loads((tmp_path / "cells" / "edit.json").read_text())["passes"] == [16]
    message = fails(capsys, "edit", made, "--count", "2", "--steps", "3", "--out", tmp_path / "made")
    assert "attention 'causal' decodes one cell per step" in message
