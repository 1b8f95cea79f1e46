"""Sheets of images as pictures with a palette."""

import numpy as np
import pytest
from PIL import Image

from radar.sheets import LEGEND, captioned, save_gif, save_image, with_palette


def test_up_to_256_colours_are_exact(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    save_image(pixels, tmp_path / "x.png")
    assert (np.asarray(Image.open(tmp_path / "x.png").convert("RGB")) == pixels).all()


def test_colours_with_a_meaning_are_exact_in_any_picture(tmp_path):
    """As on a sheet of many colours with its legend, also as a frame of an animation."""
    sheet = np.random.default_rng(0).integers(0, 256, (100, 200, 3), dtype=np.uint8)
    pixels = captioned(sheet, legend=True)
    save_gif([pixels, pixels[::-1].copy()], tmp_path / "x.gif")
    for picture in (with_palette(pixels), Image.open(tmp_path / "x.gif")):
        kept = np.asarray(picture.convert("RGB"))
        for name, colour in LEGEND:
            where = (pixels == colour).all(-1)
            assert where.sum() >= 64 and (kept[where] == colour).all(), name


@pytest.mark.parametrize("names", [(), ("a", "b"), ("Größe " * 9, "猫")])
def test_captions_stand_around_the_sheet_and_not_on_it(names):
    sheet = np.full((20, 40, 3), 7, dtype=np.uint8)
    made = captioned(sheet, columns=names, rows=names)
    assert (made[-20:, -40:] == sheet).all() and (len(made) > 20) == bool(names)
