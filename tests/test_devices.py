"""1, 2 and 4 devices, whatever share each holds and goes through at once, train the same run."""

import csv
import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from radar.config.load import to_config
from radar.data.batches import BatchDataset, OrderedBatches
from radar.errors import InputError, NonFiniteLoss, RunError
from radar.parts import Draws, Part, cut
from radar.scoring.curve import curve_callbacks
from radar.training import devices
from radar.training.checkpoints import read_checkpoint
from radar.training.generator import GeneratorModule
from radar.training.runs import train_generator, train_tokenizer
from radar.training.shares import parts_of

OPTIONS = {
    "data": {"augment": "flip"},
    "model": {"dim": 16, "layers": 2, "heads": 2},
    "train": {
        "batch_size": 10, "max_steps": 6, "log_every": 1, "val_every": 3, "val_images": 100, "checkpoint_every": 4,
        "layout": "packed", "device": "cpu",
    },
}  # fmt: skip
KINDS = {
    "causal": ["order.name=raster", "attention=causal", "train.permutations=annealed"],
    "plain": ["order.name=random", "attention=plain", "train.permutations=reseeded", "train.layout=sampled"],
    "dit": ["method=dit"],
    "nested": ["order.name=radial", "attention=nested", "train.corruption=shuffled", "train.permutations=random"],
}
DEVICES = {
    "parts": ["train.micro_batch=3"],
    "ddp": ["train.devices=2"],
    "fsdp": ["train.devices=2", "train.strategy=fsdp", "train.micro_batch=2", "model.checkpoint_activations=true"],
}


@pytest.fixture(autouse=True)
def forked(monkeypatch):
    """Processes start in no time, and what a test has patched holds in them."""
    monkeypatch.setattr(devices, "METHOD", "fork")


def train(folder: Path, *options: str) -> Path:
    return train_generator(to_config(OPTIONS, [f"run={folder}", f"data.cache={folder.parent / 'cache'}", *options]))


def logged(checkpoint: Path, key: str) -> list[float]:
    files = sorted((checkpoint.parent / "csv").glob("version_*/metrics.csv"), key=lambda path: path.stat().st_mtime)
    return [float(row[key]) for file in files for row in csv.DictReader(file.open()) if row.get(key)]


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    read = torch.load(checkpoint, weights_only=True)
    return read["state_dict"] | dict(enumerate(read["callbacks"]["WeightAverage"]["average"]))


def assert_same_run(one: Path, other: Path, first: float = 1e-6, all_others: float = 1e-4) -> None:
    ours, theirs = logged(one, "train/loss"), logged(other, "train/loss")
    assert theirs[0] == pytest.approx(ours[0], rel=first) and theirs == pytest.approx(ours, rel=all_others)
    for figure in ("val/nll", "val/loss"):  # of the one kind of generator, and of the other
        assert logged(other, figure) == pytest.approx(logged(one, figure), rel=all_others)
    assert logged(other, "train/grad_norm") == pytest.approx(logged(one, "train/grad_norm"), rel=1e-3)
    mine, found = weights(one), weights(other)
    assert all(torch.allclose(found[name], mine[name], atol=1e-3) for name in mine), "the average, too"


@pytest.mark.parametrize("kind", list(KINDS))
def test_the_same_run(kind, tmp_path):
    one = train(tmp_path / "one", *KINDS[kind])
    assert len(logged(one, "train/loss")) == 6 and len(logged(one, "val/nll") + logged(one, "val/loss")) == 2
    for name, options in DEVICES.items():
        assert_same_run(one, train(tmp_path / name, *KINDS[kind], *options))


def test_an_aligned_run_is_the_same(tmp_path):
    aligned = [*KINDS["nested"], "train.align=cnn"]
    one = train(tmp_path / "one", *aligned)
    for name in ("parts", "ddp"):
        assert_same_run(one, train(tmp_path / name, *aligned, *DEVICES[name]))


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "optimizer", "count"), itertools.product(KINDS, ("adamw", "muon"), (2, 4)))
def test_the_same_run_for_50_iterations(kind, optimizer, count, tmp_path):
    long = [*KINDS[kind], "train.max_steps=50", "train.val_every=25", f"train.optimizer={optimizer}"]
    one = train(tmp_path / "one", *long)
    for strategy in ("ddp", "fsdp"):
        here = tmp_path / strategy
        assert_same_run(one, train(here, *long, f"train.devices={count}", f"train.strategy={strategy}"))


