"""Shapes, ranges and purity of every data set."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from radar.config.options import DataConfig, TokenizerConfig
from radar.data import DATASETS, load_data
from radar.data.files import open_image, suffixes
from radar.data.images import center_crop, load_images
from radar.data.tokens import cached_tokens
from radar.errors import InputError
from radar.tokenizers import build_tokenizer


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


ELSEWHERE = ("shards", "codes")  # tests/test_shards.py, tests/test_codes.py


@pytest.mark.parametrize("name", [name for name in DATASETS if name not in ELSEWHERE])
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
    assert np.asarray(open_image(tmp_path / "grey.png", "white")).tolist() == [[[v] * 3 for v in (0, 100, 255)]]


def test_unreadable_images_are_named(folder, tmp_path):
    root = shutil.copytree(folder, tmp_path / "images")
    (root / "cat" / "broken.png").write_bytes(b"not an image")
    (root / "dog" / "cut.png").write_bytes((root / "dog" / "0.png").read_bytes()[:60])
    config = DataConfig(name="folder", root=str(root), size=16, held_out=0.25, cache=str(tmp_path / "cache"))
    named = r"2 unreadable images in .*: cat/broken.png \(not an image\), dog/cut.png \(.*\); remove them"
    with pytest.raises(InputError, match=named):
        load_data(config)
    config.skip_unreadable = True
    data = load_data(config)
    assert len(data.train) + len(data.held_out) == 8


def test_images_are_checked_once(folder, tmp_path, monkeypatch):
    config = DataConfig(name="folder", root=str(folder), size=16, held_out=0.25, cache=str(tmp_path))
    first = load_data(config)
    monkeypatch.setattr("radar.data.files.examine", lambda path: pytest.fail("read again"))
    assert load_data(config).identity == first.identity


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (DataConfig(name="mnist"), "unknown data 'mnist'; choose from: digits, fashion, shapes, folder"),
        (DataConfig(name="digits", root="x"), "data 'digits' takes no option 'root'"),
        (DataConfig(name="folder", root="nowhere"), "data.root='nowhere' is not a folder"),
        (DataConfig(name="digits", held_out=0.999), "data.held_out=0.999 cannot split"),
    ],
)
def test_bad_data(config, message):
    with pytest.raises(InputError, match=message):
        load_data(config)


def write_images(root, count=4, size=(9, 9)):
    random = np.random.default_rng(1)
    for name in ("a", "b"):
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8)).save(root / name / f"{i}.bmp")
    return DataConfig(name="folder", root=str(root), size=8, held_out=0.5, cache=str(root.parent / "cache"))


def test_other_pixels_under_the_same_name_and_size_are_other_data(tmp_path):
    """Every BMP of one shape has one size: what counts is what a file holds."""
    config = write_images(tmp_path / "images")
    before = load_data(config)
    states = {path: path.stat() for path in (tmp_path / "images").rglob("*.bmp")}
    for path in states:
        with Image.open(path) as image:
            image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(path)
    assert all(path.stat().st_size == state.st_size for path, state in states.items())
    after = load_data(config)
    assert after.identity != before.identity
    moved = shutil.copytree(tmp_path / "images", tmp_path / "elsewhere" / "images")
    config.root = str(moved)
    assert load_data(config).identity == after.identity, "and not where it lies"


def test_cached_tokens_of_replaced_images_are_not_used(tmp_path):
    config = write_images(tmp_path / "images")
    tokenizer = build_tokenizer(TokenizerConfig(name="fsq", width=8)).eval()
    before = cached_tokens(load_data(config), tokenizer, config.cache)["train"].tokens.copy()
    for path in (tmp_path / "images").rglob("*.bmp"):
        Image.new("RGB", (9, 9), (255, 0, 0)).save(path)
    after = cached_tokens(load_data(config), tokenizer, config.cache)["train"].tokens
    assert not np.array_equal(before, after) and (after == after[0]).all()


def test_orientation_alpha_and_formats(tmp_path):
    pixels = np.zeros((8, 16, 3), dtype=np.uint8)
    pixels[:, :8] = (255, 0, 0)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    upright = np.asarray(open_image(tmp_path / "turned.png", "white"))
    assert upright.shape == (16, 8, 3) and (upright[:8] == (255, 0, 0)).all() and not upright[8:].any()
    clear = np.zeros((4, 4, 4), dtype=np.uint8)
    clear[0, 0] = (0, 0, 255, 255)
    Image.fromarray(clear, "RGBA").save(tmp_path / "clear.png")
    for name, value in (("white", 255), ("black", 0)):
        found = np.asarray(open_image(tmp_path / "clear.png", name))
        assert found[0, 0].tolist() == [0, 0, 255] and (found[1:] == value).all()
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "film.gif", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "scan.tiff")
    for name in ("film.gif", "scan.tiff"):
        assert (np.asarray(open_image(tmp_path / name, "white")) == (255, 0, 0)).all(), "of an animation the first"
    assert {".gif", ".tif", ".tiff"} <= suffixes()


def test_what_is_left_out_is_told_and_linked_folders_are_followed_once(tmp_path, capsys):
    config = write_images(tmp_path / "images")
    (tmp_path / "images" / "a" / "notes.txt").write_text("x")
    (tmp_path / "images" / "b" / "scan.heic").write_text("x")
    (tmp_path / "more" / "deep").mkdir(parents=True)
    Image.new("RGB", (9, 9)).save(tmp_path / "more" / "deep" / "x.png")
    (tmp_path / "images" / "a" / "linked").symlink_to(tmp_path / "more")
    (tmp_path / "more" / "round").symlink_to(tmp_path / "more")
    data = load_data(config)
    assert len(data.train) + len(data.held_out) == 9, "through the link, and not round and round"
    said = capsys.readouterr().err
    assert "left out what is no image or cannot be read here" in said and "1 .txt" in said and "1 .heic" in said


def test_dead_links_and_bombs_are_named_with_their_reason(tmp_path, monkeypatch, capsys):
    config = write_images(tmp_path / "images")
    (tmp_path / "images" / "a" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    Image.new("RGB", (40, 40)).save(tmp_path / "images" / "b" / "huge.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    with pytest.raises(
        InputError, match=r"2 unreadable .*gone.png .no such file or directory.*huge.png .more than 0 m"
    ):
        load_data(config)
    config.skip_unreadable = True
    assert len(load_data(config).train) == 4
    assert "left out what cannot be read: a/gone.png" in capsys.readouterr().err


def test_unknown_background(tmp_path):
    config = write_images(tmp_path / "images")
    config.background = "pink"
    with pytest.raises(InputError, match="unknown background 'pink'; choose from: white, black"):
        load_data(config)


def test_an_image_has_one_label_whatever_is_linked(tmp_path, capsys):
    config = write_images(tmp_path / "images")
    (tmp_path / "images" / "a" / "up").symlink_to(tmp_path / "images")
    (tmp_path / "images" / "a" / "other").symlink_to(tmp_path / "images" / "b")
    data = load_data(config)
    assert len(data.train) + len(data.held_out) == 8
    assert capsys.readouterr().err.count("leads to a folder that is read already") == 2


def test_a_read_that_failed_is_tried_again(tmp_path, monkeypatch):
    config = write_images(tmp_path / "images")
    with monkeypatch.context() as patch:
        patch.setattr("radar.data.files.examine", lambda path: ("", "too many open files"))
        with pytest.raises(InputError, match="8 unreadable images"):
            load_data(config)
    assert len(load_data(config).train) == 4


def test_decoders_fail_in_many_ways(tmp_path, monkeypatch):
    config = write_images(tmp_path / "images")

    def broken(file, background):
        raise RuntimeError("Failed to decode image: truncated")

    monkeypatch.setattr("radar.data.files.open_image", broken)
    with pytest.raises(InputError, match=r"8 unreadable images .*failed to decode image: truncated"):
        load_data(config)
