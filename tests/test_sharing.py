"""Trained generators in Python and as folders: the same images from a checkpoint, an export, and the hub."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import radar
from ablations.cli import main
from radar.errors import InputError
from radar.training.checkpoints import load_tokenizer
from tests.command_line import fails
from tests.stub_hub import stub_hub

TINY = ["model.dim=16", "model.heads=1", "model.layers=1", "train.batch_size=8", "train.warmup=1", "train.val_every=2"]


@pytest.fixture(scope="module")
def room(tmp_path_factory) -> Path:
    """A folder with a trained generator of digits, and one of images of one's own with a learned tokenizer."""
    from PIL import Image

    room = tmp_path_factory.mktemp("room")
    for i in range(60):
        path = room / "images" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 16), (4 * i, 99, 255 - 4 * i)).save(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(room)
        radar.train("digits", *TINY, "train.max_steps=4", run="runs/digits", order="halton:steps=7")
        own = ["data.name=folder", "data.root=images", "data.size=16", "data.held_out=0.3"]
        words = ["tokenizer.name=fsq", "tokenizer.width=8", "tokenizer.fsq_levels=[4,4]"]
        main(["tokenizer", "shapes_fsq", *own, *words, "tokenizer.checkpoint=runs/t/last.ckpt",
              "data.images=null", "train.max_steps=2",
              "train.batch_size=4", "train.warmup=1", "train.val_every=2"])  # fmt: skip
        main(["train", "digits", *own, "tokenizer.name=fsq", "tokenizer.levels=null", "run=runs/own",
              "tokenizer.checkpoint=runs/t/last.ckpt", *TINY, "train.max_steps=2"])  # fmt: skip
        main(["export", "runs/digits/last.ckpt", "digits", "--licence", "apache-2.0"])
        main(["export", "runs/own/last.ckpt", "own", "sample.images=4"])
    return room


@pytest.fixture(autouse=True)
def there(room, monkeypatch):
    monkeypatch.chdir(room)


def test_training_and_loading_in_python(room):
    model = radar.load("runs/digits/last.ckpt")
    assert model.config.order.name == "halton" and model.config.order.steps == 7 and model.grid == (8, 8)
    assert "halton" in repr(model)
    drawn = model.sample(labels=[3, "5", 3], steps=5, seed=1)
    assert drawn.images.shape == (3, 3, 8, 8) and drawn.labels.tolist() == [3, 5, 3]
    again = radar.load("runs/digits/last.ckpt", "sample.steps=5").sample(images=7, seed=1)
    assert again.labels.tolist() == list(range(7)), "by default the classes take turns"
    alone = model.sample(labels=[3], steps=5, seed=1)
    assert torch.equal(alone.tokens[0], drawn.tokens[0]), "an image depends on its number and label alone"
    assert model.sheet(drawn).size[0] > 8


def test_a_training_goes_on_in_python(room):
    before = radar.load("runs/digits/last.ckpt").generator.train_seconds
    model = radar.train("digits", *TINY, "train.max_steps=4", run="runs/digits", order="halton:steps=7")
    assert model.generator.train_seconds == before, "it was done"


def test_judging_and_editing_in_python(room):
    model = radar.load("runs/digits/last.ckpt")
    images, labels = model.held_out(4)
    assert model.nll(images, labels.tolist()).shape == (4,)
    edited = model.edit(images, labels.tolist(), hidden=(0.0, 0.0, 0.5, 1.0), steps=2)
    assert torch.equal(edited.after[:, :, :, 4:], images[:, :, :, 4:]), "what is given stays"
    assert edited.hidden.sum() == 4 * 32


def test_an_order_that_is_an_array(room, tmp_path):
    steps = torch.arange(64).flip(0) // 8
    options = {"run": str(tmp_path / "run"), "order": steps, "attention": "plain"}
    model = radar.train("digits", *TINY, "train.max_steps=2", **options)
    assert torch.equal(model.generator.module.order.step, steps)
    assert repr(model.sample(images=3)) == "<3 samples of 8x8 pixels>"
    with pytest.raises(InputError, match=r"belongs to another configuration|was trained in another order"):
        radar.train("digits", *TINY, "train.max_steps=2", **options | {"order": steps.flip(0)})
    for wrong in (steps[:63], [[1, 2], [3]], torch.tensor(5), steps + 1, steps.float() / 2):
        with pytest.raises(InputError):
            radar.train("digits", *TINY, "train.max_steps=2", run=str(tmp_path / "other"), order=wrong)
        assert not (tmp_path / "other").exists(), "nothing half-written"


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda m: m.sample(labels=[11]), r"label 11 is not possible: 0..9, or 10 for none"),
        (lambda m: m.sample(labels=["eleven"]), "class 'eleven' is none of the model's"),
        (lambda m: m.sample(labels=[1], images=2), "labels and images both say"),
        (lambda m: m.sample(stepz=3), "stepz"),
        (lambda m: m.sample(steps=65), "sample.steps=65"),
        (lambda m: m.sample(solver="ddim"), "sample.solver=ddim has no effect on an autoregressive generator"),
        (lambda m: m.edit(m.held_out(1)[0], [1], hidden="nothing"), "nothing"),
        (lambda m: m.sample(labels=3), "labels=3 is not possible: a list of numbers or names expected"),
        (lambda m: m.sample(labels=[1.9]), "a list of numbers or names expected"),
        (lambda m: m.held_out(0), "0 held-out images are not possible"),
        (lambda m: m.nll(m.held_out(2)[0], [1]), "1 labels of 2 images: one of each"),
        (lambda m: m.nll(m.held_out(2)[0] / 255, [1, 2]), "torch.float32 are not possible"),
        (lambda m: m.nll(torch.zeros(1, 3, 16, 16, dtype=torch.uint8), [1]), r"\(1, 3, 16, 16\), torch.uint8 are not"),
        (lambda m: m.edit(m.held_out(1)[0][0], [1]), r"images of shape \(3, 8, 8\)"),
        (lambda m: m.sample(labels=[None]), r"labels=\[None\] is not possible"),
        (lambda m: m.sheet(None), r"sheet\(NoneType\) is not possible: what `sample` returns is expected"),
        (lambda m: m.nll(None, [1]), "images of type NoneType are not possible"),
        (lambda m: radar.train("digits", 5), "a configuration, options 'key=value' and groups by name expected"),
        (lambda m: radar.train("digits", attention=len), "a name expected; plugins="),
        (lambda m: radar.train("digits", order=torch.ones(64) / 2), "a name, or an array of whole numbers"),
        (lambda m: radar.independence_gap(None, torch.eye(1)), "NoneType is no tensor of numbers"),
        (lambda m: radar.orders.gap(torch.arange(4), (2, 2)), "a name, with options behind colons, expected"),
        (lambda m: m.edit(m.held_out(1)[0], [1], hidden=torch.ones(8, 8).bool()), "four numbers expected"),
        (lambda m: radar.load("runs/t/last.ckpt"), "is that of a tokenizer; one of a generator expected"),
        (lambda m: radar.independence_gap(torch.arange(3), torch.eye(4)), r"a covariance \(4, 4\) are not possible"),
        (lambda m: radar.independence_gap(torch.arange(2), -torch.eye(2)), "not positive definite"),
        (lambda m: radar.exponential_covariance(-1, 4), "a grid of -1x4 is not possible"),
    ],
)
def test_bad_calls(call, line):
    with pytest.raises(InputError, match=line):
        call(radar.load("runs/digits/last.ckpt"))


