"""A training that gets no better ends, and its best weights are kept, wherever it was stopped."""

import pytest
import torch

from radar.config.load import to_config
from radar.training import fit
from radar.training.checkpoints import load_generator
from radar.training.generator import GeneratorModule
from radar.training.logs import learning_curve
from radar.training.runs import train_generator
from tests.command_line import fails

CURVE = {2: 9.0, 4: 5.0, 6: 7.0, 8: 6.0, 10: 1.0}  # by step; with a patience of two, 10 is not reached
OPTIONS = {
    "model": {"dim": 16, "layers": 1, "heads": 1},
    "train": {"max_steps": 12, "batch_size": 4, "val_every": 2, "val_images": 5, "checkpoint_every": 1, "patience": 2},
}


@pytest.fixture
def scripted(monkeypatch):
    """Validations give what CURVE says, also those that are made up without a trainer."""
    made_up, make_up = [0], fit.make_up_validation

    def noted(config, module, batches, checkpoint, path):
        made_up[0] = checkpoint["global_step"]
        make_up(config, module, batches, checkpoint, path)

    def values(self):
        return {"val/nll": CURVE[self.global_step or made_up[0]]}

    monkeypatch.setattr(fit, "make_up_validation", noted)
    monkeypatch.setattr(GeneratorModule, "validation_values", values)


def train(tmp_path, name: str, **options: object):
    values = {**OPTIONS, "train": {**OPTIONS["train"], **options}}
    return train_generator(to_config(values, [f"run={tmp_path / name}", f"data.cache={tmp_path}"]))


def test_the_best_weights_are_kept(tmp_path, scripted, monkeypatch):
    best = load_generator(train(tmp_path, "patient"))
    assert (best.kept_step, best.trained_steps) == (4, 8) and not (tmp_path / "patient" / "best.ckpt").exists()
    assert [step for step, _ in learning_curve(tmp_path / "patient")] == [2, 4, 6, 8]
    monkeypatch.setattr(GeneratorModule, "training_step", lambda *_: pytest.fail("it had ended"))
    assert load_generator(train(tmp_path, "patient")).kept_step == 4


@pytest.mark.parametrize("where", ["training_step", "on_validation_epoch_start"])
@pytest.mark.parametrize("at", [4, 5, 6, 8])
def test_stopped_and_resumed(where, at, tmp_path, scripted):
    """As if it had not been stopped, also between the best checkpoint and its validation, and the last and the end."""
    whole = load_generator(train(tmp_path, "whole"))
    original = getattr(GeneratorModule, where)

    def struck(self, *arguments):
        if self.global_step == at:
            raise KeyboardInterrupt
        return original(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GeneratorModule, where, struck)
        if (where == "training_step" and at == 8) or (where != "training_step" and at == 5):
            train(tmp_path, "stopped")  # it is not reached
        else:
            with pytest.raises(BaseException):  # noqa: B017 - Lightning turns it into one of its own
                train(tmp_path, "stopped")
    again = load_generator(train(tmp_path, "stopped"))
    assert (again.kept_step, again.trained_steps) == (4, 8)
    assert learning_curve(tmp_path / "stopped") == learning_curve(tmp_path / "whole")
    pairs = zip(whole.module.parameters(), again.module.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_patience_without_validations(tmp_path, capsys):
    options = ("train.max_steps=20", "train.val_every=10", "train.patience=2", f"run={tmp_path / 'run'}")
    line = fails(capsys, "train", "digits", *options)
    assert "train.patience=2 has no effect: it must be less than the 2 validations" in line
    assert not (tmp_path / "run").exists()
