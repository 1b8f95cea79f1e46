"""Intervals, tests and what is shown of them: one meaning of ±, nothing where there are too few seeds."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_rel

from ablations.cli import main
from ablations.reporting.columns import cell, column_of, present, shown
from ablations.reporting.figures import LABEL_WIDTH, apart, draw_front
from ablations.reporting.results import Results, contrast_notes, headline, size_notes, token_notes
from ablations.reporting.statistics import contrast, difference, holm, interval
from ablations.reporting.tables import compared
from ablations.reporting.tables import tested as all_tested
from radar.decoding.groups import sizes_text
from tests.command_line import fails


def rows(arm: str, **columns: list[float]) -> list[dict[str, object]]:
    count = len(next(iter(columns.values())))
    shared = {"arm": arm, "fid_feature": "cnn:0", "steps": 7, "samples": 100, "held_out": 50, "reference": "x"}
    shared |= {"timing_batch": 4, "options": {"sample": {}}, "variant": "plain", "correction": 0.0, "step_map": None}
    shared |= {"hardware": "x", "commit": "x"}
    return [shared | {"seed": seed} | {key: values[seed] for key, values in columns.items()} for seed in range(count)]


def test_plus_minus_is_half_of_a_95_percent_interval():
    """Student's t of three values: 4.303 standard errors, 2.5 times the standard deviation."""
    values = [1.0, 2.0, 4.0]
    half = 4.302652729911275 * np.std(values, ddof=1) / 3**0.5
    assert interval(values) == (pytest.approx(7 / 3), pytest.approx(half))
    assert shown(values, 2) == f"2.33 ± {half:.2f}"


def test_two_seeds_have_no_interval_and_no_p():
    """A report of two seeds printed recall 0.242 ± 3.071 and p = 0.034."""
    a, b = rows("a", recall=[0.0, 0.484], fid=[1.0, 1.1]), rows("b", recall=[0.1, 0.2], fid=[0.5, 0.601])
    assert cell(a, column_of("recall")) == "0.000, 0.484"
    gap = difference(a, b, "fid")
    assert (gap.half, gap.p) == (None, None) and compared(gap) == "+0.500, +0.499"
    assert interval([3.0]) == (3.0, None) and cell(rows("a", fid=[3.0]), column_of("fid")) == "3.000"
    axis = draw_front(a + b, "steps", "steps", "minimize").axes[0]
    assert not [bar for bar in axis.containers if bar.has_yerr], "points, and no bars"
    assert sum(line.get_marker() == "." for line in axis.lines) == 2


@given(st.lists(st.integers(1, 300), min_size=1, unique=True).map(sorted))
def test_labels_have_room(positions):
    low, high = 0.8 * positions[0], 1.4 * positions[-1]
    kept, room = apart(positions, low, high), (high / low) ** LABEL_WIDTH
    assert all(b >= room * a for a, b in pairwise(kept))
    assert all(any(a <= position < room * a for a in kept) for position in positions if position not in kept)


def test_what_is_bounded_is_cut():
    assert cell(rows("a", recall=[0.97, 0.99, 1.0]), column_of("recall")) == "0.987 [0.949, 1.000]"
    assert cell(rows("a", fid=[0.0, 0.1, 0.4]), column_of("fid")) == "0.167 [0.000, 0.684]"
    assert cell(rows("a", kid=[0.0, 0.1, 0.4]), column_of("kid")).startswith("0.1667 ± 0.51"), "may be below 0"


def test_a_choice_is_listed():
    assert cell(rows("a", temperature=[0.8, 0.7, 0.8]), column_of("temperature")) == "0.70, 0.80"


def test_a_timing_has_its_range():
    timed = rows("a", images_per_s=[100.0] * 3, images_per_s_min=[90.0] * 3, images_per_s_max=[130.0] * 3)
    assert cell(timed, column_of("images_per_s")) == "100 [90, 130]"


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm(values):
    """Against its definition: the largest of (m - j + 1) p(j) over the smaller ones."""
    found, ranked = holm(values), sorted(values)
    for value, corrected in zip(values, found, strict=True):
        steps = [(len(values) - j) * p for j, p in enumerate(ranked) if p <= value]
        assert corrected >= value and corrected <= min(1.0, max(steps)) + 1e-12
    assert max(found) == pytest.approx(min(1.0, max((len(values) - j) * p for j, p in enumerate(ranked))))
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def test_p_is_given_raw_and_corrected():
    base, one = rows("base", fid=[1.0, 1.1, 1.3]), rows("one", fid=[0.5, 0.55, 0.9])
    other = rows("other", fid=[1.0, 1.2, 1.2])
    tests = all_tested(base + one + other, "base")["fid"]
    raw = [ttest_rel([0.5, 0.55, 0.9], [1.0, 1.1, 1.3]).pvalue, ttest_rel([1.0, 1.2, 1.2], [1.0, 1.1, 1.3]).pvalue]
    for (gap, text), p, corrected in zip(tests.values(), raw, holm(raw), strict=True):
        assert gap.p == pytest.approx(p) and f"p = {p:.3f}; Holm p = {corrected:.3f}" in text


def test_differences_of_differences():
    a, b = rows("a", fid=[1.0, 2.0, 3.0]), rows("b", fid=[0.5, 1.0, 1.5])
    c, d = rows("c", fid=[2.0, 2.0, 2.0]), rows("d", fid=[1.0, 0.0, 1.0])
    found = contrast([(a, b), (c, d)], "fid")
    assert found.values == (-0.5, -1.0, 0.5)
    results = Results("x", a + b + c + d, "a", {}, {}, 12, 0, {}, {}, "", Path(), [["a", "b"], ["c", "d"]])
    said = contrast_notes(results)
    assert said[0] == "fid, a less b: " + compared(difference(a, b, "fid")) and "(a less b) less (c less d)" in said[2]