@pytest.mark.parametrize(("checkpoint", "folder"), [("runs/digits/last.ckpt", "digits"), ("runs/own/last.ckpt", "own")])
def test_an_exported_folder_draws_the_same(checkpoint, folder):
    expected = radar.load(checkpoint).sample(images=6, seed=3)
    found = radar.load(folder).sample(images=6, seed=3)
    assert torch.equal(found.images, expected.images) and torch.equal(found.labels, expected.labels)
    card = (Path(folder) / "README.md").read_text()
    assert (
        f"{1 + int(radar.load(folder).generator.module.step.max())} forward passes" in card
        and "radar.load" in card
        and str(Path.cwd()) not in card
    )
    assert str(Path.cwd()) not in (Path(folder) / "config.json").read_text()


def test_without_its_images_it_samples_and_says_what_is_missing(room, monkeypatch, tmp_path, capsys):
    """As somebody else has it: another folder, another machine."""
    monkeypatch.chdir(tmp_path)
    folder = str(room / "own")
    main(["sample", folder, "sample.images=4", "--out", "drawn"])
    assert {"film.gif", "film.png", "samples.npz", "samples.png"} <= {path.name for path in Path("drawn").iterdir()}
    assert radar.load(folder).classes == ("a", "b")
    with pytest.raises(InputError, match="the images are not here"):
        radar.load(folder).held_out(2)
    capsys.readouterr()
    assert "came without its images, which scores compare with: give data.root=FOLDER" in fails(
        capsys, "evaluate", folder
    )
    assert "data.root='nowhere' is not a folder" in fails(capsys, "evaluate", folder, "data.root=nowhere")


