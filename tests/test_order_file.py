"""The order is data: stored with what was trained in it, named by what it is, read from files."""

import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ablations.study.plan import plan_study, read_plan
from ablations.study.prepare import check_arms
from radar.config.load import load_config, to_config
from radar.config.options import OrderConfig
from radar.config.sampling import SampleConfig
from radar.data.batches import Batch
from radar.decoding import orders
from radar.decoding.decoding_order import order_hash
from radar.decoding.groups import step_sizes
from radar.decoding.order_file import read_steps
from radar.decoding.orders import decode_steps
from radar.errors import InputError
from radar.scoring.evaluation import describe, evaluate, open_references
from radar.training.checkpoints import load_generator, read_checkpoint
from radar.training.generator import GeneratorModule
from radar.training.runs import train_generator

SMALL = ["model.dim=16", "model.heads=1", "model.layers=1", "train.batch_size=4", "train.max_steps=2"]
HALTON = ["order.name=halton", "order.steps=7", "order.schedule=cosine", "attention=plain"]


def another_halton(monkeypatch) -> None:
    """As if a later version of the code gave another permutation under the same name."""
    turned = lambda h, w, seed=None: orders.raster(h, w)[:, ::-1]  # noqa: E731
    monkeypatch.setitem(orders.ORDERS, "halton", turned)


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


def test_the_trained_order_is_loaded_whatever_the_code_gives(tmp_path, cache, monkeypatch, capsys):
    options = [*SMALL, *HALTON, f"run={tmp_path / 'run'}", f"data.cache={cache}", "evaluate.images=40"]
    path = train_generator(load_config(None, [*options, "evaluate.metrics=[]"]))
    trained = decode_steps(OrderConfig(name="halton", steps=7, schedule="cosine"), 8, 8)
    assert torch.equal(read_checkpoint(path)["radar"]["order"].long(), trained)
    assert load_generator(path) and capsys.readouterr().err == "", "nothing to say"
    another_halton(monkeypatch)
    generator = load_generator(path)
    line = capsys.readouterr().err.strip()
    assert line.startswith(f"radar: {path} was trained in another order 'halton'") and "\n" not in line
    assert torch.equal(generator.module.step, trained)
    row, _ = evaluate(generator, open_references(generator), tmp_path)
    assert row["order_hash"] == row["sampled_order_hash"] == order_hash(trained)
    with pytest.raises(InputError, match="do not give the trained order any more"):
        generator.module.sampled_step(SampleConfig(steps=5))


def test_a_training_goes_on_in_its_own_order(tmp_path, cache, monkeypatch, capsys):
    options = [*SMALL, *HALTON, f"data.cache={cache}", "train.checkpoint_every=1"]
    whole = train_generator(load_config(None, [*options, f"run={tmp_path / 'a'}"]))
    broken = [*options, f"run={tmp_path / 'b'}"]

    def interrupted(self, batch, batch_idx):
        if self.global_step == 1:
            raise KeyboardInterrupt
        return original(self, batch, batch_idx)

    original = GeneratorModule.training_step
    with monkeypatch.context() as patch, pytest.raises((KeyboardInterrupt, SystemExit)):
        patch.setattr(GeneratorModule, "training_step", interrupted)
        train_generator(load_config(None, broken))
    another_halton(monkeypatch)
    states = [read_checkpoint(path)["state_dict"] for path in (whole, train_generator(load_config(None, broken)))]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert "was trained in another order 'halton'" in capsys.readouterr().err


