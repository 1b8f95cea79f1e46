"""A training that gets no better ends, and its best weights are kept, wherever it was stopped."""

import math

import pytest
import torch

from radar.config.load import to_config
from radar.training.checkpoints import load_generator
from radar.training.generator import GeneratorModule
from radar.training.logs import learning_curve
from radar.training.patience import KeepBest, waited
from radar.training.runs import train_generator
from tests.command_line import fails

CURVE = {2: 9.0, 4: 5.0, 6: 7.0, 8: 6.0, 10: 1.0}  # by step; with a patience of two, 10 is not reached
OPTIONS = {
    "model": {"dim": 16, "layers": 1, "heads": 1},
    "train": {"max_steps": 12, "batch_size": 4, "val_every": 2, "val_images": 5, "checkpoint_every": 1, "patience": 2},
}


@pytest.fixture
def scripted(monkeypatch):
    """Validations give what CURVE says."""
    monkeypatch.setattr(GeneratorModule, "validation_values", lambda self: {"val/nll": CURVE[self.global_step]})


def train(tmp_path, name: str, **options: object):
    values = {**OPTIONS, "train": {**OPTIONS["train"], **options}}
    return train_generator(to_config(values, [f"run={tmp_path / name}", f"data.cache={tmp_path}"]))


def test_the_best_weights_are_kept(tmp_path, scripted, monkeypatch):
    best = load_generator(train(tmp_path, "patient"))
    spent = torch.load(tmp_path / "patient" / "last.ckpt", weights_only=True)["callbacks"]["TrainingClock"]["seconds"]
    assert best.train_seconds == spent > 0, "those of the whole training"
    assert (best.kept_step, best.trained_steps) == (4, 8) and not (tmp_path / "patient" / "best.ckpt").exists()
    assert [step for step, _ in learning_curve(tmp_path / "patient")] == [2, 4, 6, 8]
    monkeypatch.setattr(GeneratorModule, "training_step", lambda *_: pytest.fail("it had ended"))
    assert load_generator(train(tmp_path, "patient")).kept_step == 4


@pytest.mark.parametrize(
    ("place", "name", "at"),
    [
        (GeneratorModule, "training_step", 4),
        (GeneratorModule, "training_step", 5),
        (GeneratorModule, "on_validation_epoch_start", 4),
        (GeneratorModule, "on_validation_epoch_start", 8),
        (KeepBest, "on_validation_end", 4),  # when it is logged, and not kept yet
        (KeepBest, "on_validation_end", 8),
    ],
)
def test_stopped_and_resumed(place, name, at, tmp_path, scripted):
    """As if it had not been stopped, also between a validation and its checkpoint, and the last one and the end."""
    whole = load_generator(train(tmp_path, "whole"))
    original = getattr(place, name)

    def struck(self, *arguments):
        if (self if place is GeneratorModule else arguments[0]).global_step == at:
            raise KeyboardInterrupt
        return original(self, *arguments)

    with pytest.MonkeyPatch.context() as patch, pytest.raises((SystemExit, KeyboardInterrupt)):
        patch.setattr(place, name, struck)
        train(tmp_path, "stopped")
    again = load_generator(train(tmp_path, "stopped"))
    assert (again.kept_step, again.trained_steps) == (4, 8)
    assert learning_curve(tmp_path / "stopped") == learning_curve(tmp_path / "whole")
    pairs = zip(whole.module.parameters(), again.module.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_figure_that_is_none_is_never_the_best():
    assert waited([math.nan, 5.0, math.nan]) == 1 and waited([]) == 0 and waited([3.0, 2.0]) == 0


def test_patience_without_validations(tmp_path, capsys):
    options = ("train.max_steps=20", "train.val_every=10", "train.patience=2", f"run={tmp_path / 'run'}")
    line = fails(capsys, "train", "digits", *options)
    assert "train.patience=2 has no effect: it must be less than the 2 validations" in line
    assert not (tmp_path / "run").exists()
