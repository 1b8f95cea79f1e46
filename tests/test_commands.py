"""The commands as a user types them: what they write, and one line with exit code 2 for bad input."""

import dataclasses
import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ablations.cli import main
from experiments.evaluate import evaluate, measure_speed, open_reference
from experiments.sample import draw_samples
from experiments.train import train_generator
from radar.checkpoints import load_generator
from radar.config import load_config
from radar.features import train_classifier
from tests.command_line import fails

SMALL = ["model.dim=16", "model.heads=1", "model.layers=1", "train.batch_size=4", "train.warmup=1", "train.steps=2"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, cache) -> Path:
    run = tmp_path_factory.mktemp("run")
    return train_generator(load_config(None, [*SMALL, f"run={run}", f"data.cache={cache}", "evaluate.images=60"]))


def test_orders(tmp_path, capsys):
    main(["orders", "--grid", "16x16", "--out", str(tmp_path / "orders.png")])
    lines = capsys.readouterr().out.splitlines()
    steps = {line[:20].strip(): int(line[20:26]) for line in lines[2:-1]}
    assert steps["raster"] == 256 and steps["radial"] == 13 and steps["diagonal"] == 31
    assert steps["radial chebyshev"] == 9 and steps["radial manhattan"] == 17
    assert Image.open(tmp_path / "orders.png").width > 500


@pytest.mark.parametrize("grid", ["1x1", "3x5"])
def test_orders_of_odd_grids(grid, tmp_path, capsys):
    main(["orders", "--grid", grid, "--out", str(tmp_path / "orders.png")])
    assert (tmp_path / "orders.png").exists()


def test_masks(tmp_path, capsys):
    main(["masks", "--order", "radial", "--variant", "nested", "--grid", "8x8", "--out", str(tmp_path / "mask.png")])
    assert Image.open(tmp_path / "mask.png").width > 500


def test_sample(checkpoint, tmp_path, capsys):
    main(["sample", str(checkpoint), "--out", str(tmp_path), "sample.images=12", "sample.correction=0.5"])
    archive = np.load(tmp_path / "samples.npz")
    assert archive["arr_0"].shape == (12, 8, 8, 3) and archive["arr_0"].dtype == np.uint8
    assert archive["arr_1"].tolist() == [*range(10), 0, 1]
    with Image.open(tmp_path / "film.gif") as film:
        assert film.n_frames == 8, "seven passes and the result"
    assert {path.name for path in tmp_path.iterdir()} == {"samples.png", "film.png", "film.gif", "samples.npz"}


def test_samples_do_not_depend_on_the_batch_size(checkpoint):
    images = [
        draw_samples(generator, generator.config.sample).images
        for generator in (load_generator(checkpoint, ["sample.images=9", f"sample.batch_size={b}"]) for b in (1, 4, 9))
    ]
    assert torch.equal(images[0], images[1]) and torch.equal(images[1], images[2])


def test_evaluate(checkpoint, tmp_path, capsys):
    main(["evaluate", str(checkpoint), "--out", str(tmp_path), "evaluate.timing_repeats=2", "evaluate.timing_batch=4"])
    row = json.loads((tmp_path / "evaluation.json").read_text())
    assert row["steps"] == 7 and row["order"] == "radial" and row["samples"] == 60
    assert row["images_per_s"] > 0 and "speedup" not in row and row["train_tflops"] > 0
    assert {"nll", "fid", "kid", "precision", "recall", "accuracy", "duplicates", "fid_floor", "commit"} <= row.keys()
    assert "fid[digits-cnn]" in capsys.readouterr().out


def test_nll_of_a_uniform_model(tmp_path, cache):
    """N log V exactly, through the whole evaluation."""
    options = [*SMALL, f"run={tmp_path}", f"data.cache={cache}", "evaluate.images=20", "evaluate.metrics=[]"]
    for order, variant in (("raster", "causal"), ("radial", "plain"), ("radial", "nested")):
        names = [f"order.name={order}", f"attention={variant}", f"run={tmp_path / variant}"]
        generator = load_generator(train_generator(load_config(None, options + names)))
        torch.nn.init.zeros_(generator.module.model.head.weight)
        row, _ = evaluate(generator, open_reference(generator))
        assert row["nll"] == pytest.approx(64 * np.log(17), rel=1e-6)


def test_a_reference_is_built_again_for_other_images_only(checkpoint, monkeypatch):
    monkeypatch.setattr("radar.features.train_classifier", partial(train_classifier, steps=5))
    generator = load_generator(checkpoint)
    first = open_reference(generator)
    assert open_reference(load_generator(checkpoint, ["sample.temperature=0.5"])) is first
    changed = dataclasses.replace(generator.data, identity="other images under the same options")
    assert open_reference(dataclasses.replace(generator, data=changed)).data is changed
    assert open_reference(generator) is not first, "the last one is kept, no more"


