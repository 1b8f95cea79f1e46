"""`radar new`: what it writes runs as written, on images as people have them."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from ablations.cli import main
from radar.config.load import to_config
from radar.config.options import DataConfig
from radar.data import load_data
from radar.decoding.groups import step_sizes
from radar.decoding.orders import decode_steps
from tests.command_line import fails
from tests.test_studies import quick_workers

__all__ = ["quick_workers"]  # a fixture


@pytest.fixture(autouse=True)
def images(tmp_path, monkeypatch):
    """Sixty images of odd sizes in one folder, with names that need care."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "my images é"
    folder.mkdir()
    random = np.random.default_rng(0)
    for i in range(60):
        pixels = random.integers(256, size=(17 + i, 50 - i // 2, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"Bild {i}: 画像.png")
    return folder


def test_a_study_that_runs_as_written(images, capsys):
    main(["new", "mine", "--images", images.name, "--size", "16", "--orders", "radial,raster", "--variants",
          "plain,causal", "--steps", "4", "--max-steps", "2"])  # fmt: skip
    written = yaml.safe_load(Path("mine.yaml").read_text())
    sizes = [
        step_sizes(decode_steps(to_config({"order": arm["order"]}).order, 4, 4))
        for arm in written["arms"].values()
        if arm["attention"] == "plain"
    ]
    assert sizes[0] == sizes[1] and len(sizes[0]) == 4, "groups of equal sizes"
    assert written["arms"]["radial/causal"]["order"]["steps"] == 16, "cell by cell"
    text = Path("mine.yaml").read_text().replace("seeds: [0, 1, 2]", "seeds: [0]").replace("images: 1000", "images: 40")
    Path("mine.yaml").write_text(text.replace("dim: 128, layers: 6", "dim: 16, layers: 1"))
    main(["ablate", "mine.yaml", "--workers", "1", "evaluate.timing_repeats=1", "evaluate.timing_batch=4"])
    assert "| radial/plain " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--orders", "spiral"], "unknown order 'spiral'; choose from: raster"),
        (["--variants", "sparse"], "unknown attention 'sparse'; choose from: causal"),
        (["--variants", ","], "',' names nothing: names by commas expected"),
        (["--size", "30"], "--size 30 is not possible: a multiple of 4"),
        (["--steps", "99"], "order.steps=99 is not possible: a grid of 64 cells takes 1..64 steps"),
        (["--max-steps", "0"], "--max-steps 0 is not possible: at least 1"),
        (["--orders", "file"], "order 'file'"),
        (["--variants", "block_causal"], "block_causal"),
        (["--images", "nowhere"], "data.root='nowhere' is not a folder"),
    ],
)
def test_bad_input(images, options, line, capsys, tmp_path):
    words = ["--images", images.name] if "--images" not in options else []
    assert line in fails(capsys, "new", "mine", *words, *options)
    assert not (tmp_path / "mine.yaml").exists()


def test_a_file_that_is_there_is_kept(images, capsys, tmp_path):
    (tmp_path / "mine.yaml").write_text("mine")
    assert "mine.yaml is there already" in fails(capsys, "new", "mine", "--images", images.name)
    assert (tmp_path / "mine.yaml").read_text() == "mine"
    assert "'../mine' is no name of a study" in fails(capsys, "new", "../mine", "--images", images.name)


def test_images_beside_the_folders_of_classes_are_left_out(images, capsys):
    (images / "a").mkdir()
    for i in range(4):
        Image.new("RGB", (20, 20), (60 * i, 0, 0)).save(images / "a" / f"{i}.png")
    data = load_data(DataConfig(name="folder", root=str(images), size=16, held_out=0.25))
    assert data.classes == ("a",) and len(data.train) == 3
    assert "left out what lies beside the folders of classes (images: 60)" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["2019_05", "007", "null", "true", "it's"])
def test_names_that_look_like_something_else(name, images, tmp_path):
    images.rename(tmp_path / name)
    main(["new", "on", "--images", name, "--size", "16", "--steps", "4"])
    written = yaml.safe_load(Path("on.yaml").read_text())
    assert written["name"] == "on" and written["config"]["data"]["root"] == name


def test_files_that_cannot_be_read(images, capsys):
    (images / "none.png").touch()
    words = ["new", "mine", "--images", images.name, "--size", "16", "--steps", "4"]
    assert "1 unreadable image" in fails(capsys, *words) and not Path("mine.yaml").exists()
    main([*words, "--skip-unreadable"])
    assert yaml.safe_load(Path("mine.yaml").read_text())["config"]["data"]["skip_unreadable"] is True
