"""Image files as people have them: each is read right, or there is one line."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from radar.config.options import DataConfig
from radar.data import load_data
from radar.data.files import open_image
from radar.errors import InputError

RED, BLUE = (200, 30, 40), (20, 40, 210)


def halves() -> Image.Image:
    """Left half red, right half blue: upright and mirrored are told apart."""
    image = Image.new("RGB", (40, 20), RED)
    image.paste(BLUE, (20, 0, 40, 20))
    return image


def looks_right(path: Path) -> bool:
    """Whether the middle of each half has its colour, to within what lossy files lose."""
    pixels = np.asarray(open_image(path, "white")).astype(int)
    height, width = pixels.shape[:2]
    left, right = pixels[height // 2, width // 4], pixels[height // 2, 3 * width // 4]
    return bool(abs(left - RED).max() < 40 and abs(right - BLUE).max() < 40)


def save_cmyk(path: Path) -> None:
    halves().convert("CMYK").save(path.with_suffix(".jpg"), quality=95)


def save_palette_with_alpha(path: Path) -> None:
    image = halves().convert("P", palette=Image.Palette.ADAPTIVE, colors=4)
    image.save(path.with_suffix(".png"), transparency=3)


def save_rotated(path: Path) -> None:
    """Lying on its side, with the tag that says so."""
    exif = Image.Exif()
    exif[0x0112] = 6
    halves().rotate(90, expand=True).save(path.with_suffix(".jpg"), exif=exif, quality=95)


def save_animated(path: Path) -> None:
    others = [Image.new("RGB", (40, 20), (0, 255, 0))] * 2
    halves().save(path, save_all=True, append_images=others)


KINDS = {
    "CMYK": save_cmyk,
    "palette with alpha": save_palette_with_alpha,
    "rotated by its tag": save_rotated,
    "animated GIF": lambda path: save_animated(path.with_suffix(".gif")),
    "animated WebP": lambda path: save_animated(path.with_suffix(".webp")),
    "capital ending": lambda path: halves().save(path.with_suffix(".JPEG"), quality=95),
    "half transparent": lambda path: halves().convert("RGBA").save(path.with_suffix(".png")),
    "name with spaces": lambda path: halves().save(path.with_name("a name, with spaces.png")),
    "non-Latin name": lambda path: halves().save(path.with_name("画像 изображение é.png")),
}


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_read_right(kind, tmp_path):
    KINDS[kind](tmp_path / "image")
    (path,) = tmp_path.iterdir()
    assert looks_right(path)


def test_sixteen_bits_keep_their_greys(tmp_path):
    levels = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    Image.fromarray(levels).save(tmp_path / "deep.png")
    found = np.asarray(open_image(tmp_path / "deep.png", "white"))[..., 0].astype(int)
    assert abs(found - levels.astype(int) // 257).max() <= 1


def damaged(path: Path) -> None:
    """Cut off in the middle."""
    halves().resize((400, 200)).save(path, quality=95)
    path.write_bytes(path.read_bytes()[:2000])


@pytest.mark.parametrize("break_it", [damaged, Path.touch], ids=["truncated", "zero bytes"])
def test_what_cannot_be_read_is_named_once(break_it, tmp_path):
    for i in range(10):
        (tmp_path / "images" / "a").mkdir(parents=True, exist_ok=True)
        halves().save(tmp_path / "images" / "a" / f"{i}.png")
    break_it(tmp_path / "images" / "a" / "bad file.jpg")
    config = DataConfig(name="folder", root=str(tmp_path / "images"), size=16, held_out=0.2, cache=str(tmp_path))
    with pytest.raises(InputError, match=r"1 unreadable images?.*bad file\.jpg") as said:
        load_data(config)
    assert "\n" not in str(said.value)
    config.skip_unreadable = True
    data = load_data(config)
    assert len(data.train) + len(data.held_out) == 10


@pytest.mark.parametrize("counts", [{"a": 40}, {"a": 90, "b": 10}], ids=["one class", "90 to 10"])
def test_classes_keep_their_shares(counts, tmp_path):
    for name, count in counts.items():
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (20, 20), (i, 0, 0)).save(tmp_path / "images" / name / f"{i}.png")
    config = DataConfig(name="folder", root=str(tmp_path / "images"), size=16, held_out=0.2, cache=str(tmp_path))
    data = load_data(config)
    for split, share in ((data.train, 0.8), (data.held_out, 0.2)):
        labels = torch.tensor([split[i][1] for i in range(len(split))])
        assert torch.bincount(labels).tolist() == [round(share * count) for count in counts.values()]