def test_speed_counts_all_work(checkpoint, monkeypatch):
    """Every round samples once per arm; the first round is dropped; the ratio is within a round."""
    generator = load_generator(checkpoint, ["evaluate.timing_batch=2", "evaluate.timing_repeats=3"])
    seconds = iter([100.0, 100.0] + [2.0, 1.0] * 3)
    monkeypatch.setattr("experiments.evaluate.synchronised", lambda device, work: next(seconds))
    first, second = measure_speed([generator, generator])
    assert first["images_per_s"] == 1 and second["images_per_s"] == 2
    assert (first["speedup"], second["speedup"]) == (1, 2)
    assert next(seconds, None) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["order.name=radal"], "unknown order 'radal'"),
        (["order.steps=65"], "order.steps=65 is not possible: a grid of 64 cells takes 1..64 steps"),
        (["order.center=[8,8]"], "start cell [8, 8] is outside the 8x8 grid"),
        (["attention=causal"], "attention 'causal' decodes one cell per step, but the order has a step of"),
        (["attention=nestd"], "unknown attention 'nestd'"),
        (["attention=plain", "revise.rings=1"], "attention 'plain' takes no option 'rings'; it takes: none"),
        (["attention=full", "sample.revise_every=2"], "attention 'full' takes no option 'every'; it takes: none"),
        (["attention=nested", "sample.revise_rings=0"], "attention 'nested' with rings=0, every=1 is not possible"),
        (["train.steps=x"], "train.steps=x is not possible: int expected"),
        (["train.layout=packd"], "unknown layout 'packd'"),
        (["train.corruption=noise"], "unknown corruption 'noise'"),
        (["train.precision=fp12"], "unknown precision 'fp12'"),
        (["train.device=tpu9"], "unknown device 'tpu9'"),
        (["tokenizer.name=vq", "tokenizer.levels=none"], "tokenizer 'vq' must be trained or imported first"),
        (["nonsense=1"], "unknown option 'nonsense'"),
        (["data.name=folder", "data.root=nowhere"], "data.root='nowhere' is not a folder"),
    ],
)
def test_bad_training(options, message, tmp_path, capsys):
    error = fails(capsys, "train", "digits", f"run={tmp_path / 'run'}", f"data.cache={tmp_path / 'cache'}", *options)
    assert message in error
    assert not (tmp_path / "run").exists() and not list(tmp_path.rglob("*.ckpt")), "nothing is half-written"


def test_bad_files(checkpoint, tmp_path, capsys):
    assert "there is no configuration 'nowhere'" in fails(capsys, "train", "nowhere")
    assert "checkpoint nowhere.ckpt does not exist" in fails(capsys, "sample", "nowhere.ckpt")
    (tmp_path / "cut.ckpt").write_bytes(checkpoint.read_bytes()[:5000])
    for verb in ("sample", "evaluate"):
        error = fails(capsys, verb, tmp_path / "cut.ckpt", "--out", tmp_path / "out")
        assert "is damaged or not a checkpoint" in error
    assert not (tmp_path / "out").exists()
    assert "unknown option" in fails(capsys, "sample", checkpoint, "sample.imges=3")
    assert "sample.images=0" in fails(capsys, "sample", checkpoint, "sample.images=0")
    assert "unknown metric" in fails(capsys, "evaluate", checkpoint, "evaluate.metrics=[is]")
    assert "--grid 16 is not of the form" in fails(capsys, "orders", "--grid", "16")
    assert "unknown attention 'nestd'" in fails(capsys, "masks", "--variant", "nestd")
    assert "is not trained here" in fails(capsys, "tokenizer", "digits")


