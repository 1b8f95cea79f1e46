"""What the docs say is what the reports hold: every figure has a marker behind it that names where it stands.

`1.2 ± 0.3<!--REPORT: ARM: COLUMN-->` is a mean, `ARM less OTHER` a difference paired by seed, `rank COLUMN GAP` a rank
correlation, `<!--gap: ORDER-->` a gap on 16x16 cells in 13 steps, `<!--params: PRESET-->` millions of parameters.
`<!--table REPORT: COLUMN, ...-->` stands above a table of one line per arm, `<!--edits REPORT: TITLE-->` above one of
edits, `<!--tokenizers DATA-->` above their table. `ARM: edit EDIT SCORE` is the score of an edit,
`<!--edits: NAME SCORE-->` one of a run of `radar edit`.
"""

import json
import re
from functools import cache
from pathlib import Path

import pytest
import torch

from ablations.reporting.columns import cell, column_of, numbers, shown, titled
from ablations.reporting.edits import edit_tables
from ablations.reporting.statistics import by_arm, difference, gap_correlation
from experiments.options import as_markdown
from radar.config.load import parse_order, to_config
from radar.config.methods import METHODS
from radar.config.options import OrderConfig
from radar.decoding.orders import decode_steps
from radar.decoding.total_correlation import exponential_covariance, independence_gap
from radar.model.transformer import Transformer, parameter_count
from radar.training.counts import passes_and_slots

ROOT = Path(__file__).parent.parent
REPORTS = ROOT / "results"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
YAML = ("ablations/studies/*.yaml", "experiments/configs/*.yaml")
HEADERS = [path for pattern in YAML for path in sorted(ROOT.glob(pattern))]
NUMBER = r"[-+]?\d[\d,]*(?:\.\d+)?"
FIGURE = re.compile(rf"({NUMBER}M?(?: ± {NUMBER}| \[{NUMBER}, {NUMBER}\])?)<!--([^:]+): (.+?)-->")
TABLE = re.compile(r"<!--table ([^:]+): (.+?)-->\n((?:\|.*\n)+)")
EDITS = re.compile(r"<!--edits ([^:]+): (.+?)-->\n((?:\|.*\n)+)")
TOKENIZERS = re.compile(r"<!--tokenizers (\w+)-->\n((?:\|.*\n)+)")
RESULT = re.compile(r"\d\.\d|\d (?:±|\+-) \d|\d times\b|\d+ (?:s|ms|µs|minutes|hours)\b")
DEFINITIONS = (
    "Python 3.11",
    "Apache-2.0",
    "correction 0.1",
    "crops 1.1 and 1.05 times",
    "0.5 (sum",
    "heartbeats (, 10 s)",
)


@cache
def report(name: str) -> list[dict[str, object]]:
    return json.loads((REPORTS / name / "results.json").read_text())["rows"]


def digits(text: str) -> int:
    return len(re.match(NUMBER, text)[0].partition(".")[2])


def found(text: str, where: str, what: str) -> str:
    """Write the figure that a marker names as the text writes it."""
    if where == "gap":
        order = parse_order(what, None if what == "radial" else OrderConfig(steps=13, schedule="cosine"))
        order = parse_order("radial:steps=13:schedule=cosine") if what == "radial" else order
        gap = float(independence_gap(decode_steps(order, 16, 16), exponential_covariance(16, 16)).sum())
        return f"{gap:.{digits(text)}f}"
    if where == "params":
        model = to_config({"model": {"preset": what}}).model
        with torch.device("meta"):
            return f"{parameter_count(Transformer(model, 16384, 1000, (16, 16))) / 1e6:,.1f}M"
    if where == "edits":  # one run of `radar edit`
        name, key = what.split()
        score = json.loads((REPORTS / "edits" / f"{name}.json").read_text())["scores"][key]
        return f"{score['mean']:.{digits(text)}f} ± {score['half']:.{digits(text)}f}"
    rows = report(where)
    if what.startswith("rank "):
        _, key, gap = what.split()
        _, (rho, low, high, _) = gap_correlation(rows, gap, key)
        return f"{rho:.2f} [{low:.2f}, {high:.2f}]"
    arms, (name, _, key) = by_arm(rows), what.rpartition(": ")
    if key.startswith("edit "):  # `edit box nll_per_cell`
        _, edit, key = key.split()
        arms = {arm: [{**row, key: row["edits"][edit].get(key)} for row in group] for arm, group in arms.items()}
    if " less " not in name:
        return shown(numbers(arms[name], key), digits(text)).replace("+", "")
    one, other = name.split(" less ")
    gap = difference(arms[one], arms[other], key)
    half = "" if gap.half is None else f" ± {gap.half:.{digits(text)}f}"
    return f"{gap.mean:+.{digits(text)}f}{half}"


def figures() -> list[tuple[str, str, str, str]]:
    return [(page.name, *match) for page in PAGES for match in FIGURE.findall(page.read_text())]


@pytest.mark.parametrize(("page", "text", "where", "what"), figures(), ids=lambda value: value[:40])
def test_every_figure_is_that_of_its_report(page, text, where, what):
    assert found(text, where, what) == text


