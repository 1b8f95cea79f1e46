"""Codes that were made elsewhere, in LlamaGen's layout and as one array; encoding that is killed and shared."""

import json
import os
import shutil
import signal
import time
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch

from ablations.cli import main
from radar.config.load import load_config
from radar.config.options import DataConfig, TokenizerConfig
from radar.data import load_data, token_arrays
from radar.data.tokens import cached_tokens, token_batches
from radar.errors import InputError
from radar.tokenizers import build_tokenizer
from radar.training import devices
from radar.training.checkpoints import load_generator
from radar.training.runs import encode_images
from tests.command_line import fails
from tests.test_features import Scripted

IMAGES, VIEWS = 120, 3
SMALL = ["model.dim=16", "model.layers=1", "model.heads=1", "train.max_steps=3", "train.batch_size=4"]


@pytest.fixture(scope="module")
def array(tmp_path_factory) -> Path:
    """Codes of digits: three views of each, shifted by a code to tell them apart."""
    splits = cached_tokens(
        load_data(DataConfig()), build_tokenizer(TokenizerConfig()), str(tmp_path_factory.mktemp("cache"))
    )
    tokens, labels = (part.numpy() for part in splits["train"].gather(np.arange(IMAGES)))
    folder = tmp_path_factory.mktemp("array") / "digits"
    folder.mkdir()
    np.save(folder / "codes.npy", np.stack([(tokens + view) % 17 for view in range(VIEWS)], 1).astype(np.uint16))
    np.save(folder / "labels.npy", labels)
    return folder


@pytest.fixture
def files(array, tmp_path) -> Path:
    """The same, a file for each."""
    base = tmp_path / "digits"
    for name, folder in (("codes", "digits8_codes"), ("labels", "digits8_labels")):
        (base / folder).mkdir(parents=True)
        for number, row in enumerate(np.load(array / f"{name}.npy")):
            np.save(base / folder / f"{number}.npy", row[None])
    return base


def options(root: Path, cache: Path) -> list[str]:
    return ["data.name=codes", f"data.root={root}", "data.size=8", f"data.cache={cache}"]


def test_many_files_give_the_batches_of_one_array(array, files, tmp_path, monkeypatch):
    monkeypatch.setattr(token_arrays, "PART", 50)  # borders within an image's views
    batches = []
    for root in (array, files):
        config = load_config(None, [*options(root, tmp_path / "cache"), *SMALL])
        data = load_data(config.data)
        splits = cached_tokens(data, build_tokenizer(config.tokenizer), config.data.cache)
        assert splits["train"].views == VIEWS and len(splits["train"]) == 108 and len(splits["held_out"]) == 12
        module = token_batches(config, splits)
        batches.append([*module.train_dataloader(), *module.val_dataloader()])
    assert len(batches[0]) == len(batches[1]) > 5
    for one, other in zip(*batches, strict=True):
        assert torch.equal(one.inputs, other.inputs) and torch.equal(one.labels, other.labels)
    codes, found = np.load(array / "codes.npy"), batches[0][0]
    rows = {row.tobytes() for row in codes.reshape(-1, 64).astype(np.int64)}
    assert all(row.numpy().tobytes() in rows for row in found.inputs)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.npy")}
    load_data(config.data)
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.npy")}, "converted once"


def test_from_codes_to_a_row(array, tmp_path, capsys):
    """Without images: a file says what the real ones are like."""
    torch.jit.script(Scripted()).save(str(tmp_path / "means.pt"))
    features = f"evaluate.features={tmp_path / 'means.pt'}"
    cache = f"data.cache={tmp_path / 'cache'}"
    main(["reference", "digits", cache, features, "--out", str(tmp_path)])
    main(["train", "digits", *options(array, tmp_path / "cache"), *SMALL, f"run={tmp_path / 'run'}", features])
    last = str(tmp_path / "run" / "last.ckpt")
    capsys.readouterr()
    assert "are codes, without images to compare with" in fails(capsys, "evaluate", last)
    named = f"evaluate.reference={tmp_path / 'digits-means.npz'}"
    main(["evaluate", last, named, "evaluate.images=40", "evaluate.timing_repeats=1", "evaluate.timing_batch=2"])
    row = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert row["fid"] > 0 and row["nll"] > 0 and "fid_floor" not in row and "memorised" not in row
    assert row["reference"].startswith("digits-train (1347):")
    main(["sample", last, "sample.images=12"])
    assert np.load(tmp_path / "run" / "samples" / "samples.npz")["arr_0"].shape == (12, 8, 8, 3)


