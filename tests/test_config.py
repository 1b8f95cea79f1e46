"""Strict options: unknown keys, wrong types and impossible values fail with one line."""

import pytest

from radar.config.load import config_hash, load_config, to_config, to_dict
from radar.config.lookup import call
from radar.config.options import Config
from radar.config.renamed import upgrade
from radar.errors import InputError
from radar.training.runs import train_generator
from tests.command_line import fails


@pytest.mark.parametrize(
    ("text", "read", "value"),
    [
        ("run=yes", lambda c: c.run, "yes"),
        ("run=1e5", lambda c: c.run, "1e5"),
        ("model.dim=010", lambda c: c.model.dim, 10),
        ("train.lr=1e-3", lambda c: c.train.lr, 1e-3),
        ("order.center=[3,4]", lambda c: c.order.center, [3, 4]),
        ("order.centers=[[0,1],[2,3]]", lambda c: c.order.centers, [[0, 1], [2, 3]]),
        ("order.steps=none", lambda c: c.order.steps, None),
        ("data.skip_unreadable=true", lambda c: c.data.skip_unreadable, True),
        ("evaluate.metrics=[fid]", lambda c: c.evaluate.metrics, ["fid"]),
        ("attention=a=b", lambda c: c.attention, "a=b"),
    ],
)
def test_overrides_mean_what_they_say(text, read, value):
    assert read(load_config(None, [text])) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("order.nme=x", "unknown option 'order.nme'; did you mean name?"),
        ("order.x=1", "unknown option 'order.x'; 'x' is not one of: name, steps"),
        ("train", "'train' is not of the form key=value"),
        ("--train.max_steps=4", "is not of the form key=value"),
        ("train=4", "option 'train' is a group; set one of its members: max_steps"),
        ("train.max_steps=many", "train.max_steps=many is not possible: int expected"),
        ("train.max_steps=1.5", "train.max_steps=1.5 is not possible: int expected"),
        ("train.max_steps=0", "train.max_steps=0 is not possible: it must be at least 1"),
        ("train.checkpoint_every=maybe", "train.checkpoint_every=maybe is not possible: int expected"),
        ("model.compile=maybe", "model.compile=maybe is not possible: bool expected"),
        ("order.centers=[[1,", "order.centers=.* is not possible: list expected"),
        ("order.centers=[1,2]", r"order.centers=.1, 2. is not possible: Invalid value"),
        ("sample.top_p=0", "sample.top_p=0.0 is not possible"),
        ("train.lr=nan", "train.lr=nan is not possible"),
        ("sample.guidance=1e300", "sample.guidance=1e.300 is not possible: it must be -1000..1000"),
        ("sample.temperature=1e-40", "sample.temperature=1e-40 is not possible: it must be at least 0.0001"),
    ],
)
def test_bad_overrides(text, message):
    with pytest.raises(InputError, match=message) as caught:
        load_config(None, [text])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("order: {nam: radial}", "order.nam: Key 'nam' not in 'OrderConfig'. Did you mean: 'name'"),
        ("train: {max_steps: x}", "train.max_steps: Value 'x' of type 'str' could not be converted to Integer"),
        ("train: 3", "option 'train' is a group of options, but its value is 3"),
        ("[1, 2]", "does not hold a mapping"),
        ("a: [", "is not valid YAML"),
    ],
)
def test_bad_files(content, message, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        load_config(path)
    assert "\n" not in str(caught.value)


def test_missing_file():
    with pytest.raises(InputError, match=r"cannot read nowhere\.yaml"):
        load_config("nowhere.yaml")


def test_round_trip_and_hash():
    config = load_config(None, ["order.name=halton", "order.steps=7"])
    assert to_config(to_dict(config)) == config
    assert config_hash(to_dict(config)) == config_hash(to_dict(to_config(to_dict(config))))
    assert config_hash(to_dict(config)) != config_hash(to_dict(Config()))


def test_call_refuses_what_a_variant_does_not_take():
    table = {"a": lambda x, y=1: x + y}
    assert call("thing", "a", table, 1, y=None) == 2
    with pytest.raises(InputError, match="thing 'a' takes no option 'z'; it takes: y"):
        call("thing", "a", table, 1, z=3)


@pytest.mark.parametrize(
    ("old", "new"), [("train.steps=5", "train.max_steps"), ("train.redraw=permuted", "train.permutations")]
)
def test_an_old_name_leads_to_the_new_one(old, new, capsys, tmp_path):
    """In an override, a file, and a range of a study."""
    key, value = old.split("=")
    group, name = key.split(".")
    assert f"option '{key}' is called '{new}' now" in fails(capsys, "train", "digits", old, f"run={tmp_path}")
    (tmp_path / "old.yaml").write_text(f"{group}: {{{name}: {value}}}")
    assert f"option '{key}' is called '{new}' now" in fails(capsys, "train", tmp_path / "old.yaml", f"run={tmp_path}")
    (tmp_path / "s.yaml").write_text(f"name: s\nbase: digits\nfactors: {{{key}: [{value}]}}")
    assert f"option '{key}' is called '{new}' now" in fails(capsys, "ablate", tmp_path / "s.yaml")


def test_old_checkpoints_have_new_names():
    checkpoint = {
        "radar": {"config": {"train": {"steps": 7, "redraw": "permuted", "lr": 1.0}}},
        "state_dict": {"model.places.weight": 1, "model.query": 2},
    }
    upgrade(checkpoint)
    renamed = {"max_steps": 7, "permutations": "random", "lr": 1.0}
    assert checkpoint["radar"]["config"]["train"] == renamed | {"optimizer": "adamw", "decay": None}, "as trained"
    assert checkpoint["state_dict"] == {"model.positions.weight": 1, "model.query": 2}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("order.sizes=[[1]]", "order.sizes=[[1]] is not possible: a list of int expected"),
        ("train.permutations=none", "train.permutations=none is called train.permutations=fixed now"),
        ("train.steps=5", "option 'train.steps' is called 'train.max_steps' now"),
        (
            "train.accumulate=2",
            "option 'train.accumulate' is gone: train.batch_size counts the images of a whole optimizer step, "
            "train.micro_batch says how many of them go through a device at once",
        ),
    ],
)
def test_members_of_lists_and_old_names(text, said, capsys):
    assert fails(capsys, "train", "digits", text) == f"radar: {said}"


def test_a_word_stands_for_a_list_of_one():
    for config in (to_config({"evaluate": {"features": "cnn"}}), to_config({}, ["evaluate.features=cnn"])):
        assert config.evaluate.features == ["cnn"]


def test_an_old_verb_and_an_option_of_a_checkpoint_name_the_new_one(tmp_path, capsys):
    assert fails(capsys, "fronts", "x") == "radar: verb 'fronts' is called 'curves' now"
    config = to_config({"train": {"max_steps": 1, "batch_size": 2, "warmup": 0}, "model": {"dim": 8, "heads": 1}})
    config.run, config.data.cache = str(tmp_path), str(tmp_path)
    assert "is called 'train.permutations' now" in fails(capsys, "sample", train_generator(config), "train.redraw=seed")