def test_its_tokenizer_is_one_too(room):
    """Exported alone, or as a part of a generator."""
    main(["export", "runs/t/last.ckpt", "tokens"])
    original = radar.load("runs/own/last.ckpt").generator.tokenizer
    for folder in ("tokens", "own/tokenizer"):
        config = radar.load("runs/own/last.ckpt").config.tokenizer
        config.checkpoint = folder
        images = torch.randint(256, (2, 3, 16, 16), dtype=torch.uint8)
        assert torch.equal(load_tokenizer(config).encode(images), original.encode(images))


def row_of(folder: str, **sample: object) -> dict:
    """As `radar evaluate` writes it of an exported training, sampled so."""
    told = json.loads((Path(folder) / "config.json").read_text())["radar"]
    options = told["config"] | {"sample": told["config"]["sample"] | sample}
    return {"options": options, "kept_step": told["step"], "fid": 1.25, "steps": 7, "fid_feature": "digits-cnn:77",
            "samples": 9, "reference": "digits", "commit": "c", "hardware": "h", "sample_precision": "32-true",
            "timing_batch": 4}  # fmt: skip


def test_scores_are_those_of_this_training_and_sampling(room, capsys, tmp_path):
    row = tmp_path / "row.json"
    row.write_text(json.dumps(row_of("digits")))
    main(["export", "runs/digits/last.ckpt", "scored", "--scores", str(row)])
    assert "| fid[digits-cnn] | 1.25 |" in Path("scored/README.md").read_text()
    main(["export", "scored", "again"])
    assert "1.25" in Path("again/README.md").read_text(), "an exported folder is exported with its scores"
    for what, options in {
        "another training than": ["runs/own/last.ckpt"],
        "another way of sampling (sample.guidance=1.0) than": ["runs/digits/last.ckpt", "sample.guidance=4"],
    }.items():
        assert f"are scores of {what}" in fails(capsys, "export", options[0], "wrong", "--scores", row, *options[1:])
    row.write_text(json.dumps(row_of("digits") | {"kept_step": 2}))
    assert "another optimizer step" in fails(capsys, "export", "runs/digits/last.ckpt", "wrong", "--scores", row)
    row.write_text(json.dumps({key: value for key, value in row_of("digits").items() if key != "fid_feature"}))
    line = fails(capsys, "export", "runs/digits/last.ckpt", "wrong", "--scores", row)
    assert "is no row of `radar evaluate`" in line and "fid_feature" in line
    assert not Path("wrong").exists()


def test_no_path_of_this_machine_goes_out(room, capsys):
    row = row_of("own")
    row["options"]["data"]["root"] = row["options"]["tokenizer"]["checkpoint"] = str(Path.cwd() / "secret")
    row["options"]["evaluate"]["features"] = [str(Path.cwd() / "network.pt")]
    Path("own_row.json").write_text(json.dumps(row))
    main(["export", "runs/own/last.ckpt", "clean", "--scores", "own_row.json"])
    for path in Path("clean").rglob("*"):
        if path.suffix in (".json", ".md"):
            assert str(Path.cwd()) not in path.read_text(), path


