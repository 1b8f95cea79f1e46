"""Reports of several numbers of steps, put together."""

import json

import pytest

from ablations.cli import main
from ablations.curves import by_steps, draw_curves, read_rows, steps_table
from ablations.reporting.statistics import by_arm
from tests.command_line import fails

ORDERS = ("radial", "halton", "a|b", "random", "lpd")


def row(arm: str, steps: int, seed: int, **others: object) -> dict[str, object]:
    fid = ORDERS.index(arm) + 10 / steps + 0.125 * seed
    facts = {"fid_feature": "cnn:0", "reference": "train (5)", "samples": 9, "held_out": 3, "precision": 0.5}
    facts |= {"variant": "plain", "correction": 0.0, "options": {"order": {"name": arm, "steps": steps}, "seed": seed}}
    return facts | {
        "arm": arm, "steps": steps, "seed": seed, "fid": fid, "nll": None, "gap": fid, "gap_data": -fid, **others
    }  # fmt: skip


def write(folder, rows) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "results.json").write_text(json.dumps({"command": "", "rows": rows}))
    return str(folder)


@pytest.fixture
def folders(tmp_path):
    return [write(tmp_path / f"k{k}", [row(arm, k, s) for arm in ORDERS for s in (0, 1, 2)]) for k in (13, 4)]


def test_page_and_picture(folders, tmp_path, capsys):
    main(["curves", *folders, "--baseline", "radial", "--out", str(tmp_path / "out")])
    page = (tmp_path / "out" / "curves.md").read_text()
    assert page in capsys.readouterr().out and (tmp_path / "out" / "curves.png").stat().st_size > 1000
    assert "| radial | 2.625 ± 0.311 | 0.894 ± 0.311 |" in page, "10 / K + 0.125; Student's t of three seeds"
    assert "| halton | +1.000 ± 0.000 | +1.000 ± 0.000 |" in page, "against radial at the same K"
    assert r"| a\|b | +2.000 ± 0.000 | +2.000 ± 0.000 |" in page and "| radial |  |  |" in page
    assert "- K = 4: fid against the independence gap in the field exp(-r/4)" in page
    assert "correlation -1.00" in page and "nll" not in page.lower()


def test_lines_go_through_the_means_of_each_number_of_steps(folders):
    rows = read_rows(folders)
    assert list(by_steps(rows)) == [4, 13] and all(len(group) == 15 for group in by_steps(rows).values())
    figure = draw_curves(rows)
    assert [axis.get_ylabel() for axis in figure.axes] == ["fid[cnn]", "precision"]
    lines = {bar.get_label(): bar.lines[0].get_ydata().tolist() for bar in figure.axes[0].containers}
    assert lines["halton"] == pytest.approx([1 + 10 / 4 + 0.125, 1 + 10 / 13 + 0.125]) and set(lines) == set(ORDERS)
    table = steps_table(rows, lambda arm, group: str(len(by_arm(group)[arm])))
    assert table.splitlines()[0] == "| arm | K = 4 | K = 13 |" and table.splitlines()[2] == "| radial | 3 | 3 |"


def test_what_cannot_be_put_together(folders, tmp_path, capsys):
    other = write(tmp_path / "other", [row("radial", 7, 0, samples=10)])
    longer = write(
        tmp_path / "longer", [row("radial", 7, 0, options={"train": {"max_steps": 9}, "order": {"name": "radial"}})]
    )
    again = write(tmp_path / "again", [row("radial", 4, 0)])
    for argv, message in (
        ([folders[1], longer], "the rows of arm 'radial' cannot be compared: train.max_steps is 1000 and 9"),
        ([write(tmp_path / "torn", [{"arm": "radial"}])], "results.json has rows without steps"),
        ([write(tmp_path / "text", "no rows")], "results.json has rows without arm"),
        ([write(tmp_path / "empty", [row("radial", 7, 0, fid=None, precision=None)])], "no results yet in"),
        ([str(tmp_path)], "results.json is not the results of a study"),
        ([folders[0], other], "the reports cannot be compared: samples is 10 and 9"),
        ([*folders, again], "arm 'radial' in 4 steps with seed 0 is in two reports"),
        ([folders[0], "--baseline", "spiral"], "baseline 'spiral' is not an arm; choose from: radial, halton"),
        ([write(tmp_path / "none", [])], "no results yet in"),
    ):
        assert message in fails(capsys, "curves", *argv, "--out", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_reports_from_before_and_after_a_renaming(tmp_path):
    old, new = ({"train": {name: 9, kind: value}} for name, kind, value in (
        ("steps", "redraw", "permuted"), ("max_steps", "permutations", "random")
    ))  # fmt: skip
    folders = [write(tmp_path / f"{k}", [row("radial", k, 0, options=given)]) for k, given in ((4, old), (7, new))]
    assert len(read_rows(folders)) == 2