def test_unreadable_image(tmp_path, capsys):
    for name in ("a", "b"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(4):
            Image.new("RGB", (9, 9), (20 * i, 99, 0)).save(tmp_path / "images" / name / f"{i}.png")
    (tmp_path / "images" / "b" / "5.png").write_bytes(b"not an image")
    options = ["data.name=folder", f"data.root={tmp_path / 'images'}", "data.size=8", "data.held_out=0.5"]
    options += [f"data.cache={tmp_path / 'cache'}", f"run={tmp_path / 'run'}"]
    assert "1 unreadable images in" in (error := fails(capsys, "train", "digits", *options)) and "b/5.png" in error
    assert not (tmp_path / "run").exists()


def test_bad_command_lines(checkpoint, capsys):
    assert "invalid choice: 'trian'" in fails(capsys, "trian")
    assert "argument --steps: invalid int value: 'x'" in fails(capsys, "orders", "--steps", "x")
    assert "sample does not take '--outt'" in fails(capsys, "sample", checkpoint, "--outt", "x")
    assert "orders does not take 'a=1'" in fails(capsys, "orders", "a=1")
    assert "seed=4294967296 is not possible" in fails(capsys, "train", "digits", "seed=4294967296")


def test_out_is_tried_before_the_work(checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("ablations.cli.import_module", lambda module: pytest.fail("it has begun"))
    (tmp_path / "file").write_text("")
    for command in (["gap"], ["orders"], ["evaluate", checkpoint], ["ablate", "masks"], ["bench"]):
        assert "file is no folder" in fails(capsys, *command, "--out", tmp_path / "file" / "deep" / "x")
    with pytest.raises(pytest.fail.Exception, match="it has begun"):
        main(["bench", "--compare", "a.json", "b.json", "--out", str(tmp_path / "file" / "x")])
    assert "it is a folder" in fails(capsys, "gap", "--save", tmp_path)
    assert "file is no folder" in fails(capsys, "sample", checkpoint, "--out", tmp_path / "file")


def test_new_options_for_a_training_that_is_finished(checkpoint, cache, tmp_path, capsys):
    (tmp_path / "defaults.yaml").write_text("data: {name: digits}")
    options = ["train", str(tmp_path / "defaults.yaml"), f"run={checkpoint.parent}", f"data.cache={cache}", *SMALL]
    options += ["evaluate.images=60"]
    assert "sample.temperature=0.5 has no effect" in fails(capsys, *options, "sample.temperature=0.5")
    assert "evaluate.images=61 has no effect" in fails(capsys, *options, "evaluate.images=61")
    line = fails(capsys, *options, "order.name=halton", "sample.temperature=0.5")
    assert "belongs to another configuration (order.name: radial" in line
    main(options)
    assert capsys.readouterr().out.strip() == str(checkpoint), "the same command again"


def test_broken_run_folder(checkpoint, tmp_path, cache, capsys):
    (tmp_path / "last.ckpt").write_bytes(b"broken")
    error = fails(capsys, "train", "digits", f"run={tmp_path}", f"data.cache={cache}", *SMALL)
    assert "is damaged or not a checkpoint" in error


def test_a_learned_tokenizer_end_to_end(tmp_path, cache, capsys, monkeypatch):
    """Train vq, train a generator on its tokens, score it: rfid stands beside fid; a swapped tokenizer is refused."""
    monkeypatch.setattr("radar.features.train_classifier", partial(train_classifier, steps=5))
    small = ["data.images=60", "train.steps=3", "train.batch_size=4", "train.warmup=1", "tokenizer.width=8"]
    small += [f"data.cache={tmp_path / 'cache'}", "model.dim=16", "model.heads=1", "model.layers=1"]
    small += ["evaluate.images=20", "evaluate.timing_repeats=1", "evaluate.timing_batch=2"]
    for name in ("a", "b"):
        seed = ["seed=1"] if name == "b" else []
        main(["tokenizer", "shapes_vq", f"run={tmp_path / name}", "tokenizer.checkpoint=none", *small, *seed])
    options = [*small, f"run={tmp_path / 'run'}"]
    with_a = f"tokenizer.checkpoint={tmp_path / 'a' / 'last.ckpt'}"
    main(["train", "shapes_vq", *options, with_a])
    main(["evaluate", str(tmp_path / "run" / "last.ckpt")])
    row = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert row["rfid"] > 0 and 0 <= row["validity"] <= 1 and row["fid_feature"].startswith("shapes-cnn:")
    (tokens,) = (tmp_path / "cache").glob("tokens-*")
    with_b = f"tokenizer.checkpoint={tmp_path / 'b' / 'last.ckpt'}"
    error = fails(capsys, "train", "shapes_vq", *options, with_b, f"run={tmp_path / 'other'}", f"data.cache={tokens}")
    assert "was made with another tokenizer" in error
    assert "does not fit this model" in fails(capsys, "sample", tmp_path / "a" / "last.ckpt", with_a)
    error = fails(capsys, "sample", tmp_path / "run" / "last.ckpt", with_b)
    assert "was trained with other tokenizer (vq-256-width8-down4-" in error
    logged = (tmp_path / "a" / "csv" / "version_0" / "metrics.csv").read_text()
    assert "val/mse" in logged and "val/codebook_use" in logged and "val/perplexity" in logged


def test_a_reader_that_has_seen_enough():
    command = [sys.executable, "-c", "from ablations.cli import main; main(['methods'])"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        assert process.stderr.read() == "" and process.wait() == 141
