"""Fashion-MNIST: read from a folder, the system or the publisher; anything else ends in one line."""

import gzip
from importlib import import_module

import numpy as np
import pytest
import torch

from radar.config.options import DataConfig
from radar.data import load_data
from radar.data.images import split_images
from radar.errors import InputError
from radar.networks.features import load_features
from radar.scoring.statistics import recognised
from tests.command_line import fails

room = import_module("radar.data.fashion")  # in whose package its function has the same name


def test_images_are_padded_and_downloaded_once(fashion_files, tmp_path):
    config = DataConfig(name="fashion", cache=str(tmp_path / "cache"))
    data = load_data(config)
    image, label = data.train[11]
    assert (len(data.train), len(data.held_out), label, data.size) == (40, 20, 1, (32, 32)) and len(data.classes) == 10
    held = gzip.decompress((fashion_files / "train-images-idx3-ubyte.gz").read_bytes())
    inner = np.frombuffer(held, np.uint8, offset=16).reshape(40, 28, 28)[11]
    assert image.shape == (3, 32, 32) and all(np.array_equal(channel[2:-2, 2:-2], inner) for channel in image.numpy())
    assert image.sum() == 3 * int(inner.sum()), "the border is black"
    for file in fashion_files.iterdir():
        file.unlink()
    room.fashion.cache_clear()
    assert torch.equal(load_data(config).held_out[1][0], data.held_out[1][0]), "kept in the cache"


def test_a_folder_of_ones_own(fashion_files):
    assert len(load_data(DataConfig(name="fashion", root=str(fashion_files))).train) == 40


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.unlink(), "does not exist"),
        (lambda path: path.write_bytes(path.read_bytes()[:-20]), "cannot be read"),
        (lambda path: path.write_bytes(b"no gzip"), "cannot be read"),
        (lambda path: path.write_bytes(gzip.compress(b"else")), "SHA-256"),
    ],
)
def test_damaged_files(fashion_files, damage, said, tmp_path, capsys):
    name = "t10k-labels-idx1-ubyte.gz"
    damage(fashion_files / name)
    options = (
        "data.name=fashion",
        f"data.root={fashion_files}",
        f"run={tmp_path / 'run'}",
        f"data.cache={tmp_path / 'c'}",
    )
    line = fails(capsys, "train", "digits", *options)
    assert name in line and said in line and not (tmp_path / "run").exists()


def test_where_there_is_no_network(fashion_files, tmp_path, monkeypatch):
    monkeypatch.setattr(room, "PUBLISHER", "http://127.0.0.1:1")
    with pytest.raises(InputError, match=r"data\.root.*apt-get install dataset-fashion-mnist.* network"):
        load_data(DataConfig(name="fashion", cache=str(tmp_path / "cache")))
    assert not list(tmp_path.rglob("cache/**/*.gz"))
    (fashion_files / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"else"))
    monkeypatch.setattr(room, "PUBLISHER", fashion_files.as_uri())
    with pytest.raises(InputError, match="SHA-256"):
        load_data(DataConfig(name="fashion", cache=str(tmp_path / "cache")))
    assert not list(tmp_path.rglob("cache/**/train-images*")), "what is not the file is not kept"


@pytest.mark.slow
@pytest.mark.skipif(not (room.SYSTEM / "t10k-images-idx3-ubyte.gz").exists(), reason="Fashion-MNIST is not installed")
def test_the_classifier_of_the_package_knows_the_images(tmp_path):
    data = load_data(DataConfig(name="fashion"))
    network = load_features("cnn", data, str(tmp_path))
    images, labels = split_images(data.held_out)
    assert recognised(network, images, labels) >= 9200 and not list(tmp_path.iterdir())
