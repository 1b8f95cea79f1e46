"""The report's page in a real browser: it needs no network, shows every figure, sorts and plays."""

import json
import shutil
import time
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By

from ablations.report import write_report
from ablations.reporting.results import Results
from ablations.study.plan import plan_study
from ablations.study.queue import StudyQueue
from ablations.study.storage import storage_url
from tests.test_studies import STUDY, cache, quick_workers, study

__all__ = ["cache", "quick_workers", "study"]  # fixtures
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
FLAGS += ("--disable-component-update", "--disable-sync", "--disable-quic")
ROWS = (
    "return [...document.querySelector('table.sortable').tBodies[0].rows].map(r => r.cells[arguments[0]].dataset.value)"
)
IMAGES = "return [...document.images].map(i => [i.alt, i.complete, i.naturalWidth, i.clientWidth])"


@pytest.fixture(scope="module")
def browser():
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("no browser here: chromium and chromedriver are not on the path")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    made = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield made
    made.quit()


def look(browser, page: Path, width: int) -> None:
    """Open a page at the width of a screen in pixels, also narrower than a window can be."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(page.as_uri())


@pytest.mark.parametrize("width", [1400, 390])
def test_page(study, browser, width):
    page = study[1] / "report.html"
    assert "http://" not in (text := page.read_text()) and "https://" not in text, "nothing is loaded"
    look(browser, page, width)
    assert not browser.get_log("browser"), "no messages on the console"
    shown = browser.execute_script(IMAGES)
    assert len(shown) >= 4 + 2 * 3, "figures, and samples and animation of three arms"
    assert all(complete and natural > 0 and 50 < client <= width for _, complete, natural, client in shown), shown
    assert browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth"), "fits the screen"


def test_sorting(study, browser):
    look(browser, study[1] / "report.html", 1400)
    buttons = browser.find_elements(By.CSS_SELECTOR, "th button")
    steps = [button.text for button in buttons].index("steps")
    buttons[steps].click()
    assert [float(value) for value in browser.execute_script(ROWS, steps)] == [7, 7, 64]
    buttons[steps].click()
    assert [float(value) for value in browser.execute_script(ROWS, steps)] == [64, 7, 7]


def test_animation(study, browser):
    look(browser, study[1] / "report.html", 1400)
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


def test_report_of_a_study_that_is_not_complete(study, cache, tmp_path):
    """At any time: the rows that are there, and a line that says how many are missing."""
    (tmp_path / "tiny.yaml").write_text(STUDY.replace("seeds: [0, 1]", "seeds: [0, 1, 2]"))
    plan = plan_study(str(tmp_path / "tiny.yaml"), str(study[1]), [f"data.cache={cache}"])
    results = Results.of(StudyQueue.open(plan, storage_url(None, plan)), "command")
    copy = Results(**{**vars(results), "out": Path(shutil.copytree(study[1], tmp_path / "copy"))})
    write_report(copy)
    for name in ("report.md", "report.html"):
        assert "3 of 9 trials are still to be done" in (copy.out / name).read_text()
    assert (copy.out / "results.tex").read_text().count("\\\\\n") == 4, "a header and three arms"
