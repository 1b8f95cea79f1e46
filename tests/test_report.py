"""The report's page in a real browser: it needs no network, shows every figure, sorts and plays."""

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from selenium.webdriver.common.by import By

from ablations.report import write_report
from ablations.reporting.results import Results
from radar.sheets import save_gif
from tests.browser import browser

__all__ = ["browser"]  # a fixture

COMMITTED = Path(__file__).parents[1] / "results" / "ordering"
ROWS = (
    "return [...document.querySelector('table.sortable').tBodies[0].rows].map(r => r.cells[arguments[0]].dataset.value)"
)
MAIN_FITS = "return document.querySelector('table.narrow').getBoundingClientRect().right <= window.innerWidth"
IMAGES = "return [...document.images].map(i => [i.alt, i.complete, i.naturalWidth, i.clientWidth])"


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """Report of committed rows, with films of eight frames made here."""
    folder = shutil.copytree(COMMITTED, tmp_path_factory.mktemp("report") / "ordering")
    for samples in (folder / "samples").iterdir():
        save_gif([np.full((20, 20, 3), 30 * k, dtype=np.uint8) for k in range(8)], samples / "film.gif")
    write_report(Results.read(folder))
    return folder / "report.html"


def look(browser, page: Path, width: int) -> None:
    """Open a page at the width of a screen in pixels, also narrower than a window can be."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(page.as_uri())


@pytest.mark.parametrize("width", [1400, 390])
def test_page(page, browser, width):
    assert "http://" not in (text := page.read_text()) and "https://" not in text, "nothing is loaded"
    look(browser, page, width)
    assert not browser.get_log("browser"), "no messages on the console"
    shown = browser.execute_script(IMAGES)
    assert len(shown) >= 4 + 2 * 7, "figures, and samples and animation of seven arms"
    assert all(complete and natural > 0 and 50 < client <= width for _, complete, natural, client in shown), shown
    assert browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth"), "fits the screen"
    assert browser.execute_script(MAIN_FITS), "the main table needs no scrolling"


def test_sorting(page, browser):
    look(browser, page, 1400)
    buttons = browser.find_elements(By.CSS_SELECTOR, "th button")
    steps = [button.text for button in buttons].index("steps")
    buttons[steps].click()
    assert [float(value) for value in browser.execute_script(ROWS, steps)] == [*[7] * 6, 64]
    buttons[steps].click()
    assert [float(value) for value in browser.execute_script(ROWS, steps)] == [64, *[7] * 6]


def test_animation(page, browser):
    look(browser, page, 1400)
    player = browser.find_elements(By.CSS_SELECTOR, ".player")[1]
    film = browser.find_elements(By.CSS_SELECTOR, "img.film")[1]
    frames = json.loads(player.find_element(By.CSS_SELECTOR, "script").get_attribute("textContent"))
    assert len(frames) == 8, "seven passes and the result"
    button = player.find_element(By.CSS_SELECTOR, "button")
    browser.execute_script("arguments[0].scrollIntoView()", button)
    button.click()
    seen = set()
    for _ in range(40):
        seen.add(film.get_attribute("src"))
        time.sleep(0.1)
    assert seen == set(frames) and button.text == "Play", "every frame was shown, and it stopped at the end"
