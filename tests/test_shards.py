"""Images in tar files: read where they lie, the same as from a folder."""

import io
import tarfile
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from radar.config.options import DataConfig
from radar.data import load_data
from radar.data.images import load_images
from radar.data.shards import list_members
from radar.errors import InputError
from tests.command_line import fails


def image(number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (20 + number % 3, 24, 3), dtype=np.uint8)
    held = io.BytesIO()
    Image.fromarray(pixels).save(held, "PNG")
    return held.getvalue()


def write(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


@pytest.fixture
def root(tmp_path) -> Path:
    """Forty images of two classes in three shards, and the same as a folder."""
    for shard, numbers in enumerate((range(15), range(15, 30), range(30, 40))):
        members = {}
        for n in numbers:
            members |= {f"{n:04d}.png": image(n), f"{n:04d}.cls": str(n % 2).encode(), f"{n:04d}.json": b"{}"}
        (tmp_path / "tar").mkdir(exist_ok=True)
        write(tmp_path / "tar" / f"train-{shard:03d}.tar", members)
    for n in range(40):
        (tmp_path / "folder" / str(n % 2)).mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / str(n % 2) / f"{n:04d}.png").write_bytes(image(n))
    return tmp_path


def data(root: Path, name: str, **more: object):
    cache = str(root / "cache")
    return load_data(DataConfig(name=name, root=str(root / "tar"), size=16, cache=cache, held_out=0.25, **more))


def test_images_are_those_of_a_folder(root):
    shards, folder = data(root, "shards"), load_data(DataConfig("folder", str(root / "folder"), 16, cache=str(root)))
    assert shards.classes == folder.classes == ("0", "1") and len(shards.held_out) == 10 and len(shards.train) == 30
    seen = {}
    for found in (shards, folder):
        pairs = [load_images(split, range(len(split))) for split in (found.train, found.held_out)]
        images, labels = (torch.cat(column) for column in zip(*pairs, strict=True))
        seen[found.name] = {(i.numpy().tobytes(), int(n)) for i, n in zip(images, labels, strict=True)}
    assert len(set(map(frozenset, seen.values()))) == 1 and len(seen) == 2
    assert shards.larger(0, 18).shape == (3, 18, 18)


def test_an_index_is_made_once_and_again_when_shards_change(root, monkeypatch):
    before = data(root, "shards").identity
    monkeypatch.setattr(import_module("radar.data.shards"), "list_members", lambda path: pytest.fail("listed again"))
    assert data(root, "shards").identity == before
    monkeypatch.undo()
    write(root / "tar" / "train-003.tar", {"x.png": image(50), "x.cls": b"0"})
    assert data(root, "shards").identity != before


def test_a_mask_beside_an_image_is_no_image(root):
    pixels = image(3)
    members = {"a/one.png": pixels, "a/one.seg.png": image(4), "a/one.cls": b"1", "a/one.txt": b"caption"}
    write(root / "masks.tar", members)
    (found,) = list_members(root / "masks.tar")
    held = (root / "masks.tar").read_bytes()[found.offset : found.offset + found.length]
    assert held == pixels and found.label == 1


def test_a_shard_that_has_gone(root):
    found = data(root, "shards").train
    for path in (root / "tar").iterdir():
        path.unlink()
    with pytest.raises(InputError, match=r"train-00\d.tar: image at byte \d+ cannot be read \(.*No such file"):
        found[0]


def test_bad_shards(root, capsys):
    def line() -> str:
        where = [f"data.root={root / 'tar'}", "data.size=16", f"data.cache={root / 'cache'}"]
        return fails(capsys, "train", "digits", "data.name=shards", *where, f"run={root / 'run'}")

    other = root / "tar" / "train-009.tar"
    write(other, {"a/7.png": image(1)})
    assert "train-009.tar: image a/7 has no label a/7.cls" in line()
    write(other, {"7.png": image(1), "7.cls": b"cat"})
    assert "train-009.tar: label 7.cls is b'cat': a whole number expected" in line()
    write(other, {"7.txt": b"none"})
    assert "train-009.tar holds no images" in line()
    other.write_bytes((root / "tar" / "train-000.tar").read_bytes()[:3000])
    assert "train-009.tar is damaged or no tar file (unexpected end of data)" in line()
    held = (root / "tar" / "train-000.tar").read_bytes()
    other.write_bytes(held[: held.index(b"0003.png") + 700])  # within an image
    assert "train-009.tar is damaged or no tar file" in line()
    other.write_bytes(b"nothing" * 200)
    assert "train-009.tar is damaged or no tar file" in line()
    write(other, {"7.png": image(1)[:-40], "7.cls": b"0"})
    assert "train-009.tar: image 7.png cannot be read" in line()
    for path in (root / "tar").iterdir():
        path.unlink()
    assert "is no folder that holds .tar files" in line()
