"""Fashion-MNIST: read from a folder, the system or the publisher; anything else ends in one line."""

import gzip
import hashlib
from importlib import import_module

import numpy as np
import pytest
import torch

from radar.config.options import DataConfig
from radar.data import load_data
from radar.errors import InputError
from tests.command_line import fails

room = import_module("radar.data.fashion")  # in whose package its function has the same name

PIXELS = {"train": np.arange(3 * 784, dtype=np.uint32) % 251, "t10k": np.arange(2 * 784, dtype=np.uint32) % 83}
LABELS = {"train": [9, 0, 4], "t10k": [1, 2]}


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A publisher of five images, nothing on the system."""
    folder, content = tmp_path / "published", {}
    folder.mkdir()
    for name in PIXELS:
        held = {"images-idx3": bytes(16) + PIXELS[name].astype(np.uint8).tobytes()}
        held["labels-idx1"] = bytes(8) + bytes(LABELS[name])
        for kind, data in held.items():
            content[f"{name}-{kind}-ubyte.gz"] = hashlib.sha256(data).hexdigest()
            (folder / f"{name}-{kind}-ubyte.gz").write_bytes(gzip.compress(data))
    monkeypatch.setattr(room, "CONTENT", content)
    monkeypatch.setattr(room, "SYSTEM", tmp_path / "none")
    monkeypatch.setattr(room, "PUBLISHER", folder.as_uri())
    room.fashion.cache_clear()
    yield folder
    room.fashion.cache_clear()


def test_images_are_padded_and_downloaded_once(published, tmp_path):
    config = DataConfig(name="fashion", cache=str(tmp_path / "cache"))
    data = load_data(config)
    image, label = data.train[1]
    assert (len(data.train), len(data.held_out), label, data.size) == (3, 2, 0, (32, 32)) and len(data.classes) == 10
    inner = PIXELS["train"].reshape(3, 28, 28)[1]
    assert image.shape == (3, 32, 32) and all(np.array_equal(channel[2:-2, 2:-2], inner) for channel in image.numpy())
    assert image.sum() == 3 * inner.sum(), "the border is black"
    for file in published.iterdir():
        file.unlink()
    room.fashion.cache_clear()
    assert torch.equal(load_data(config).held_out[1][0], data.held_out[1][0]), "kept in the cache"


def test_a_folder_of_ones_own(published):
    assert len(load_data(DataConfig(name="fashion", root=str(published))).train) == 3


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.unlink(), "does not exist"),
        (lambda path: path.write_bytes(path.read_bytes()[:-20]), "cannot be read"),
        (lambda path: path.write_bytes(b"no gzip"), "cannot be read"),
        (lambda path: path.write_bytes(gzip.compress(b"else")), "SHA-256"),
    ],
)
def test_damaged_files(published, damage, said, tmp_path, capsys):
    name = "t10k-labels-idx1-ubyte.gz"
    damage(published / name)
    options = ("data.name=fashion", f"data.root={published}", f"run={tmp_path / 'run'}", f"data.cache={tmp_path / 'c'}")
    line = fails(capsys, "train", "digits", *options)
    assert name in line and said in line and not (tmp_path / "run").exists()


def test_where_there_is_no_network(published, tmp_path, monkeypatch):
    monkeypatch.setattr(room, "PUBLISHER", "http://127.0.0.1:1")
    with pytest.raises(InputError, match=r"data\.root.*apt-get install dataset-fashion-mnist.* network"):
        load_data(DataConfig(name="fashion", cache=str(tmp_path / "cache")))
    assert not list(tmp_path.rglob("cache/**/*.gz"))
    (published / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"else"))
    monkeypatch.setattr(room, "PUBLISHER", published.as_uri())
    with pytest.raises(InputError, match="SHA-256"):
        load_data(DataConfig(name="fashion", cache=str(tmp_path / "cache")))
    assert not list(tmp_path.rglob("cache/**/train-images*")), "what is not the file is not kept"
