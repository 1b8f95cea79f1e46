"""Shapes, ranges and purity of every data set."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image

from radar.data import DATASETS, load_data
from radar.data.folder import as_rgb, center_crop
from radar.data.images import load_images
from radar.errors import InputError
from radar.options import DataConfig


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Eight images of odd sizes in two classes."""
    root = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (root / name).mkdir()
        for i in range(4):
            pixels = random.integers(0, 256, (20 + 7 * i, 33, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return root


def config_for(name, folder):
    special = {"folder": {"root": str(folder), "size": 16, "held_out": 0.25, "cache": str(folder / ".cache")}}
    return DataConfig(name=name, **special.get(name, {}))


@pytest.mark.parametrize("name", list(DATASETS))
def test_every_data_set(name, folder):
    data, again = (load_data(config_for(name, folder)) for _ in range(2))
    assert data.identity == again.identity
    for split in (data.train, data.held_out):
        images, labels = load_images(split, range(2))
        assert images.shape == (2, 3, *data.size) and images.dtype == torch.uint8
        assert all(0 <= label < len(data.classes) for label in labels)
    assert torch.equal(load_images(data.train, [1, 2])[0], load_images(again.train, [1, 2])[0])


def test_digits_are_the_real_ones():
    data = load_data(DataConfig())
    assert len(data.train) + len(data.held_out) == 1797
    train, held_out = (load_images(split, range(len(split))) for split in (data.train, data.held_out))
    shares = [torch.bincount(labels).double() / len(labels) for _, labels in (train, held_out)]
    assert (shares[0] - shares[1]).abs().max() < 0.01
    known = {image.numpy().tobytes() for image in train[0]}
    assert not any(image.numpy().tobytes() in known for image in held_out[0])


def test_shapes_are_pure_and_streams_differ():
    data, other = load_data(DataConfig(name="shapes")), load_data(DataConfig(name="shapes", seed=1))
    assert torch.equal(data.train[17][0], data.train[17][0])
    assert not torch.equal(data.train[17][0], data.held_out[17][0])
    assert not torch.equal(data.train[17][0], other.train[17][0])


def test_the_checker_knows_its_classes():
    data = load_data(DataConfig(name="shapes"))
    images, labels = load_images(data.train, range(300))
    for shift in range(10):
        judged = data.well_formed(images, (labels + shift) % 10)
        assert judged.all() if shift == 0 else not judged.any(), shift
    noise = torch.randint(0, 256, images.shape, dtype=torch.uint8)
    assert not data.well_formed(noise, labels).any()
    assert not data.well_formed(torch.full_like(images, 7), labels).any()
    half = images.clone()
    half[..., 16:] = half[..., :1, :1]
    assert data.well_formed(half, labels).float().mean() < 0.2


def test_center_crop_keeps_the_middle():
    pixels = np.zeros((64, 200, 3), dtype=np.uint8)
    pixels[:, 68:132] = 255
    assert (np.asarray(center_crop(Image.fromarray(pixels), 32))[:, 2:-2] > 250).all()


def test_greys_of_sixteen_bits_are_scaled(tmp_path):
    Image.fromarray(np.array([[0, 257 * 100, 65535]], dtype=np.uint16)).save(tmp_path / "grey.png")
    with Image.open(tmp_path / "grey.png") as image:
        assert image.mode.startswith("I"), "16 bits were kept"
        assert np.asarray(as_rgb(image)).tolist() == [[[v] * 3 for v in (0, 100, 255)]]


def test_unreadable_images_are_named(folder, tmp_path):
    import shutil

    root = shutil.copytree(folder, tmp_path / "images")
    (root / "cat" / "broken.png").write_bytes(b"not an image")
    (root / "dog" / "cut.png").write_bytes((root / "dog" / "0.png").read_bytes()[:60])
    config = DataConfig(name="folder", root=str(root), size=16, held_out=0.25, cache=str(tmp_path / "cache"))
    with pytest.raises(InputError, match=r"2 unreadable images in .*: cat/broken.png, dog/cut.png; remove them"):
        load_data(config)
    config.skip_unreadable = True
    data = load_data(config)
    assert len(data.train) + len(data.held_out) == 8


def test_images_are_checked_once(folder, tmp_path, monkeypatch):
    config = DataConfig(name="folder", root=str(folder), size=16, held_out=0.25, cache=str(tmp_path))
    first = load_data(config)
    # The package exports a function `folder` under the module's name.
    monkeypatch.setattr(sys.modules["radar.data.folder"], "is_readable", lambda path: pytest.fail("decoded again"))
    assert load_data(config).identity == first.identity


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (DataConfig(name="mnist"), "unknown data 'mnist'; choose from: digits, shapes, folder"),
        (DataConfig(name="digits", root="x"), "data 'digits' takes no option 'root'"),
        (DataConfig(name="folder", root="nowhere"), "data.root='nowhere' is not a folder"),
        (DataConfig(name="digits", held_out=0.999), "data.held_out=0.999 cannot split"),
    ],
)
def test_bad_data(config, message):
    with pytest.raises(InputError, match=message):
        load_data(config)
