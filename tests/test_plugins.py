"""Orders and attentions of a user's own, by `plugins`: known to every command and to processes of their own."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import radar
from ablations.cli import main
from radar.attention import VARIANTS
from radar.config import plugins
from radar.config.load import load_config
from radar.decoding.orders import ORDERS
from tests.command_line import fails
from tests.test_studies import quick_workers

__all__ = ["quick_workers"]  # a fixture

OWN = """
import numpy as np
from radar.attention import VARIANTS
from radar.attention.frozen import plain
from radar.decoding.orders import ORDERS

def curtains(h, w):
    column = np.arange(h * w) % w
    return np.minimum(column, w - 1 - column)[None]

ORDERS["curtains"] = curtains
VARIANTS["as_plain"] = lambda sizes: plain(sizes)
"""
SMALL = ["model.dim=16", "model.heads=1", "model.layers=1", "train.max_steps=2", "train.batch_size=4"]
ARM = ["order.name=curtains", "attention=as_plain"]


@pytest.fixture
def own(tmp_path):
    """A file that adds an order and an attention; what it adds is gone after the test."""
    (tmp_path / "own.py").write_text(OWN)
    yield tmp_path / "own.py"
    forget()


def forget() -> None:
    """As another process, which has imported nothing."""
    plugins._digests.clear()
    ORDERS.pop("curtains", None)
    VARIANTS.pop("as_plain", None)


def test_commands_and_workers_know_them(own, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("ablations.study.workers.METHOD", "spawn")  # they inherit nothing
    cache, out = f"data.cache={tmp_path / 'cache'}", tmp_path / "out"
    study = tmp_path / "own.yaml"
    study.write_text(
        f"name: own\nbase: digits\nbaseline: radial\nconfig: {{plugins: {own}, evaluate: {{images: 20, "
        "timing_repeats: 1}}\narms:\n  curtains: {order: {name: curtains}, attention: as_plain}\n"
        "  radial: {order: {name: radial}, attention: plain}\n"
        + "".join(f"  file {k}: {{order: {{name: file, path: {tmp_path / k}.npy}}, attention: plain}}\n" for k in "ab")
    )
    for k, shift in ("a", 0), ("b", 8):
        np.save(tmp_path / f"{k}.npy", np.roll(np.arange(64) // 16, shift))
    main(["ablate", str(study), "--workers", "1", "--out", str(out), cache, *SMALL])
    assert "curtains" in (out / "report.md").read_text()
    run = next(path for path in (out / "runs").iterdir() if "curtains" in (path / "config.yaml").read_text())
    checkpoint, drawn = str(run / "last.ckpt"), ["sample.images=4", cache, "--out", str(tmp_path / "samples")]
    again = [sys.executable, "-c", "from ablations.cli import main; main()", "sample", checkpoint, *drawn]
    subprocess.run(again, check=True, capture_output=True)  # really another process
    moved = own.rename(tmp_path / "elsewhere.py")
    forget()
    assert "was trained with plugins=" in (line := fails(capsys, "sample", checkpoint, *drawn[:2]))
    assert "give plugins=[FILE]" in line
    main(["sample", checkpoint, *drawn, f"plugins={moved}"])
    assert "plugins" not in capsys.readouterr().err, "it holds the same"
    forget()
    begun = [f"init={checkpoint}", f"plugins={moved}", *ARM, f"run={tmp_path / 'tuned'}", cache]
    main(["train", "digits", *begun, "train.max_steps=2", "train.batch_size=4"])
    forget()
    own.write_text(OWN + "\n# changed\n")
    capsys.readouterr()
    main(["sample", checkpoint, *drawn])
    assert "was trained with other plugins (" in capsys.readouterr().err
    for path in (out / "runs").iterdir():  # their options are alike but for a path
        if f"{tmp_path}/b.npy" in (path / "config.yaml").read_text():
            main(["export", str(path / "last.ckpt"), str(tmp_path / "b"), cache])
            assert json.loads((tmp_path / "b" / "evaluation.json").read_text())["arm"] == "file b"
    (out / "rows" / "stray.json").write_text("[1]")
    main(["export", str(run / "last.ckpt"), str(tmp_path / "folder"), cache])
    assert json.loads((tmp_path / "folder" / "evaluation.json").read_text())["arm"] == "curtains"
    assert str(own) not in (tmp_path / "folder" / "config.json").read_text()
    assert "own.py`, not part of this" in (tmp_path / "folder" / "README.md").read_text()
    forget()
    capsys.readouterr()
    line = fails(capsys, "sample", tmp_path / "folder")
    assert "unknown attention 'as_plain'" in line and "give plugins=[FILE]" in line
    loaded = radar.load(tmp_path / "folder", f"plugins=[{own}]")
    assert loaded.sample(images=2).images.shape == (2, 3, 8, 8)


def test_verbs_without_a_configuration(own, tmp_path, capsys, monkeypatch):
    main(["orders", "--grid", "4x8", "--out", str(tmp_path / "orders.png"), "--plugins", str(own)])
    assert "curtains" in capsys.readouterr().out
    main(["gap", "--grid", "4x8", "--orders", "curtains", "--plugins", str(own)])
    assert "curtains" in capsys.readouterr().out
    main(
        [
            "masks",
            "--order",
            "curtains",
            "--variant",
            "as_plain",
            "--out",
            str(tmp_path / "m.png"),
            "--plugins",
            str(own),
        ]
    )
    assert load_config(None, [f"plugins={own}"]).plugins == [str(own)]
    monkeypatch.chdir(tmp_path)
    for label in "ab":
        (tmp_path / "images" / label).mkdir(parents=True)
        for i in range(12):
            Image.new("RGB", (16, 16), (20 * i, 90, 9)).save(tmp_path / "images" / label / f"{i}.png")
    new = ["--images", "images", "--size", "16", "--orders", "curtains", "--variants", "as_plain", "--steps", "3"]
    main(["new", "mine", *new, "--plugins", str(own)])
    assert f"plugins: ['{own}']" in (tmp_path / "mine.yaml").read_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such Python file"),
        ("raise ValueError('mine')", "cannot be imported: ValueError: mine"),
        ("def", "cannot be imported: SyntaxError"),
    ],
)
def test_what_cannot_be_imported(text, message, tmp_path, capsys):
    path = tmp_path / "bad.py"
    if text is not None:
        path.write_text(text)
    assert message in fails(capsys, "train", "digits", f"plugins=[{path}]", f"run={tmp_path / 'run'}")
    assert not (tmp_path / "run").exists()
    assert message in fails(capsys, "orders", "--grid", "4x4", "--plugins", path, "--out", tmp_path / "o.png")


def test_functions_that_fail(own, tmp_path, capsys):
    own.write_text(OWN + "ORDERS['curtains'] = lambda h, w: 1 / 0\nVARIANTS['as_plain'] = lambda sizes: None\n")
    run = [f"plugins={own}", f"run={tmp_path / 'run'}", f"data.cache={tmp_path}"]
    line = fails(capsys, "train", "digits", *ARM, *run)
    assert "order 'curtains', of a plugin, fails: ZeroDivisionError" in line
    assert "gives NoneType: Slots expected" in fails(capsys, "train", "digits", ARM[1], *run)
    assert "fails: ZeroDivisionError" in fails(capsys, "orders", "--grid", "4x4", "--plugins", own)
    (tmp_path / "study.yaml").write_text("name: a\nbase: digits\narms:\n  one: {}\n")
    assert "is a study, not one configuration" in fails(capsys, "train", tmp_path / "study.yaml")
    (tmp_path / "study.yaml").write_text("name: a\nbase: digits\nseeds: 3\narms:\n  one: {}\n")
    assert "a list expected, as [0, 1, 2]" in fails(capsys, "ablate", tmp_path / "study.yaml")


def test_an_attention_of_ones_own_that_leaks_is_refused(own, tmp_path, capsys):
    own.write_text(OWN + "from dataclasses import replace\nVARIANTS['as_plain'] = lambda sizes: replace(plain(sizes), "
                   "sees=lambda a, b: (a.step >= -1) & (b.step >= -1))\n")  # fmt: skip
    line = fails(capsys, "train", "digits", *ARM, f"plugins={own}", f"run={tmp_path / 'run'}", f"data.cache={tmp_path}")
    assert "who sees whom leaks" in line
