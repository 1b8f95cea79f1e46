"""A tokenizer that is not trained yet is trained before its generator, and only then."""

from pathlib import Path

import pytest
import torch

import radar
from ablations.cli import main
from ablations.study.plan import read_plan
from ablations.study.prepare import check_arms
from ablations.study.study_file import check_free
from experiments.configs import find_config
from radar.config.load import load_config, to_dict, tokenizer_config, training_options
from radar.errors import InputError
from radar.sharing.export import portable
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


def test_one_command_trains_the_tokenizer_and_the_generator(options, tmp_path, capsys):
    main(["train", "shapes_fsq", *options])
    first = (tmp_path / "t" / "last.ckpt").read_bytes()
    assert steps_of("t/last.ckpt") == 2 and steps_of("run/last.ckpt") == 1
    main(["train", "shapes_fsq", *options, "run=other", "seed=1", "train.device=cpu"])
    assert "trained already" not in capsys.readouterr().out
    main(["train", "shapes_fsq", *options, "run=third", "tokenizer_training.train.max_steps=3"])
    line = "t/last.ckpt is trained already, and otherwise (train.max_steps: 2, not 3); it stays as it is\n"
    assert line in capsys.readouterr().out
    assert (tmp_path / "t" / "last.ckpt").read_bytes() == first  # it is trained


def test_a_method_with_a_tokenizer_of_its_own_has_a_configuration_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config("digits", ["method=var"]).stem == "digits_var"
    assert find_config("digits", ["method=dit"]).stem == find_config("digits").stem == "digits"
    main(["train", "digits", "method=var", *SMALL[:-1], *FIRST, "data.cache=cache"])
    assert steps_of("runs/tokenizers/digits-scales/last.ckpt") == 2 and steps_of("runs/digits_var/last.ckpt") == 1
    trained = radar.train("digits", *SMALL[:-1], *FIRST, method="var", run="run", data={"cache": "cache"})
    assert trained.generator.config.order.name == "scales"


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
    def of_tokenizer(*options):
        return tokenizer_config(load_config(find_config("fashion"), options))

    others = [
        "train.optimizer=adamw",
        "train.ema=0.5",
        "train.precision=bf16-mixed",
        "attention=plain",
        "seed=3",
        "model.dim=8",
    ]
    assert training_options(of_tokenizer()) == training_options(of_tokenizer(*others))
    assert of_tokenizer().data.augment == "flip" and of_tokenizer().train.lr == 4e-3
    where = of_tokenizer("train.devices=2", "train.loggers=csv").train
    assert (where.devices, where.loggers) == (2, ["csv"])
    assert of_tokenizer("tokenizer_training.train.lr=0.1").train.lr == 0.1


def test_a_trained_generator_needs_no_tokenizer_trained_anew(options, tmp_path, capsys):
    main(["train", "shapes_fsq", *options])
    (tmp_path / "t" / "last.ckpt").unlink()
    assert "t/last.ckpt does not exist" in fails(capsys, "train", "shapes_fsq", *options)
    assert not (tmp_path / "t" / "last.ckpt").exists()


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ("order.steps=65", "order.steps=65 is not possible: a grid of 64 cells takes 1..64 steps"),
        ("train.align_layer=1", "train.align_layer and train.align_weight have no effect without train.align"),
        ("train.align=nothing", "unknown feature network 'nothing'"),
        ("sample.guidance_schedule=odd", "unknown guidance schedule 'odd'"),
        ("sample.order=odd", "sample.order=odd"),
        ("sample.grid=[8,0]", "sample.grid=[8, 0]"),
        ("order.path=x.npy", "'halton' takes no option 'path'"),
        ("train.devices=5", "train.batch_size=4 is not possible"),
        (
            "tokenizer.checkpoint=t.ckpt",
            "tokenizer.checkpoint=t.ckpt is not trained, and cannot be: its file name must be last.ckpt",
        ),
        ("tokenizer_training.train.lr=-1", "tokenizer_training: train.lr=-1.0 is not possible: it must be above 0"),
        ("tokenizer_training.train.strategy=fsdp", "tokenizer: train.strategy=fsdp is not possible"),
        ("tokenizer_training.order.name=raster", "tokenizer_training.order is not possible: data and train expected"),
        ("tokenizer_training.train.ema=0", "tokenizer_training.train.ema has no effect: it is an option of generators"),
        ("tokenizer_training=3", "option 'tokenizer_training' is a group; set one of its members: data, train"),
        ("tokenizer_training.data.augmented=flip", "unknown option 'data.augmented'"),
    ],
)
def test_a_wrong_option_ends_all_before_the_tokenizer_is_trained(wrong, line, options, tmp_path, capsys):
    assert line in fails(capsys, "train", "shapes_fsq", *options, wrong)
    assert not list(tmp_path.rglob("*.ckpt"))


def test_options_of_a_training_that_is_none(options, tmp_path, capsys):
    line = fails(capsys, "train", "digits", "tokenizer_training.train.max_steps=5")
    assert line == "radar: tokenizer_training has no effect: tokenizer 'levels' is not trained here"
    (tmp_path / "x.yaml").write_text("tokenizer_training: [1]")
    assert "'tokenizer_training' is a group of options" in fails(capsys, "train", "x.yaml")


def study(arms, config=""):
    Path("x.yaml").write_text(
        f"name: x\nbase: shapes_fsq\nconfig: {{tokenizer: {{checkpoint: t/last.ckpt}}, {config}}}\narms: {arms}\n"
    )
    return read_plan("x.yaml", "out", ["data.images=20"])


@pytest.mark.parametrize("b", ["tokenizer_training: {train: {max_steps: 9}}", "tokenizer: {width: 16}"])
def test_arms_that_share_a_tokenizer_train_it_alike(b, options):
    with pytest.raises(
        InputError, match=r"arm 'b': tokenizer.checkpoint=.* is another one, or trained otherwise, for arm 'a'"
    ):
        check_arms(study(f"{{a: {{}}, b: {{{b}}}}}"))
    check_arms(study("{a: {}, b: {order: {name: raster}, train: {lr: 0.1}}}"))


def test_a_study_that_does_not_say_how(options):
    Path("x.yaml").write_text(
        "name: x\nbase: digits\nconfig: {tokenizer: {name: vq, levels: null, checkpoint: t/last.ckpt}}\narms: {a: {}}\n"
    )
    with pytest.raises(InputError, match=r"is not trained: do so by `radar tokenizer`, or say how"):
        check_arms(read_plan("x.yaml", "out", []))


def test_how_a_tokenizer_is_trained_cannot_be_varied(options):
    with pytest.raises(InputError, match=r"cannot be varied: give each arm a tokenizer.checkpoint and a training of"):
        check_free("tokenizer_training.train.max_steps")


def test_what_is_shared_holds_no_path_of_a_tokenizers_training():
    config = load_config(find_config("shapes_fsq"), ["tokenizer_training.data.root=/home"])
    assert "/home" not in str(portable(to_dict(config)))