def test_another_number_of_devices_goes_on(tmp_path, monkeypatch):
    """From a stop under two devices that share the weights out, on one device, and on two that hold all."""
    one, step = train(tmp_path / "one"), GeneratorModule.training_step

    def struck(self: GeneratorModule, *args: Any) -> Any:
        if self.global_step == 5:
            raise RunError("stopped")
        return step(self, *args)

    shared = DEVICES["fsdp"]
    for name, options in {"one again": [], "ddp": DEVICES["ddp"], "fsdp": shared}.items():
        with monkeypatch.context() as patch:
            patch.setattr(GeneratorModule, "training_step", struck)
            with pytest.raises(RunError, match="stopped"):
                train(tmp_path / name, *shared)
        resumed = train(tmp_path / name, *options)
        mine, found = weights(one), weights(resumed)
        assert all(torch.allclose(found[key], mine[key], atol=1e-3) for key in mine)
        assert logged(resumed, "val/nll") == pytest.approx(logged(one, "val/nll"), rel=1e-4)
    undisturbed = weights(train(tmp_path / "undisturbed", *shared))
    assert all(torch.equal(found[key], undisturbed[key]) for key in undisturbed), "bit by bit, with as many devices"


def test_each_device_holds_a_share(tmp_path, monkeypatch):
    """Of every matrix, of its momentum and of its average."""
    step = GeneratorModule.training_step

    def looking(self: GeneratorModule, *args: Any) -> Any:
        if self.global_step == 2:
            held = sum(p.to_local().numel() for p in self.parameters())
            average = sum(a.to_local().numel() for a in self.trainer.callbacks[0].average)
            states = [s for part in self.optimizers().optimizer.parts for s in part.state.values()]
            momentum = sum(v.to_local().numel() for s in states for v in s.values() if v.ndim)
            (tmp_path / str(self.global_rank)).write_text(f"{held} {average} {momentum} {len(parts_of(self))}")
        return step(self, *args)

    monkeypatch.setattr(GeneratorModule, "training_step", looking)
    train(tmp_path / "run", *DEVICES["fsdp"])
    shares = [[int(word) for word in (tmp_path / str(number)).read_text().split()] for number in range(2)]
    total = sum(p.numel() for p in GeneratorModule(to_config(OPTIONS), 17, 10, (8, 8)).parameters())
    assert [part for *_, part in shares] == [3, 3], "two blocks, and the rest"
    for held in zip(*shares, strict=True):
        assert abs(held[0] - held[1]) <= 0.15 * max(held)
    assert sum(held for held, *_ in shares) == sum(average for _, average, *_ in shares) == total
    kept = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["optimizer_states"][0]["parts"]
    state = [value for part in kept for values in part["state"].values() for value in values.values()]
    assert sum(momentum for *_, momentum, _ in shares) == sum(value.numel() for value in state if value.ndim)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize("kind", [[], ["method=dit", "sample.passes=5"]], ids=["nested", "dit"])
def test_curves_and_patience(strategy, kind, tmp_path):
    """Samples for a curve of fid, and the best weights kept, are those of one device; one draws a batch more."""
    options = ["train.val_samples=7", "train.patience=1", "train.val_every=2", "evaluate.images=8", *kind]
    options += ["sample.batch_size=3"]
    found = []
    for name, more in (("one", []), ("two", ["train.devices=2", f"train.strategy={strategy}"])):
        made = to_config(OPTIONS, [f"run={tmp_path / name}", f"data.cache={tmp_path / 'cache'}", *options, *more])
        found.append(train_generator(made, more=curve_callbacks))
    assert logged(found[1], "val/fid") == pytest.approx(logged(found[0], "val/fid"), rel=1e-3)
    assert len(logged(found[1], "val/fid")) == 3
    assert read_checkpoint(found[1])["radar"]["trained_steps"] == 6
    assert_same_run(*found)


MOMENTS = [("training_step", 0, 0), ("training_step", 3, 1), ("validation_step", 3, 0), ("on_save_checkpoint", 4, 0),
           ("configure_gradient_clipping", 5, 1)]  # fmt: skip


@pytest.mark.parametrize(
    ("where", "step", "victim"),
    [moment if moment == MOMENTS[1] else pytest.param(*moment, marks=pytest.mark.slow) for moment in MOMENTS],
)
def test_one_of_them_is_killed(where, step, victim, tmp_path, monkeypatch):
    """The others end soon, with one line, and the same command goes on to the same bits."""
    whole, original = weights(train(tmp_path / "whole", "train.devices=2")), getattr(GeneratorModule, where)

    def struck(self: GeneratorModule, *args: Any, **more: Any) -> Any:
        if self.global_rank == victim and self.global_step >= step:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, *args, **more)

    began = time.monotonic()
    with monkeypatch.context() as patch:
        patch.setattr(GeneratorModule, where, struck)
        said = r"process \d of 2 has ended \(\w+( code 1)?\) and the others were stopped; the same command goes on"
        with pytest.raises(RunError, match=said):
            train(tmp_path / "run", "train.devices=2")
    assert time.monotonic() - began < 60
    found = weights(train(tmp_path / "run", "train.devices=2"))
    assert all(torch.equal(found[name], whole[name]) for name in whole)