def test_a_tokenizer_takes_no_other_options(room, capsys):
    line = fails(capsys, "export", "runs/t/last.ckpt", "wrong", "sample.images=3")
    assert "'sample.images=3' has no effect on a tokenizer" in line
    assert "--scores has no effect" in fails(capsys, "export", "runs/t/last.ckpt", "wrong", "--scores", "x.json")


@pytest.mark.parametrize("told", [{"radar": {}}, {}, [], {"radar": 3}])
def test_a_damaged_description_is_one_line(told, room, tmp_path, capsys):
    shutil.copytree("digits", tmp_path / "damaged")
    (tmp_path / "damaged" / "config.json").write_text(json.dumps(told))
    assert "is damaged or was not written by `radar export`" in fails(capsys, "sample", tmp_path / "damaged")


@pytest.mark.parametrize(
    ("place", "value"), [("config", 3), ("data", {"name": "x"}), ("seconds", None), ("origin", [])]
)
def test_a_damaged_entry_is_one_line(place, value, room, tmp_path, capsys):
    shutil.copytree("digits", tmp_path / "damaged")
    path = tmp_path / "damaged" / "config.json"
    told = json.loads(path.read_text())
    told["radar"][place] = value
    path.write_text(json.dumps(told))
    assert "is damaged or was not written by `radar export`" in fails(capsys, "sample", tmp_path / "damaged")


def test_bad_folders(room, capsys, tmp_path):
    assert "digits is there already" in fails(capsys, "export", "runs/digits/last.ckpt", "digits")
    assert "is a folder: name the file in it" in fails(capsys, "sample", "runs/digits")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text("{}")
    (broken / "model.safetensors").write_bytes(b"\x08")
    assert "is damaged or was not written by `radar export`" in fails(capsys, "sample", broken)
    assert "was not written by `radar export`" in fails(capsys, "push", "runs/digits", "a/b")
    line = fails(capsys, "export", "runs/digits/last.ckpt", "wrong", "--licence", "mit\nevil: yes")
    assert "is no short name of a licence" in line and not Path("wrong").exists()
    with pytest.raises(InputError, match="a path, and options 'key=value', expected"):
        radar.load(None)


HUB = """
import sys
from ablations.cli import main
import radar
main(["push", "digits", "someone/digits"])
from radar.hub import local
assert local("hf://someone/digits/README.md").read_text().startswith("---")
print(radar.load("hf://someone/digits").sample(labels=[1, 2], seed=5).tokens.sum().item())
"""


def test_to_the_hub_and_back(room, tmp_path):
    pytest.importorskip("huggingface_hub")
    Path("digits/private.npz").write_bytes(b"mine")
    with stub_hub() as (address, repositories):
        env = os.environ | {
            "HF_ENDPOINT": address,
            "HF_HOME": str(tmp_path),
            "HF_TOKEN": "x",
            "HF_HUB_DISABLE_XET": "1",
        }
        done = subprocess.run([sys.executable, "-c", HUB], env=env, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr[-2000:]
        sent = {"model.safetensors", "config.json", "README.md", "samples.png"}
        assert repositories["someone/digits"].keys() == sent, "nothing else that lies there"
        code = "from ablations.cli import main; main(['sample', 'hf://someone/other'])"
        missing = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)
    expected = radar.load("digits").sample(labels=[1, 2], seed=5).tokens.sum().item()
    assert int(done.stdout.splitlines()[-1]) == expected
    assert missing.returncode == 2 and missing.stderr.startswith("radar: hf://someone/other cannot be fetched: ")
    assert len(missing.stderr.splitlines()) == 1


def test_names_on_the_hub(capsys):
    assert "hf://user/name or hf://user/name/file expected" in fails(capsys, "sample", "hf://digits")
    assert "is no name of a repository" in fails(capsys, "push", "digits", "digits")