def test_nlls_of_different_tokens_are_not_compared():
    def tokens(arm, name):
        return [row | {"options": {"tokenizer": {"name": name}}} for row in rows(arm, nll=[1.0, 2.0], fid=[1.0, 2.0])]

    same = tokens("a", "vq") + tokens("b", "vq")
    assert token_notes(same) == [] and "NLL" in headline(same)
    other = same + tokens("c", "fsq") + rows("no NLL", fid=[0.5, 0.5])
    (note,) = token_notes(other)
    assert "NLLs of different tokens cannot be compared" in note and note.endswith("a, b; c.")
    assert "lowest NLL" not in headline(other) and "no NLL (0.5" in headline(other)


def test_other_group_sizes_at_equal_steps_are_told():
    equal = rows("radial", group_sizes=[[1, 4, 2]] * 3) + rows("halton", group_sizes=[[1, 4, 2]] * 3)
    assert size_notes(equal) == []
    (note,) = size_notes(equal + rows("spiral", group_sizes=[[2, 2, 3]] * 3))
    assert "arms of 7 steps differ in their group sizes" in note and "1 4 2 (radial, halton); 2 2 3 (spiral)" in note
    assert sizes_text([1] * 64) == "64x1" and sizes_text([9, 9, 9, 10, 10]) == "3x9 10 10"


def report(folder: Path, seconds: dict[str, list[float]] | None = None) -> Path:
    columns = {"fid": [1.0, 1.1, 1.2], "fid_matched": [1.0, 1.1, 1.2], "nll": [3.0, 3.1, 3.2]}
    found = {"command": "radar ablate x", "rows": rows("a", **columns) + rows("b", **columns), "baseline": "a"}
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps(found))
    if seconds is not None:
        timing = {"trials": {}, "commit": "c0ffee", "batch": 12, "seconds": seconds}
        (folder / "timing.json").write_text(json.dumps(timing))
    return folder


def test_a_report_is_written_again_against_another_arm(tmp_path, capsys):
    """Speed-up follows the baseline, and is that of the two images/s."""
    folder = report(tmp_path / "x", {"a": [1.0, 2.0, 1.5], "b": [3.0, 3.0, 4.0]})
    main(["report", str(folder)])
    rows_of = {row["arm"]: row for row in json.loads((folder / "results.json").read_text())["rows"]}
    assert (rows_of["a"]["images_per_s"], rows_of["b"]["images_per_s"]) == (8, 4)
    assert (rows_of["a"]["speedup"], rows_of["b"]["speedup"]) == (1, 0.5) and rows_of["b"]["timed_at"] == "c0ffee"
    main(["report", str(folder), "--baseline", "b"])
    found = json.loads((folder / "results.json").read_text())
    rows_of = {row["arm"]: row for row in found["rows"]}
    assert (rows_of["a"]["speedup"], rows_of["b"]["speedup"]) == (2, 1) and found["baseline"] == "b"
    assert (rows_of["a"]["speedup_min"], rows_of["a"]["speedup_max"]) == (1.5, 3.0)
    assert "fid against b" in capsys.readouterr().out and "fid against b" in (folder / "report.md").read_text()
    assert "baseline 'c' is not an arm; choose from: a, b" in fails(capsys, "report", folder, "--baseline", "c")
    assert "has no effect" in fails(capsys, "report", folder, "train.max_steps=3")
    (tmp_path / "empty").mkdir()
    assert "holds no report" in fails(capsys, "report", tmp_path / "empty")


def test_an_old_speed_up_is_not_kept_against_another_arm(tmp_path):
    """Without timings, or with some that lack the baseline, there is none."""
    folder = report(tmp_path / "x")
    found = json.loads((folder / "results.json").read_text())
    old = [row | {"speedup": 2.0, "speedup_min": 1.0, "images_per_s": 5.0} for row in found["rows"]]
    (folder / "results.json").write_text(json.dumps(found | {"rows": old}))
    assert all(row["speedup"] == 2 for row in Results.read(folder).rows), "as it was written"
    for row in Results.read(folder, "b").rows:
        assert "speedup" not in row and "speedup_min" not in row and row["images_per_s"] == 5
    timing = {"trials": {}, "commit": "c0ffee", "batch": 12, "seconds": {"b": [1.0, 1.0], "c": [1.0, 1.0]}}
    (folder / "timing.json").write_text(json.dumps(timing))
    assert all("speedup" not in row for row in Results.read(folder).rows), "a was not timed"


def test_any_tuned_option_is_listed():
    one, other = rows("a", fid=[1.0, 2.0, 3.0]), rows("b", fid=[1.0, 2.0, 3.0])
    for row, value in zip([*one, *other], (0.9, 1.0, 0.9, 0.5, 0.5, 0.5), strict=True):
        row["options"] = {"sample": {"top_p": value, "seed": row["seed"], "top_k": 3}}
    (column,) = [column for column in present(one + other) if column.key.startswith("sample.")]
    assert column.title == "top p" and (cell(one, column), cell(other, column)) == ("0.9, 1.0", "0.5")


def test_the_floor_is_drawn_for_as_many_images():
    one, other = rows("a", fid=[1.0, 2.0])
    few, many = ({**row, "fid_floor": 0.5, "floor_images": n} for row, n in ((one, 50), (other, 100)))
    for row, drawn in ((few, 0), (many, 1)):
        axis = draw_front([row], "steps", "steps", "minimize").axes[0]
        assert sum("held-out" in str(line.get_label()) for line in axis.lines) == drawn