def test_a_loss_that_is_not_finite_stops_all(tmp_path, monkeypatch):
    original = GeneratorModule.cross_entropy

    def broken(self: GeneratorModule, *args: Any) -> torch.Tensor:
        bad = self.global_step == 3 and self.global_rank == 1 and self.training
        return original(self, *args) * (float("nan") if bad else 1.0)

    monkeypatch.setattr(GeneratorModule, "cross_entropy", broken)
    with pytest.raises(NonFiniteLoss, match="loss or gradient became nan at step 3"):
        train(tmp_path / "run", "train.devices=2")


def test_a_tokenizer(tmp_path, monkeypatch):
    """FSQ, by two devices and in parts; the processes of devices load all that they need, as outside of tests."""
    monkeypatch.setattr("radar.training.devices.METHOD", "spawn")
    small = ["tokenizer.name=fsq", "tokenizer.width=8", "tokenizer.downsample=2", f"data.cache={tmp_path / 'cache'}"]
    runs = {"one": [], "parts": ["train.micro_batch=4"], "ddp": ["train.devices=2"]}
    paths = [train_tokenizer(to_config(OPTIONS, [*small, f"run={tmp_path / n}", *more])) for n, more in runs.items()]
    for other in paths[1:]:
        assert logged(other, "val/mse") == pytest.approx(logged(paths[0], "val/mse"), rel=1e-4)
        assert logged(other, "train/loss") == pytest.approx(logged(paths[0], "train/loss"), rel=1e-4)
        codes = [logged(path, "train/perplexity") for path in (paths[0], other)]
        assert codes[1][0] == pytest.approx(codes[0][0]) and codes[1] == pytest.approx(codes[0], rel=5e-2)


def run(folder: Path, *command: str) -> str:
    here = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, cwd=folder, env=here, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout


@pytest.mark.slow
def test_the_file_that_imagenet_takes_on_two_devices(tmp_path):
    """From a folder of images to the score, by processes that are started here, and by torchrun."""
    random = np.random.default_rng(0)
    for number in range(60):
        path = tmp_path / "images" / str(number % 3) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(256, size=(40, 36, 3), dtype=np.uint8)).save(path)
    radar = str(Path(sys.executable).with_name("radar"))
    shared = ["data.root=images", "data.size=32", "data.held_out=0.2", "data.workers=1", "data.cache=cache"]
    shared += ["tokenizer.codebook=16", "tokenizer.width=8", "tokenizer.downsample=8", "train.device=cpu"]
    shared += ["train.batch_size=8", "train.max_steps=4", "train.warmup=1", "train.log_every=1", "train.val_every=2"]
    shared += ["train.precision=32-true", "train.devices=2", "train.micro_batch=2"]
    run(tmp_path, radar, "tokenizer", "imagenet", *shared, "train.devices=1", "train.micro_batch=null")
    small = [*shared, "model.preset=tiny", "evaluate.features=[cnn]", "evaluate.images=12", "sample.images=4"]
    assert run(tmp_path, radar, "train", "imagenet", *small, "run=a").splitlines()[-1] == "a/last.ckpt"
    torchrun = [str(Path(sys.executable).with_name("torchrun")), "--nproc-per-node", "2", radar]
    said = run(tmp_path, *torchrun, "train", "imagenet", *small, "run=b", "train.strategy=fsdp")
    assert said.splitlines()[-1] == "b/last.ckpt"
    assert_same_run(tmp_path / "a" / "last.ckpt", tmp_path / "b" / "last.ckpt")
    assert "\nnll " in run(tmp_path, radar, "evaluate", "b/last.ckpt")


