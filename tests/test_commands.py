"""The commands as a user types them: what they write, and one line with exit code 2 for bad input."""

import dataclasses
import errno
import json
import os
import shutil
import subprocess
import sys
from functools import partial
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from ablations.cli import main
from experiments.configs import find_config
from experiments.evaluate import evaluate_generator
from radar.config.load import load_config
from radar.data import load_data
from radar.errors import DiskFull
from radar.files import locked, locked_or_refused
from radar.networks.classifier import Classifier
from radar.scoring.evaluation import evaluate, open_references
from radar.scoring.reference import build_reference
from radar.scoring.samples import draw_samples
from radar.timing.rounds import measure_rounds, speed_columns
from radar.training.checkpoints import load_generator
from radar.training.runs import train_generator
from tests.command_line import fails

SMALL = ["model.dim=16", "model.heads=1", "model.layers=1", "train.batch_size=4", "train.warmup=1", "train.max_steps=2"]


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
    steps = {line[:22].strip(): int(line[22:28]) for line in lines[2:-3]}
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
    shown = {path.name for path in tmp_path.iterdir() if not path.name.startswith(".")}
    assert shown == {"samples.png", "film.png", "film.gif", "samples.npz"}


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
    for order, variant in (("raster", "causal"), ("radial", "nested")):
        names = [f"order.name={order}", f"attention={variant}", f"run={tmp_path / variant}"]
        generator = load_generator(train_generator(load_config(None, options + names)))
        torch.nn.init.zeros_(generator.module.model.head.weight)
        row, _ = evaluate(generator, open_references(generator), tmp_path)
        assert row["nll"] == pytest.approx(64 * np.log(17), rel=1e-6)


def test_a_reference_is_built_again_for_other_images_only(checkpoint):
    generator = load_generator(checkpoint)
    first = open_references(generator)
    assert open_references(load_generator(checkpoint, ["sample.temperature=0.5"])) is first
    changed = dataclasses.replace(generator.data, identity="other images under the same options")
    assert open_references(dataclasses.replace(generator, data=changed))[0].data is changed
    assert open_references(generator) is not first, "the last one is kept, no more"


def test_speed_counts_all_work(checkpoint, monkeypatch):
    """Every round samples once per arm; the first round is dropped; the speed-up is that of the images per second."""
    generator = load_generator(checkpoint, ["evaluate.timing_batch=2", "evaluate.timing_repeats=3"])
    seconds = iter([100.0, 100.0, 2.0, 1.0, 4.0, 1.0, 3.0, 1.5])
    monkeypatch.setattr("radar.timing.rounds.synchronised", lambda device, work: next(seconds))
    rounds = measure_rounds([generator, generator])
    assert rounds == [[2.0, 4.0, 3.0], [1.0, 1.0, 1.5]] and next(seconds, None) is None
    first, second = (speed_columns(times, 2, rounds[0]) for times in rounds)
    assert first["images_per_s"] == pytest.approx(2 / 3) and second["images_per_s"] == 2 and first["speedup"] == 1
    assert second["speedup"] == second["images_per_s"] / first["images_per_s"]
    assert (second["speedup_min"], second["speedup_max"]) == (2, 4)


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
        (["train.max_steps=x"], "train.max_steps=x is not possible: int expected"),
        (["train.layout=packd"], "unknown layout 'packd'"),
        (["train.corruption=noise"], "unknown corruption 'noise'"),
        (["train.precision=fp12"], "unknown precision 'fp12'"),
        (["train.device=tpu9"], "unknown device 'tpu9'"),
        (
            ["tokenizer.name=vq", "tokenizer.levels=none"],
            "tokenizer 'vq' must be trained or imported: train it first by `radar tokenizer CONFIG`",
        ),
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
    def idle(verb):
        begun = partial(pytest.fail, "it has begun")
        return SimpleNamespace(arguments=import_module(verb.module).arguments, main=lambda args: begun())

    monkeypatch.setattr("ablations.cli.load", idle)
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


