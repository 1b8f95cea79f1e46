"""A tokenizer that is not trained yet is trained before its generator, and only then."""

import pytest
import torch

from ablations.cli import main
from ablations.study.plan import read_plan
from ablations.study.prepare import check_arms
from experiments.configs import find_config
from radar.config.load import load_config, tokenizer_config, training_options
from radar.errors import InputError
from radar.training.untrained import train_untrained, untrained
from tests.command_line import fails

SMALL = ["train.max_steps=1", "train.batch_size=4", "model.dim=16", "model.heads=1", "model.layers=1", "data.images=20"]
FIRST = ["tokenizer.width=8", "tokenizer_training.train.max_steps=2", "tokenizer_training.train.batch_size=4"]


@pytest.fixture
def options(tmp_path, monkeypatch):
    """Options of a short training in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return [*SMALL, *FIRST, "data.cache=cache", "run=run", "tokenizer.checkpoint=t/last.ckpt"]


def steps_of(path):
    return torch.load(path, weights_only=True)["global_step"]


def test_one_command_trains_the_tokenizer_and_the_generator(options, tmp_path):
    main(["train", "shapes_fsq", *options])
    first = (tmp_path / "t" / "last.ckpt").read_bytes()
    assert steps_of("t/last.ckpt") == 2 and steps_of("run/last.ckpt") == 1
    main(["train", "shapes_fsq", *options, "run=other", "seed=1"])
    assert (tmp_path / "t" / "last.ckpt").read_bytes() == first  # it is trained


def test_a_tokenizer_that_was_stopped_goes_on(options):
    config = load_config(find_config("shapes_fsq"), options)
    train_untrained(config)
    assert untrained(config) is None
    checkpoint = torch.load("t/last.ckpt", weights_only=True)
    checkpoint["radar"]["config"]["train"]["max_steps"] = config.tokenizer_training["train"]["max_steps"] = 3
    torch.save(checkpoint, "t/last.ckpt")  # as if it had been stopped after two steps of three
    assert str(untrained(config)) == "t/last.ckpt"
    train_untrained(config)
    assert steps_of("t/last.ckpt") == 3


def test_how_a_generator_is_trained_does_not_reach_its_tokenizer():
    plain = load_config(find_config("fashion"))
    other = load_config(
        find_config("fashion"), ["train.optimizer=adamw", "train.ema=0.5", "train.precision=bf16-mixed"]
    )
    assert training_options(tokenizer_config(plain)) == training_options(tokenizer_config(other))
    assert tokenizer_config(plain).data.augment == "flip" and plain.data.augment == "none"
    two = load_config(find_config("fashion"), ["train.devices=2"])
    assert tokenizer_config(two).train.devices == 2  # on what it is trained does


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ("order.steps=65", "order.steps=65 is not possible: a grid of 64 cells takes 1..64 steps"),
        ("train.align_layer=1", "train.align_layer and train.align_weight have no effect without train.align"),
        (
            "tokenizer.checkpoint=t.ckpt",
            "tokenizer.checkpoint=t.ckpt cannot be trained: its file name must be last.ckpt",
        ),
        ("tokenizer_training.train.lr=-1", "tokenizer_training: train.lr=-1.0 is not possible: it must be above 0"),
        (
            "tokenizer_training.train.strategy=fsdp",
            "train.strategy=fsdp is not possible: a tokenizer is whole on every device; choose ddp",
        ),
    ],
)
def test_a_wrong_option_ends_all_before_the_tokenizer_is_trained(wrong, line, options, tmp_path, capsys):
    assert fails(capsys, "train", "shapes_fsq", *options, wrong) == f"radar: {line}"
    assert not list(tmp_path.rglob("*.ckpt"))


def test_arms_that_share_a_tokenizer_train_it_alike(tmp_path):
    arms = "{a: {}, b: {tokenizer_training: {train: {max_steps: 9}}}}"
    (tmp_path / "x.yaml").write_text(
        f"name: x\nbase: shapes_fsq\nconfig: {{tokenizer: {{checkpoint: {tmp_path}/last.ckpt}}}}\narms: {arms}\n"
    )
    with pytest.raises(InputError, match=r"arm 'b': tokenizer.checkpoint=.* is trained otherwise for arm 'a'"):
        check_arms(read_plan(str(tmp_path / "x.yaml"), str(tmp_path), ["data.images=20"]))