def table(name: str, keys: list[str]) -> str:
    """One line per arm of a report."""
    rows = report(name)
    columns = [column_of(key) for key in keys]
    lines = [["arm", *(titled(column, rows) for column in columns)], ["---"] * (len(keys) + 1)]
    lines += [[arm, *(cell(group, column) for column in columns)] for arm, group in by_arm(rows).items()]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def tables() -> list[tuple[str, str, str, str]]:
    return [(page.name, *match) for page in PAGES for match in TABLE.findall(page.read_text())]


@pytest.mark.parametrize(("page", "where", "columns", "text"), tables(), ids=lambda value: value[:40])
def test_every_table_is_that_of_its_report(page, where, columns, text):
    assert text == table(where, columns.split(", "))


def edits() -> list[tuple[str, str, str, str]]:
    return [(page.name, *match) for page in PAGES for match in EDITS.findall(page.read_text())]


@pytest.mark.parametrize(("page", "where", "title", "text"), edits(), ids=lambda value: value[:40])
def test_every_table_of_edits_is_that_of_its_report(page, where, title, text):
    titles, _, arms = edit_tables(report(where))[title]
    lines = [titles, ["---"] * len(titles), *([cell.text for cell in line] for line in arms.values())]
    assert text == "".join("| " + " | ".join(line) + " |\n" for line in lines)


def tokenizers(data: str) -> str:
    """One line per judged tokenizer: PSNR, SSIM, use of codes, what both networks see of what is restored."""
    judges = [
        (f"[{label}]", key) for label, key in ((f"{data}-cnn", ""), ("efficientnet_lite0", "[efficientnet_lite0]"))
    ]
    titles = ["tokenizer", "cells", "codes", "used", "perplexity", "PSNR (dB)", "SSIM"]
    titles += [f"{name}{label}" for label, _ in judges for name in ("rfid", "fid_restored", "fid_floor")]
    lines = [titles, ["---"] * len(titles)]
    for path in sorted((REPORTS / "tokenizers").glob(f"{data}-*/evaluation.json")):
        row = json.loads(path.read_text())
        line = [path.parent.name, "x".join(map(str, row["grid"])), str(row["codes"]), f"{row['codebook_use']:.0%}"]
        line += [f"{row['perplexity']:.0f}", f"{row['psnr']:.1f}", f"{row['ssim']:.3f}"]
        line += [f"{row[name + key]:.3f}" for _, key in judges for name in ("rfid", "fid_restored", "fid_floor")]
        lines.append(line)
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def test_the_table_of_tokenizers_is_that_of_their_scores():
    tables = TOKENIZERS.findall((ROOT / "docs" / "studies.md").read_text())
    assert [data for data, _ in tables] == ["fashion", "shapes"]
    for data, text in tables:
        assert text == tokenizers(data)


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "options.md"], ids=lambda page: page.name)
def test_no_figure_stands_without_a_report(page):
    rest = EDITS.sub("", TOKENIZERS.sub("", TABLE.sub("", FIGURE.sub("", page.read_text()))))
    for part in (r"```.*?```", r"`[^`]*`", r"\]\([^)]*\)", r"\d{4}\.\d{5}", *map(re.escape, DEFINITIONS)):
        rest = re.sub(part, "", rest, flags=re.S)
    assert not RESULT.search(rest), RESULT.search(rest)


@pytest.mark.parametrize("path", HEADERS, ids=lambda path: path.name)
def test_headers_of_files_hold_no_results(path):
    header = "\n".join(line for line in path.read_text().splitlines() if line.startswith("#"))
    assert not re.search(r"\d\.\d|±|\+-|\d minutes|\bTook\b", header), header


def test_the_table_of_methods_is_that_of_the_code():
    text = (ROOT / "docs" / "methods.md").read_text()
    (first, *_) = re.findall(r"(?:^\|.*\n)+", text, re.M)  # the first table of the page
    lines = [[part.strip() for part in line.split("|")] for line in first.splitlines()]
    shown = {line[1].lower().replace("-", "_").removesuffix("_style"): line[4:6] for line in lines}
    assert shown.keys() >= METHODS.keys()
    for method in METHODS:
        counts = [passes_and_slots(method, grid) for grid in ((16, 16), (24, 24))]
        assert shown[method] == [f"{one} / {other}" for one, other in zip(*counts, strict=True)], method


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)\)", page.read_text()):
        assert target.startswith("http") or (page.parent / target).exists(), target


def test_the_page_of_options_is_that_of_the_code():
    assert (ROOT / "docs" / "options.md").read_text() == as_markdown(), "radar options --markdown > docs/options.md"


def test_pictures_that_are_shown_are_there():
    pages = [*PAGES, *ROOT.glob("benchmarks/*.md"), *REPORTS.glob("*/*.md")]
    shown = [(page, name) for page in pages for name in re.findall(r"!\[[^\]]*\]\(([^)#]+)\)", page.read_text())]
    assert shown and not [f"{page.name}: {name}" for page, name in shown if not (page.parent / name).exists()]