def test_trials_are_named_by_their_orders(tmp_path, cache, monkeypatch):
    """Another permutation under the same name is another trial, and another training."""
    (tmp_path / "x.yaml").write_text(
        "name: x\nbase: digits\n"
        "config: {order: {name: halton, steps: 7}, attention: plain, train: {permutations: random}}\n"
        "arms: {own: {}, radial: {sample: {order: radial}}, each: {sample: {order_per_image: true}}}"
    )
    plan = partial(plan_study, str(tmp_path / "x.yaml"), str(tmp_path), [f"data.cache={cache}"])
    before = {trial.arm: trial for trial in plan().trials}
    assert len({trial.config.run for trial in before.values()}) == 1 and len({t.digest for t in before.values()}) == 3
    with monkeypatch.context() as patch:
        patch.setitem(orders.ORDERS, "radial", lambda h, w: orders.raster(h, w))
        changed = {trial.arm: trial for trial in plan().trials}
    same = {arm for arm, trial in before.items() if changed[arm].digest == trial.digest}
    assert same == {"own", "each"}, "only what is sampled in it"
    another_halton(monkeypatch)
    assert all(trial.config.run != before[trial.arm].config.run for trial in plan().trials)


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 3), st.data())
def test_files_round_trip(tmp_path_factory, h, w, images, data):
    seed = data.draw(st.integers(0, 99))
    natural = decode_steps(OrderConfig(name="radial"), h, w).numpy()
    steps = np.stack([np.random.default_rng([seed, i]).permutation(natural) for i in range(images)]).astype(np.int32)
    path = tmp_path_factory.mktemp("orders") / "x.npy"
    for values in (steps, steps[0]):
        np.save(path, values)
        found = decode_steps(OrderConfig(name="file", path=str(path)), h, w)
        assert np.array_equal(found.numpy(), values)
        again = decode_steps(OrderConfig(name="file", path=str(path), steps=1), h, w)
        assert not again.any() and again.shape == found.shape, "cut anew as any order"


def test_an_order_per_image_goes_with_its_image(tmp_path):
    """Row i modulo M: in training by the place in the split, in sampling and scoring by the number of the image."""
    steps = np.stack([np.random.default_rng(i).permutation(np.repeat(np.arange(4), 4)) for i in range(3)])
    np.save(tmp_path / "x.npy", steps)
    values = {"order": {"name": "file", "path": str(tmp_path / "x.npy")}, "attention": "plain"}
    module = GeneratorModule(to_config(values | {"model": {"dim": 16, "heads": 1, "layers": 1}}), 7, 3, (4, 4))
    torch.nn.init.normal_(module.model.head.weight)
    seen = []
    original = module.cross_entropy
    module.cross_entropy = lambda *args: seen.append(args[4]) or original(*args)
    tokens, labels = torch.randint(7, (4, 16)), torch.zeros(4, dtype=torch.long)
    images = torch.tensor([7, 2, 0, 4])
    module.training_step(Batch(0, tokens, labels, images), 0)
    expected = torch.from_numpy(steps).argsort(dim=1, stable=True)[images % 3]
    assert torch.equal(seen[0], expected)
    assert torch.equal(module.sampled_permutation(SampleConfig(), images.tolist()), expected)
    module.eval()
    alone = torch.cat([module.nll(tokens[i : i + 1], labels[:1], None, images[i : i + 1]) for i in range(4)])
    assert torch.allclose(module.nll(tokens, labels, images=images), alone) and torch.equal(seen[-1], expected)
    row = describe(module.config, module)
    assert row["step_map"] is None and row["group_sizes"] == [4, 4, 4, 4] and row["gap"] > 0


