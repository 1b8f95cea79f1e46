"""Every place where a training can be logged, offline: figures, images, options."""

import sqlite3
from importlib.util import find_spec
from pathlib import Path

import pytest

from ablations.cli import main
from radar.training import loggers
from radar.training.logs import validations
from tests.command_line import fails

TINY = ["model.dim=16", "model.heads=1", "model.layers=1", "train.batch_size=8", "train.warmup=1", "train.val_every=2",
        "train.log_every=1", "train.val_samples=20", "evaluate.images=20", "run=run"]  # fmt: skip


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
        "TRACKIO_DIR": str(tmp_path / "trackio"),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def train(name: str, steps: int) -> None:
    main(["train", "digits", *TINY, f"train.max_steps={steps}", f"train.loggers=[csv,{name}]"])


def test_tensorboard():
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train("tensorboard", 2)
    found = EventAccumulator(
        str(next(Path("run/tensorboard").rglob("version_*"))), size_guidance={"images": 0}
    ).Reload()
    assert {"train/loss", "val/nll", "val/fid"} <= set(found.Tags()["scalars"])
    assert found.Tags()["images"] == ["val/samples"]
    assert [event.step for event in found.Scalars("val/nll")] == [2]


@pytest.mark.skipif(not find_spec("mlflow"), reason="mlflow is not installed")
def test_mlflow():
    train("mlflow", 4)
    with sqlite3.connect("run/mlflow.db") as database:
        keys = {key for (key,) in database.execute("select distinct key from metrics")}
        options = dict(database.execute("select key, value from params"))
    assert {"train/loss", "val/nll", "val/fid"} <= keys
    assert options["model.dim"] == "16"
    assert any(Path("run/mlflow").rglob("*.png"))


@pytest.mark.skipif(not find_spec("wandb"), reason="wandb is not installed")
def test_wandb():
    train("wandb", 4)
    (run,) = Path("run/wandb").glob("offline-run-*")
    assert any(run.rglob("*.png")), "the samples"
    assert next(iter(run.glob("run-*.wandb"))).stat().st_size > 1000


@pytest.mark.skipif(not find_spec("trackio"), reason="trackio is not installed")
def test_trackio():
    train("trackio", 4)
    (path,) = Path("trackio").glob("*.db")
    with sqlite3.connect(path) as database:
        text = str(database.execute("select * from metrics").fetchall())
    assert "val/nll" in text and "val/fid" in text and "train/loss" in text


def test_loggers_do_not_change_what_is_trained():
    """Another logger is no other training: it is done."""
    train("tensorboard", 2)
    before = Path("run/last.ckpt").stat().st_mtime_ns
    main(["train", "digits", *TINY, "train.max_steps=2", "train.loggers=[csv]"])
    assert Path("run/last.ckpt").stat().st_mtime_ns == before
    assert [step for step, _ in validations(Path("run"), "val/nll")] == [2]


def test_bad_input(capsys, monkeypatch):
    line = fails(capsys, "train", "digits", *TINY, "train.loggers=[csv,visdom]")
    assert "unknown logger 'visdom'; choose from: csv, tensorboard, wandb, mlflow, trackio" in line
    line = fails(capsys, "train", "digits", *TINY, "train.loggers=[tensorboard]")
    assert "csv among them, and none twice, expected" in line
    monkeypatch.setattr(loggers, "find_spec", lambda name: None)
    line = fails(capsys, "train", "digits", *TINY, "train.loggers=[csv,wandb]")
    assert "train.loggers=wandb needs lightning" in line or "train.loggers=csv needs lightning" in line
    assert not Path("run").exists()