@given(st.integers(1, 40), st.integers(1, 6), st.one_of(st.none(), st.integers(1, 12)))
def test_a_batch_is_cut_into_all_of_its_places(whole, count, most):
    try:
        cuts = cut(whole, count, most)
    except InputError as error:
        assert "train.batch_size=" in str(error) and whole < 2 * count * -(-whole // count)
        return
    flat = [part for each in cuts for part in each]
    assert len(cuts) == count and len({len(each) for each in cuts}) == 1, "all devices step alike"
    assert [place for part in flat for place in range(part.first, part.first + part.images)] == list(range(whole))
    assert all(1 <= part.images <= (most or whole) for part in flat)
    assert [part.last for part in cuts[0]] == [False] * (len(cuts[0]) - 1) + [True]
    values = torch.rand(whole, dtype=torch.float64)
    mean = sum(part.weight * part.of(values).mean() for part in flat) / len(flat)
    assert float(mean) == pytest.approx(float(values.mean()))


@given(st.integers(1, 4), st.integers(1, 5), st.integers(0, 9))
def test_parts_draw_and_load_what_the_whole_does(count, most, number):
    def gather(index, view):
        return torch.from_numpy(index * 10 + view)[:, None], torch.from_numpy(index)

    def batches(parts):
        return BatchDataset(gather, 50, 24, 3, 99, number, 7, parts, others=True)

    cuts = cut(24, count, most)
    whole, pieces = batches(())[1], [batches(parts)[len(parts) + i] for parts in cuts for i in range(len(parts))]
    for name in ("inputs", "labels", "images", "others"):
        assert torch.equal(torch.cat([getattr(piece, name) for piece in pieces]), getattr(whole, name))
    assert {piece.number for piece in pieces} == {whole.number}

    def drawn(part):
        torch.manual_seed(number)
        draws = Draws(part, torch.device("cpu"))
        return torch.cat([draws.uniform(2), draws.integers(5, 1), draws.uniform()[:, None]], 1)

    assert torch.equal(torch.cat([drawn(piece.part) for piece in pieces]), drawn(Part.all(24)))


@given(st.integers(1, 30), st.integers(1, 4), st.integers(1, 7))
def test_held_out_images_are_shared_out_once(images, count, size):
    def gather(index, view):
        return torch.from_numpy(index), torch.from_numpy(index)

    shares = [OrderedBatches(gather, images, size, None, device, count) for device in range(count)]
    assert len({len(share) for share in shares}) == 1, "all devices go through as many batches"
    found = [batch for share in shares for batch in (share[i] for i in range(len(share)))]
    seen = sorted(int(i) for batch in found for i in batch.images if batch.place.weight)
    assert seen == list(range(images))


def test_codes_that_are_averages_stay_on_one_device(tmp_path):
    with pytest.raises(InputError, match=r"train\.devices=2, .* is not possible with tokenizer\.name=vq"):
        train_tokenizer(to_config(OPTIONS, ["tokenizer.name=vq", "train.devices=2", f"run={tmp_path}"]))


def test_a_tokenizer_is_not_shared_out():
    with pytest.raises(InputError, match=r"train\.strategy=fsdp is not possible: a tokenizer is whole"):
        train_tokenizer(to_config({}, ["train.strategy=fsdp", "tokenizer.name=vq"]))


VQGAN = [
    "data.name=shapes", "data.images=60", "tokenizer.name=fsq", "tokenizer.levels=null", "tokenizer.fsq_levels=[4,4]",
    "tokenizer.width=8", "tokenizer.downsample=4", "train.max_steps=6", "train.batch_size=8", "train.val_every=3",
    "train.log_every=1", "train.warmup=1", "train.adversarial_weight=0.5", "train.adversarial_start=2",
    "train.adversarial_width=8",
]  # fmt: skip


def tokenized(folder: Path, *options: str) -> dict[str, torch.Tensor]:
    config = to_config({}, [*VQGAN, f"run={folder}", f"data.cache={folder.parent / 'cache'}", *options])
    return torch.load(train_tokenizer(config), weights_only=True)["state_dict"]


def test_a_discriminator_on_two_devices_learns_the_same(tmp_path):
    """Its weight in the loss is that of the whole batch: from its start on, too, all losses are those of one device."""
    one, found = tokenized(tmp_path / "one"), tokenized(tmp_path / "ddp", *DEVICES["ddp"])
    assert found.keys() == one.keys()
    with (tmp_path / "one" / "csv" / "version_0" / "metrics.csv").open() as file:
        keys = [key for key in csv.DictReader(file).fieldnames or () if key.startswith(("train/", "val/"))]
    assert any("adversar" in key or "discriminator" in key for key in keys), keys
    for key in keys:
        mine, theirs = (logged(tmp_path / name / "last.ckpt", key) for name in ("one", "ddp"))
        assert theirs == pytest.approx(mine, rel=2e-3, abs=1e-5), key


def test_a_discriminator_in_bfloat16(tmp_path):
    """All stays finite."""
    low = tokenized(tmp_path / "low", "train.precision=bf16-mixed")
    assert all(torch.isfinite(value).all() for value in low.values())