def test_a_file_may_be_moved_and_counts_by_what_it_holds(tmp_path, cache, capsys):
    one = np.random.default_rng(0).permutation(np.repeat(np.arange(8), 8))
    np.save(tmp_path / "a.npy", one)
    options = [*SMALL, "order.name=file", "attention=plain", f"data.cache={cache}"]
    here = [*options, f"run={tmp_path / 'run'}"]
    path = train_generator(load_config(None, [*here, f"order.path={tmp_path / 'a.npy'}"]))
    shutil.move(tmp_path / "a.npy", tmp_path / "b.npy")
    assert torch.equal(load_generator(path).module.step, torch.from_numpy(one)), "it is not needed any more"
    assert load_generator(path, [f"order.path={tmp_path / 'b.npy'}"])
    assert train_generator(load_config(None, [*here, f"order.path={tmp_path / 'b.npy'}"])) == path
    assert capsys.readouterr().err == ""
    np.save(tmp_path / "b.npy", one[::-1])
    with pytest.raises(InputError, match=r"was trained in another order than .*b.npy gives now"):
        train_generator(load_config(None, [*here, f"order.path={tmp_path / 'b.npy'}"]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.arange(15), r"has the shape \(15,\), not \(16,\) or \(images, 16\)"),
        (np.zeros((0, 16), dtype=int), "has the shape"),
        (np.arange(16) / 2, "holds no array of whole numbers"),
        (np.arange(1, 17), "row 0: steps must be 0, 1, 2, .* with none missing"),
        (np.arange(16) - 1, "row 0: steps must be"),
        (np.stack([np.arange(16), np.arange(16) // 2 * 2]), "row 1: steps must be"),
        (np.stack([np.arange(16), np.arange(16) // 2]), "row 1: its group sizes are not those of row 0"),
    ],
)
def test_bad_files(content, message, tmp_path):
    np.save(tmp_path / "x.npy", content)
    with pytest.raises(InputError, match=message):
        read_steps(str(tmp_path / "x.npy"), 16)


def test_files_that_are_none(tmp_path):
    (tmp_path / "x.npy").write_text("steps")
    for path, message in (("x.npy", "cannot be read as .npy"), ("nowhere.npy", "cannot be read as .npy")):
        with pytest.raises(InputError, match=message):
            read_steps(str(tmp_path / path), 16)
    with pytest.raises(InputError, match=r"order 'file' needs order\.path"):
        decode_steps(OrderConfig(name="file"), 4, 4)


def test_sizes_are_given_or_taken_from_another_order():
    radial = step_sizes(decode_steps(OrderConfig(name="radial"), 8, 8))
    assert radial == [1, 4, 8, 16, 18, 16, 1]
    for name in ("halton", "spiral_out", "lpd", "optimised"):
        given = decode_steps(OrderConfig(name=name, sizes=radial), 8, 8)
        assert step_sizes(given) == radial
        assert torch.equal(given, decode_steps(OrderConfig(name=name, sizes_of="radial"), 8, 8))
    chebyshev = OrderConfig(name="halton", sizes_of="radial:metric=chebyshev")
    assert step_sizes(decode_steps(chebyshev, 8, 8)) == [1, 8, 16, 24, 15]
    for order, message in (
        (OrderConfig(name="halton", sizes=[1, 2]), r"order.sizes=\[1, 2\] is not possible: .* sum to 64 expected"),
        (OrderConfig(name="halton", sizes=[0, 64]), "sizes of at least 1"),
        (OrderConfig(name="halton", sizes=[64], steps=1), "order.steps has no effect: the group sizes are those of"),
        (OrderConfig(name="halton", sizes=[64], sizes_of="radial"), "order.sizes_of has no effect"),
        (OrderConfig(name="halton", sizes_of="radial", schedule="cosine"), "order.schedule has no effect"),
        (OrderConfig(name="halton", sizes_of="spiral"), "unknown order 'spiral'"),
    ):
        with pytest.raises(InputError, match=message):
            decode_steps(order, 8, 8)


def test_another_order_of_sampling_keeps_the_sizes():
    values = {
        "order": {"name": "random", "sizes_of": "radial"},
        "attention": "plain",
        "train": {"permutations": "random"},
    }
    module = GeneratorModule(to_config(values), 7, 3, (8, 8))
    assert step_sizes(module.sampled_step(SampleConfig(order="halton"))) == step_sizes(module.step)
    assert step_sizes(module.sampled_step(SampleConfig(order="halton:steps=3"))) == [21, 22, 21]
    assert len(step_sizes(module.sampled_step(SampleConfig(steps=5)))) == 5


def test_a_study_whose_tokenizer_is_still_to_be_trained_may_sample_an_order_per_image(tmp_path):
    text = (
        "name: x\nbase: shapes_fsq\nconfig: {order: {name: radial}, attention: plain, train: {permutations: random}}\n"
    )
    text += f"arms: {{a: {{tokenizer: {{checkpoint: {tmp_path}/t/last.ckpt}}, "
    text += "sample: {order: halton, order_per_image: true}}}\n"
    (tmp_path / "x.yaml").write_text(text)
    check_arms(read_plan(str(tmp_path / "x.yaml"), str(tmp_path), ["data.images=20"]))