def test_a_learned_tokenizer_end_to_end(tmp_path, cache, capsys):
    """Train vq, train a generator on its tokens, score it: rfid stands beside fid; a swapped tokenizer is refused."""
    small = ["data.images=60", "train.max_steps=3", "train.batch_size=4", "train.warmup=1", "tokenizer.width=8"]
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
    assert row["rfid_reference"] == "shapes-held-out (100)" and row["reference"] == "shapes-train (60)"
    assert row["rfid"] > 0 and 0 <= row["validity"] <= 1 and row["fid_feature"].startswith("shapes-cnn:")
    assert "the feature network shapes-cnn" in capsys.readouterr().err, "a judge that knows little is named"
    main(["evaluate", str(tmp_path / "a" / "last.ckpt"), "--out", str(tmp_path / "judged")])
    judged = json.loads((tmp_path / "judged" / "evaluation.json").read_text())
    assert judged["rfid"] == row["rfid"] and judged["fid_restored"] == row["fid_restored"] > 0, "the same images"
    assert judged["fid_floor"] == row["fid_floor"] and judged["floor_images"] == 20 and 5 < judged["psnr"] < 60
    assert 0 < judged["ssim"] < 1
    (tokens,) = (tmp_path / "cache").glob("tokens-*")
    with_b = f"tokenizer.checkpoint={tmp_path / 'b' / 'last.ckpt'}"
    error = fails(capsys, "train", "shapes_vq", *options, with_b, f"run={tmp_path / 'other'}", f"data.cache={tokens}")
    assert "was made with another tokenizer" in error
    line = fails(capsys, "sample", tmp_path / "a" / "last.ckpt", with_a)
    assert "is that of a tokenizer; one of a generator expected" in line
    error = fails(capsys, "sample", tmp_path / "run" / "last.ckpt", with_b)
    assert "was trained with other tokenizer (vq-256-width8-down4-" in error
    logged = (tmp_path / "a" / "csv" / "version_0" / "metrics.csv").read_text()
    assert "val/mse" in logged and "val/codebook_use" in logged and "val/perplexity" in logged


