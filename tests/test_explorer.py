"""The order explorer: its data are the library's, and every control of its page does what it says."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

import radar
from ablations.cli import main
from experiments.explorer.data import blocks_of, explored
from radar.attention import VARIANTS
from radar.decoding.groups import step_sizes
from radar.decoding.orders import ORDERS, PARTICULAR
from radar.orders import steps
from tests.arms import layout, typical
from tests.browser import browser
from tests.command_line import fails

__all__ = ["browser"]  # a fixture


def unpacked(found: dict) -> torch.Tensor:
    """(G, G) who sees whom, of the hex digits."""
    bits = [[int(digit, 16) >> (3 - place) & 1 for digit in row for place in range(4)] for row in found["sees"]]
    return torch.tensor([row[: len(found["blocks"])] for row in bits], dtype=torch.bool)


@pytest.mark.parametrize(("order", "variant"), typical())
def test_blocks_are_the_mask(order, variant):
    """Spread out over their slots they give the mask again."""
    slots = layout(order, variant)[1]
    found = blocks_of(slots)
    assert sum(block[5] for block in found["blocks"]) == len(slots) == found["slots"]
    number = torch.zeros(len(slots), dtype=torch.long)  # of the block that a slot belongs to
    for i, (step, kind, group, in_pass, first, count, _) in enumerate(found["blocks"]):
        own = (slots.step == step) & (slots.is_token == (kind != "query")) & (slots.group == group)
        number[own & (slots.in_pass == in_pass) & (slots.rank >= first) & (slots.rank < first + count)] = i
    assert torch.equal(unpacked(found)[number][:, number], slots.mask())
    assert found["pairs"] == int(slots.mask().sum())


def test_what_is_explored_is_what_the_library_gives():
    found = explored([(4, 4)], [3])["grids"]["4x4"]
    radial = {one["label"]: one for one in found["orders"]["radial"]}
    assert radial["natural"]["step"] == steps("radial", (4, 4)).tolist()
    assert radial["3 cosine"]["step"] == steps("radial:steps=3:schedule=cosine", (4, 4)).tolist()
    variants = found["layouts"][radial["natural"]["layout"]]
    assert variants["nested"]["slots"] == len(VARIANTS["nested"](step_sizes(steps("radial", (4, 4)))))
    assert "causal" not in variants, "its groups have more than one cell"


@pytest.mark.parametrize(("options", "line"), [
    (["--grids", "8"], "--grids 8 is not of the form ROWSxCOLUMNS"),
    (["--steps", "a"], "--steps a is not possible: numbers by commas expected"),
    (["--steps", "0"], "--steps 0 is not possible: at least 1 each"),
    (["--grids", "2x2", "--steps", "7"], "--steps 7 is not possible: the smallest grid has 4 cells"),
])  # fmt: skip
def test_bad_input(options, line, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert line in fails(capsys, "explore", *options)


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("explorer") / "explorer.html"
    main(["explore", "--grids", "4x4,4x6", "--steps", "3", "--out", str(path)])
    return path.as_uri()


@pytest.fixture
def page(browser, address) -> Iterator[webdriver.Chrome]:
    browser.get("about:blank")
    browser.get(address)
    yield browser
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def panels(page):
    return page.find_elements(By.CSS_SELECTOR, ".panel")


def cells(panel):
    return panel.find_elements(By.CSS_SELECTOR, ".cell")


def pick(panel, name: str, value: str) -> None:
    Select(panel.find_element(By.CSS_SELECTOR, f"[data-of={name}]")).select_by_visible_text(value)


def to_pass(page, number: int) -> None:
    page.execute_script(
        "const s = document.getElementById('pass'); s.value = arguments[0]; s.dispatchEvent(new Event('input'))", number
    )


def test_the_slider_plays_the_passes(page):
    left = panels(page)[0]
    expected = steps("radial", (4, 4)).tolist()
    assert [int(cell.text) for cell in cells(left)] == expected
    for number in range(max(expected) + 1):
        to_pass(page, number)
        kinds = [cell.get_attribute("class").split()[1] for cell in cells(left)]
        assert kinds == ["now" if k == number else "unknown" if k > number else "again" for k in expected]
    pick(left, "variant", "plain")
    kinds = {cell.get_attribute("class").split()[1] for cell in cells(left)}
    assert kinds == {"now", "known"}, "plain predicts nothing again"


def test_a_chosen_slot_shows_whom_it_sees(page):
    """Of every cell of nested: who is marked is who the rule says."""
    left = panels(page)[0]
    step = steps("radial", (4, 4))
    to_pass(page, 2)
    for cell in range(0, 16, 3):
        cells(left)[cell].click()
        k = int(step[cell])
        marks = [set(one.get_attribute("class").split()) for one in cells(left)]
        assert "chosen" in marks[cell]
        told = left.find_element(By.CSS_SELECTOR, ".told").text
        if k > 2:
            continue  # not asked for yet: its first slot
        kind = "query of step 2" if k == 2 else f"token of step {k}"
        assert told.startswith(f"The {kind}, in pass 2 sees: class token")
        reach = [s <= 2 if k == 2 else s < 2 for s in step.tolist()]
        assert [("sees" in one) for one in marks] == reach
        cells(left)[cell].click()
        assert left.find_element(By.CSS_SELECTOR, ".told").text == "No slot is chosen."


def test_other_slots_of_a_cell_can_be_chosen(page):
    left = panels(page)[0]
    to_pass(page, 3)
    cells(left)[10].click()
    which = Select(left.find_element(By.CSS_SELECTOR, "[data-of=slot]"))
    assert len(which.options) > 1
    which.select_by_index(0)
    assert which.options[0].text in left.find_element(By.CSS_SELECTOR, ".told").text


EVERY = """
const of = (name) => document.querySelector(`.panel [data-of=${name}]`), shown = [];
const pick = (name, value) => { of(name).value = value; of(name).dispatchEvent(new Event("change")); };
const names = (name) => [...of(name).options].map((one) => one.value);
for (const order of names("order")) {
  pick("order", order);
  for (const cut of names("cut")) {
    pick("cut", cut);
    for (const variant of names("variant")) {
      pick("variant", variant);
      const panel = document.querySelector(".panel"), text = (part) => panel.querySelector(part).textContent;
      shown.push([order, cut, variant, text(".facts"), panel.querySelectorAll(".gaps i").length, text(".total")]);
    }
  }
}
return shown;
"""


def test_every_order_cut_and_variant_draws(page):
    """As many bars as passes, and the slots and the gap that the library gives."""
    shown = page.execute_script(EVERY)
    assert {order for order, *_ in shown} == {name for name in ORDERS if name not in PARTICULAR}
    for order, cut, variant, facts, bars, total in shown:
        count, _, schedule = cut.partition(" ")
        own = radar.layout(order if cut == "natural" else f"{order}:steps={count}:schedule={schedule}", variant, (4, 4))
        assert bars == len(own.sizes) == int(facts.split()[0])
        assert f"{len(own.slots)} slots per image" in facts
        covariance = radar.exponential_covariance(4, 4)
        assert total.startswith(f"Gap: {radar.independence_gap(own.step, covariance).sum():.2f} nats in all")


def test_the_link_keeps_what_is_chosen(page, browser):
    left, right = panels(page)
    pick(left, "order", "spiral_out")
    pick(left, "cut", "3 cosine")
    pick(right, "variant", "relay")
    to_pass(page, 1)
    cells(left)[5].click()
    text = [one.text for one in panels(page)]
    link = page.current_url
    page.find_element(By.ID, "link").click()
    browser.get("about:blank")
    browser.get(link)
    assert [one.text for one in panels(browser)] == text
    assert "chosen" in cells(panels(browser)[0])[5].get_attribute("class")


def test_keys_move_between_cells(page):
    left = panels(page)[0]
    cells(left)[0].send_keys(Keys.ARROW_RIGHT)
    page.switch_to.active_element.send_keys(Keys.ARROW_DOWN)
    assert page.switch_to.active_element.get_attribute("data-cell") == "5"
    page.switch_to.active_element.send_keys(Keys.ENTER)
    assert page.switch_to.active_element.get_attribute("aria-pressed") == "true"
    label = page.switch_to.active_element.get_attribute("aria-label")
    assert label.startswith("row 1, column 1, step")


def test_another_grid_and_play(page):
    Select(page.find_element(By.ID, "grid")).select_by_visible_text("4x6")
    assert len(cells(panels(page)[0])) == 24
    play = page.find_element(By.ID, "play")
    before = page.find_element(By.ID, "number").text
    play.click()
    time.sleep(1.0)
    assert play.text == "Stop" and page.find_element(By.ID, "number").text != before
    play.click()
    assert play.text == "Play"


def test_it_fits_a_phone(page):
    page.set_window_size(500, 900)  # the narrowest that this browser's windows are
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                         {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True})  # fmt: skip
    try:
        wide = page.execute_script("return document.documentElement.scrollWidth")
        assert wide <= 360
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        page.set_window_size(1200, 1000)


def test_nothing_is_fetched(address):
    text = Path(address.removeprefix("file://")).read_text()
    assert "http://" not in text and "https://" not in text
    data = text.split("const DATA = ")[1].split(";\nconst $")[0]
    assert set(json.loads(data)["grids"]) == {"4x4", "4x6"}
