"""Every place where a training can be logged, offline: figures, images, options."""

import json
import sqlite3
from importlib.util import find_spec
from pathlib import Path

import pytest

from ablations.cli import main
from radar.errors import RunError
from radar.training import loggers
from radar.training.generator import GeneratorModule
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


def train(name: str, steps: int, *more: str) -> None:
    main(["train", "digits", *TINY, f"train.max_steps={steps}", f"train.loggers=[csv,{name}]", *more])


def test_tensorboard():
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train("tensorboard", 2)
    found = EventAccumulator(
        str(next(Path("run/tensorboard").rglob("version_*"))), size_guidance={"images": 0}
    ).Reload()
    assert {"train/loss", "val/nll", "val/fid"} <= set(found.Tags()["scalars"])
    assert found.Tags()["images"] == ["val/samples"]
    assert "validations/text_summary" in found.Tags()["tensors"]
    assert [event.step for event in found.Scalars("val/nll")] == [2]


@pytest.mark.skipif(not find_spec("mlflow"), reason="mlflow is not installed")
def test_mlflow():
    train("mlflow", 4)
    with sqlite3.connect("run/mlflow.db") as database:
        keys = {key for (key,) in database.execute("select distinct key from metrics")}
        options = dict(database.execute("select key, value from params"))
    assert {"train/loss", "val/nll", "val/fid"} <= keys
    assert options["model.dim"] == "16"
    table = json.loads(next(Path("run/mlflow").rglob("validations.json")).read_text())
    assert table["columns"][0] == "step" and [row[0] for row in table["data"]] == [2.0, 4.0]
    assert any(Path("run/mlflow").rglob("*.png"))


@pytest.mark.skipif(not find_spec("wandb"), reason="wandb is not installed")
def test_wandb():
    train("wandb", 4)
    (run,) = Path("run/wandb").glob("offline-run-*")
    assert any(run.rglob("*.png")), "the samples"
    assert any(run.rglob("validations*.table.json"))
    assert next(iter(run.glob("run-*.wandb"))).stat().st_size > 1000


@pytest.mark.skipif(not find_spec("trackio"), reason="trackio is not installed")
def test_trackio():
    train("trackio", 4)
    (path,) = Path("trackio").glob("*.db")
    with sqlite3.connect(path) as database:
        text = str(database.execute("select * from metrics").fetchall())
    assert "val/nll" in text and "val/fid" in text and "train/loss" in text and "validations" in text


@pytest.mark.parametrize("name", [name for name in ("mlflow", "wandb", "trackio") if find_spec(name)])
def test_a_training_that_goes_on_is_one_run(name, monkeypatch):
    original = GeneratorModule.training_step

    def struck(self, *given):
        if self.global_step == 3:
            raise RunError("stopped")
        return original(self, *given)

    with monkeypatch.context() as broken, pytest.raises(SystemExit):
        broken.setattr(GeneratorModule, "training_step", struck)
        train(name, 6, "train.checkpoint_every=2")
    train(name, 6, "train.checkpoint_every=2")
    if name == "wandb":
        names = {path.name.rsplit("-", 1)[1] for path in Path("run/wandb").glob("offline-run-*")}
        assert len(names) == 1, "two files of one run, to be sent as one"
        return
    if name == "mlflow":
        found = logged("run/mlflow.db", "select distinct run_uuid from metrics")
        steps = logged("run/mlflow.db", "select step from metrics")
    else:
        from trackio.utils import TRACKIO_DIR  # read when it was first imported, maybe by another test

        own = f"run {Path('run/.log-id').read_text()[:6]}"
        found = logged(
            TRACKIO_DIR / "radar-ablations.db", f"select distinct run_name from metrics where run_name like '{own}%'"
        )
        steps = logged(TRACKIO_DIR / "radar-ablations.db", f"select step from metrics where run_name = '{own}'")
    assert len(found) == 1 and {2, 4, 6} <= set(steps)


def logged(path, query):
    with sqlite3.connect(path) as database:
        return [value for (value,) in database.execute(query)]


@pytest.mark.skipif(not find_spec("mlflow"), reason="mlflow is not installed")
def test_one_of_several_devices_speaks():
    train("mlflow", 2, "train.devices=2", "train.device=cpu")
    assert set(logged("run/mlflow.db", "select distinct key from metrics")) >= {"train/loss", "val/nll"}
    assert len(logged("run/mlflow.db", "select run_uuid from runs")) == 1


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