def test_a_reader_that_has_seen_enough():
    command = [sys.executable, "-c", "from ablations.cli import main; main(['options'])"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        assert process.stderr.read() == "" and process.wait() == 141


def test_one_training_at_a_time_in_a_run_folder(tmp_path, cache, capsys, monkeypatch):
    monkeypatch.setattr("radar.files.PATIENCE", 0.5)
    options = ["train", "digits", f"run={tmp_path / 'run'}", f"data.cache={cache}", *SMALL]
    with locked_or_refused(tmp_path / "run" / "training.lock", "it"):
        assert "run" in (error := fails(capsys, *options)) and "is in use by another process" in error
    main(options)


def test_paths_of_the_home_folder(tmp_path, cache, monkeypatch, capsys):
    """One folder, and not a second one named ~."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    main(["train", "digits", "run=~/x", f"data.cache={cache}", *SMALL])
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "home" / "x" / "last.ckpt")
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
    assert "run='' is not possible: it must be the name of a folder" in fails(capsys, "train", "digits", "run=")


def test_evaluate_tries_its_folder_before_the_work(checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("radar.scoring.evaluation.open_references", lambda generator: pytest.fail("it has begun"))
    copy = tmp_path / "run"
    shutil.copytree(checkpoint.parent, copy)
    monkeypatch.setattr("radar.files.os.access", lambda path, mode: Path(path) != copy)
    assert "no permission" in fails(capsys, "evaluate", copy / "last.ckpt")


@pytest.mark.parametrize("verb", ["sample", "evaluate"])
def test_a_folder_of_samples_is_not_shared(verb, checkpoint, tmp_path, capsys, monkeypatch):
    """The first to finish would delete what the other one draws."""
    monkeypatch.setattr("radar.files.PATIENCE", 0.0)
    with locked(tmp_path / ".samples.lock"):
        said = fails(capsys, verb, checkpoint, "--out", tmp_path)
    assert f"--out {tmp_path} is in use by another process" in said
    assert [path.name for path in tmp_path.iterdir()] == [".samples.lock"]


def test_a_process_that_only_draws_along_scores_nothing(checkpoint, tmp_path, monkeypatch):
    """Nor does it wait for the folder, which the first one holds."""
    drawn = []
    monkeypatch.setattr("experiments.evaluate.is_first", lambda train: False)
    monkeypatch.setattr("radar.scoring.sample_store.is_first", lambda train: False)
    monkeypatch.setattr("experiments.evaluate.draw_store", lambda *given: drawn.append(given))
    with locked(tmp_path / ".samples.lock"):
        assert evaluate_generator(str(checkpoint), ["evaluate.images=20"], tmp_path) is None
    assert drawn[0][1].images == 20 and not (tmp_path / "evaluation.json").exists()


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_a_cache_that_is_only_read(number, checkpoint, tmp_path, monkeypatch, capsys):
    """Nothing is kept there, and nothing is missing; a full disk is not taken for that."""

    def refused(*args: object, **options: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("radar.scoring.statistics.np.savez", refused)
    monkeypatch.setattr("radar.scoring.reference.np.save", refused)
    data = load_data(load_config(find_config("digits"), []).data)
    network = Classifier("any", 10, (8, 8)).eval()
    if number == errno.ENOSPC:
        with pytest.raises(DiskFull):
            build_reference(data, network, str(tmp_path), most=20)
        return
    reference = build_reference(data, network, str(tmp_path), most=20)
    assert reference.real.features.count == 20 and len(reference.trained) > 1000
    assert not list(tmp_path.glob("*.np*"))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (f"tokenizer.fsq_levels={[4] * 16}", "4294967296 codes, and 2 to 1048576 expected"),
        (f"tokenizer.fsq_levels={[4] * 31}", "codes, and 2 to 1048576 expected"),
        ("tokenizer.codebook=4294967295", "tokenizer.codebook=4294967295 is not possible: 4294967295 codes"),
        (
            "train.max_steps=9223372036854775807",
            "train.max_steps=9223372036854775807 is not possible: it must be at most",
        ),
        ("train.batch_size=99999999999", "train.batch_size=99999999999 is not possible: it must be at most"),
        ("order.sizes=[1,99999999999]", "order.sizes=99999999999 is not possible"),
        ("train.warmup=11", "train.warmup=11 is not possible: it must be at most train.max_steps=10"),
    ],
)
def test_numbers_without_bound(option, message, capsys, tmp_path):
    name = "vq" if "codebook" in option else "fsq"
    options = ["tokenizer.name=" + name, "tokenizer.levels=none", "train.max_steps=10"]
    assert message in fails(capsys, "tokenizer", "digits", *options, option, f"run={tmp_path}")


def test_what_a_missing_tokenizer_needs(tmp_path, capsys):
    tokenizer = ["tokenizer.name=vq", "tokenizer.levels=none", f"tokenizer.checkpoint={tmp_path / 'x.ckpt'}"]
    error = fails(capsys, "train", "digits", *tokenizer)
    assert "x.ckpt does not exist: train it first by `radar tokenizer CONFIG`" in error


def test_configurations_of_a_folder_are_listed(tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text("")
    assert f"{tmp_path} holds: mine.yaml" in fails(capsys, "train", tmp_path / "mina.yaml")
    assert "give a YAML file or one of: digits, digits_var, fashion, fashion_vqgan" in fails(capsys, "train", "digit")
    assert f"{tmp_path} holds: mine.yaml" in fails(capsys, "ablate", tmp_path / "x.yaml")
    assert "give a YAML file or one of: alignment, capacity" in fails(capsys, "ablate", "ordring")


def test_masks_take_the_options_of_an_order(tmp_path, capsys):
    path = tmp_path / "mask.png"
    main(["masks", "--order", "radial:metric=chebyshev", "--grid", "4x4", "--out", str(path)])
    assert path.exists()
    error = fails(capsys, "masks", "--order", "radial:metrik=chebyshev", "--grid", "4x4")
    assert "unknown option 'order.metrik'" in error


def test_small_linear_algebra_takes_one_thread(tmp_path):
    """On two cores the threads of a small matrix product wait for each other, at full load."""
    code = "from ablations.cli import main; import os; main(['orders', '--grid', '2x2']); import torch; "
    code += "print(torch.get_num_threads(), os.environ['OPENBLAS_NUM_THREADS'])"
    free = {key: value for key, value in os.environ.items() if not key.endswith("_NUM_THREADS")}
    result = subprocess.run([sys.executable, "-c", code], env=free, cwd=tmp_path, capture_output=True, text=True)
    assert result.stdout.splitlines()[-1] == "1 1", result.stderr