def test_codes_that_do_not_fit(array, files, tmp_path, capsys):
    def line(root: Path, *more: str) -> str:
        return fails(
            capsys, "train", "digits", *options(root, tmp_path / "cache"), *SMALL, *more, f"run={tmp_path}/run"
        )

    codes, labels = files / "digits8_codes", files / "digits8_labels"
    whole = (codes / "7.npy").read_bytes()
    (codes / "7.npy").write_bytes(whole[:-9])
    assert "digits8_codes/7.npy cannot be read" in line(files)
    np.save(codes / "7.npy", np.zeros((1, VIEWS, 65), np.uint16))
    assert "digits8_codes/7.npy has shape (1, 3, 65), and the first (1, 3, 64)" in line(files)
    np.save(codes / "7.npy", np.full((1, VIEWS, 64), 1.5))
    assert "digits8_codes/7.npy holds float64 with fractions: integers expected" in line(files)
    (codes / "7.npy").write_bytes(b"no array")
    assert "digits8_codes/7.npy cannot be read: no array" in line(files)
    (codes / "7.npy").unlink()
    assert f"digits8_codes/7.npy is missing: 1 of {IMAGES} labels have no code" in line(files)
    (codes / "7.npy").write_bytes(whole)
    np.save(labels / "9.npy", np.array([-1]))
    assert "digits8_labels/9.npy has label -1" in line(files)
    np.save(labels / "9.npy", np.array([1, 2]))
    assert "digits8_labels/9.npy has 2 labels" in line(files)
    (labels / "9.npy").unlink()
    assert "digits8_labels/9.npy is missing: 1 of 120 codes have no label" in line(files)
    shutil.rmtree(labels)
    assert "has 0 folders *_labels: one expected" in line(files)
    assert "is not a folder" in line(tmp_path / "none")
    other = tmp_path / "other"
    shutil.copytree(array, other)
    np.save(other / "labels.npy", np.zeros(3, np.int64))
    assert "labels.npy has 3 labels, and codes.npy 120 images" in line(other)
    np.save(other / "codes.npy", np.zeros((3, 64)) + 0.5)
    assert "codes.npy holds float64: integers expected" in line(other)
    assert "has no effect on codes" in line(array, "data.augment=flip")
    assert "has 64 codes per image, and the tokenizer gives 16x16" in line(array, "data.size=16")
    assert "has code 16, and tokenizer 'levels-9' 9 codes" in line(array, "tokenizer.levels=9")
    assert "are codes, without images to compare with" in line(array, "train.val_samples=8")
    assert not (tmp_path / "run").exists() or not list((tmp_path / "run").glob("*.ckpt"))


def slow_encode(data, tokenizer, cache: str) -> None:
    def encode(images):
        time.sleep(0.05)
        return original(images)

    original, tokenizer.encode = tokenizer.encode, encode
    cached_tokens(data, tokenizer, cache)


def test_encoding_is_killed_and_shared(tmp_path, monkeypatch):
    """The same files after three kills, and by two processes; what was encoded is not encoded again."""
    monkeypatch.setattr(token_arrays, "PART", 200)
    monkeypatch.setattr(devices, "METHOD", "fork")
    config = load_config(None, [f"data.cache={tmp_path / 'whole'}", "data.augment=flip", "train.device=cpu"])
    expected = held(encode_images(config))
    data, tokenizer = load_data(config.data), build_tokenizer(config.tokenizer)
    cache = tmp_path / "killed"
    for kill in range(3):
        process = get_context("fork").Process(target=slow_encode, args=(data, tokenizer, str(cache)))
        process.start()
        while len(list(cache.glob(".*.parts/[a-z]*.npz"))) <= kill and process.is_alive():
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    parts = {path: path.stat().st_mtime_ns for path in cache.glob(".*.parts/[a-z]*.npz")}
    assert 3 <= len(parts) < 15
    monkeypatch.setattr(token_arrays.shutil, "rmtree", lambda *args, **kwargs: None)
    assert held(encode_images(replace(config, data=replace(config.data, cache=str(cache))))) == expected
    assert all(path.stat().st_mtime_ns == changed for path, changed in parts.items())
    monkeypatch.undo()
    monkeypatch.setattr(devices, "METHOD", "fork")
    two = replace(
        config, data=replace(config.data, cache=str(tmp_path / "two")), train=replace(config.train, devices=2)
    )
    assert held(encode_images(two)) == expected
    assert not list((tmp_path / "two").glob(".*.parts"))


def held(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


def test_encode_as_a_command(tmp_path, capsys):
    command = ["encode", "digits", f"data.cache={tmp_path}", "data.augment=flip"]
    for _ in range(2):
        main(command)
        said = capsys.readouterr().out.splitlines()
        assert said[0] == "train: 1,347 images, 2 views of each, 64 cells of each view"
        assert Path(said[2]).is_dir() and Path(said[2]).parent == tmp_path
    main(["train", "digits", *command[2:], *SMALL, f"run={tmp_path / 'run'}"])
    assert load_generator(tmp_path / "run" / "last.ckpt").data.augment == "flip"
    with pytest.raises(InputError, match="damaged"):
        (Path(said[2]) / "meta.json").write_text("{")
        encode = load_config(None, command[2:])
        cached_tokens(load_data(encode.data), build_tokenizer(encode.tokenizer), encode.data.cache)
