"""Scoring at size: sums instead of all images, samples that processes draw together and that survive kills, files."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch

from ablations.cli import main
from radar.config.load import load_config
from radar.config.options import DataConfig
from radar.data import load_data
from radar.data.images import split_images
from radar.encoders.network import FeatureNetwork
from radar.errors import InputError
from radar.networks.classifier import train_classifier
from radar.scoring import reference_file, sample_store
from radar.scoring.distances import frechet_distance
from radar.scoring.evaluation import check_scoring
from radar.scoring.metrics import METRICS, Scores, score
from radar.scoring.reference import build_reference
from radar.scoring.reference_file import npz_rows, npz_shape, read_reference, write_reference
from radar.scoring.sample_store import SampleStore, draw_store, fill, save_npz
from radar.scoring.samples import draw_samples
from radar.scoring.statistics import Kept, Moments, measure_statistics
from radar.training import devices
from radar.training.checkpoints import load_generator
from radar.training.runs import train_generator
from tests.command_line import fails

SMALL = ["model.dim=16", "model.layers=1", "model.heads=1", "train.max_steps=2", "train.batch_size=4"]


@pytest.fixture(scope="module")
def data():
    return load_data(DataConfig())


@pytest.fixture(scope="module")
def network(data):
    return train_classifier(data, steps=20).requires_grad_(False)


@pytest.fixture
def generator(tmp_path):
    options = [*SMALL, f"run={tmp_path / 'run'}", f"data.cache={tmp_path / 'cache'}", "sample.images=40"]
    return load_generator(train_generator(load_config(None, [*options, "sample.batch_size=3"])))


class Pixels(FeatureNetwork):
    """Features whose covariance has a root that rounding does not blur, as it would that of normalised ones."""

    label, digest, num_features, knows_labels = "pixels", "0", 16, True

    def forward(self, images):
        mixed = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
        return images[:, 0].flatten(1).float() / 255 @ mixed

    def probabilities(self, images):
        return self(images)[:, :10].softmax(1)

    def spatial(self, images):
        return self(images)[:, ::3]


def test_batches_score_as_all_at_once(data):
    reference = build_reference(data, Pixels(), spatial=True)
    images, labels = split_images(data.held_out)
    whole = score(list(METRICS), images, labels, reference)
    assert {"fid", "sfid", "inception_score", "kid", "precision", "recall", "accuracy"} <= whole.keys()
    assert whole["fid"] > 0.01 and whole["sfid"] > 0.001
    scores = Scores(list(METRICS), [reference], len(images))
    for part, own in zip(images.split(61), labels.split(61), strict=True):
        scores.add(part, own)
    assert scores.columns() == pytest.approx(whole, rel=1e-9)
    assert reference.accuracy == pytest.approx(whole["accuracy"])


def test_sums_are_those_of_all_features():
    features = torch.randn(700, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 3
    moments = Moments.none(9)
    for part in features.split(64):
        moments.add(part)
    assert moments.mean.numpy() == pytest.approx(features.mean(0).numpy(), rel=1e-12)
    assert moments.covariance.numpy() == pytest.approx(np.cov(features.T.numpy()), rel=1e-9, abs=1e-12)
    given = Moments.given(moments.mean, moments.covariance)
    other = Moments.of(features[:300] * 2)
    assert frechet_distance(given, other) == pytest.approx(frechet_distance(moments, other), rel=1e-9)


def test_kept_rows_are_spread_evenly():
    rows, kept = torch.arange(1000)[:, None], Kept(1000, most=7)
    for part in rows.split(13):
        kept.add(part)
    assert kept.rows.flatten().tolist() == np.linspace(0, 999, 7).round().astype(int).tolist()


def test_inception_score_against_its_formula(data, network, monkeypatch):
    """Two parts, the second not full, and batches across their border."""
    monkeypatch.setattr("radar.scoring.metrics.SPLIT", 150)
    reference, images = build_reference(data, network), split_images(data.train, 230)[0]
    scores = Scores(["inception_score"], [reference], 230)
    for part in images.split(100):
        scores.add(part, torch.zeros(len(part)))
    p = network.probabilities(images).double()
    parts = p[:150], p[150:]
    divergences = [(part * (part.log() - part.mean(0).log())).sum(1).mean().exp() for part in parts]
    assert scores.columns()["inception_score"] == pytest.approx(float(sum(divergences)) / 2, rel=1e-6)


def test_files_of_a_reference(data, network, tmp_path, monkeypatch):
    """Ours read back gives the same; ADM's, made by NumPy, too: of its images what looks at images."""
    reference = build_reference(data, network, spatial=True)
    ours = tmp_path / "ours.npz"
    write_reference(ours, reference.real, {"network": network.title, "images": "digits-train", "count": 1347})
    samples = split_images(data.held_out)
    names = ["fid", "sfid", "kid", "precision_recall"]
    expected = score(names, *samples, reference)
    assert score(names, *samples, build_reference(data, network, file=str(ours))) == pytest.approx(expected, rel=1e-6)
    assert read_reference(str(ours), network)[1].startswith("digits-train (1347):")

    images = split_images(data.train)[0]
    with torch.inference_mode():
        features, places = network(images).double().numpy(), network.spatial(images).double().numpy()
    adm = {"mu": features.mean(0), "sigma": np.cov(features.T), "mu_s": places.mean(0), "sigma_s": np.cov(places.T)}
    np.savez(tmp_path / "adm.npz", arr_0=images.permute(0, 2, 3, 1).numpy(), **adm)
    monkeypatch.setattr(reference_file, "BATCH", 100)
    other = build_reference(data, network, file=str(tmp_path / "adm.npz"))
    assert score(names, *samples, other) == pytest.approx(expected, rel=1e-5)
    assert other.title.startswith("adm.npz:")
    with np.load(ours) as file:
        assert file["mu"] == pytest.approx(adm["mu"], rel=1e-6)
        assert file["sigma"] == pytest.approx(adm["sigma"], abs=1e-6)

    np.savez(tmp_path / "moments.npz", mu=adm["mu"], sigma=adm["sigma"])
    bare = build_reference(data, network, file=str(tmp_path / "moments.npz"))
    assert score(["fid", "sfid"], *samples, bare).keys() == {"fid", "fid_matched", "fid_floor", "floor_images"}
    with pytest.raises(InputError, match=r"moments.npz:\w+ has moments but no images, which kid and precision_recall"):
        score(["kid"], *samples, bare)


def test_files_that_do_not_fit(data, network, tmp_path):
    np.savez(tmp_path / "wide.npz", mu=np.zeros(3), sigma=np.eye(3))
    with pytest.raises(InputError, match=r"wide.npz is of another network: it has 3 features, and digits-cnn 64"):
        read_reference(str(tmp_path / "wide.npz"), network)
    np.savez(tmp_path / "odd.npz", mu=np.zeros(3), sigma=np.eye(4))
    np.savez(tmp_path / "other.npz", images=np.zeros(3))
    with pytest.raises(InputError, match=r"other.npz holds images, and no mu: mu and sigma expected"):
        read_reference(str(tmp_path / "other.npz"), network)
    (tmp_path / "text.npz").write_text("no")
    with pytest.raises(InputError, match=r"odd.npz holds mu of shape \(3,\) and sigma of \(4, 4\): \(D,\) and"):
        read_reference(str(tmp_path / "odd.npz"), network)
    with pytest.raises(InputError, match=r"text.npz is no .npz of mu and sigma \((UnpicklingError|ValueError)\)"):
        read_reference(str(tmp_path / "text.npz"), network)
    found = measure_statistics(network, [(split_images(data.train, 80)[0], None)], 80)
    write_reference(tmp_path / "his.npz", found, {"network": "his:1", "images": "digits", "count": 80})
    with pytest.raises(InputError, match=r"of another network: his:1, here digits-cnn"):
        read_reference(str(tmp_path / "his.npz"), network)
    evaluate = load_config(None, []).evaluate
    np.savez(tmp_path / "bare.npz", mu=np.zeros(3), sigma=np.eye(3))
    bare = replace(evaluate, reference=[str(tmp_path / "bare.npz")])
    with pytest.raises(InputError, match=r"has moments but no images, which evaluate.metrics=\['kid', 'precision_rec"):
        check_scoring(bare)
    with pytest.raises(InputError, match=r"has no mu_s and sigma_s"):
        check_scoring(replace(bare, metrics=["fid", "sfid"]))
    with pytest.raises(InputError, match=r"one file for each of the 1 evaluate.features"):
        check_scoring(replace(load_config(None, []).evaluate, reference=["a.npz", "b.npz"]))


def test_a_reference_file_is_made_and_used(generator, tmp_path, capsys):
    cache = f"data.cache={tmp_path / 'cache'}"
    main(["reference", "digits", cache, "--out", str(tmp_path / "made"), "--images", "30", "evaluate.metrics=[sfid]"])
    (path,) = (tmp_path / "made").iterdir()
    assert capsys.readouterr().out.strip() == str(path) and path.name == "digits-digits-cnn.npz"
    with np.load(path) as file:
        assert file["arr_0"].shape == (30, 8, 8, 3) and json.loads(str(file["provenance"]))["count"] == 1347
    rows = []
    for further in ([], [f"evaluate.reference={path}"]):
        asked = [cache, "evaluate.images=50", "evaluate.metrics=[fid,sfid,inception_score]", *further]
        main(["evaluate", generator.path, *asked, "--out", str(tmp_path / str(len(rows)))])
        rows.append(json.loads((tmp_path / str(len(rows)) / "evaluation.json").read_text()))
    for name in ("fid", "sfid", "inception_score", "fid_floor"):
        assert rows[0][name] == pytest.approx(rows[1][name], rel=1e-6)
    assert rows[0]["reference"] == "digits-train (1347)" and rows[1]["reference"].startswith("digits-train (1347):")
    assert not list(tmp_path.glob("*/.samples-*")), "samples that are scored are not kept"
    capsys.readouterr()
    assert "--images -1" in fails(capsys, "reference", "digits", "--images", "-1", cache)


def test_an_npz_is_read_by_rows(tmp_path):
    array = np.arange(2 * 3 * 50, dtype=np.int16).reshape(50, 3, 2)
    np.savez(tmp_path / "a.npz", a=array)
    assert npz_shape(tmp_path / "a.npz", "a") == (50, 3, 2)
    assert np.array_equal(np.concatenate(list(npz_rows(tmp_path / "a.npz", "a", 7))), array)


def drawn(generator, folder: Path, name: str) -> bytes:
    store = draw_store(generator, generator.config.sample, "balanced", folder)
    save_npz(store, folder / name)
    return (folder / name).read_bytes()


def test_samples_that_are_killed_and_drawn_by_two(generator, tmp_path, monkeypatch):
    """The .npz is that of one process, after three kills, and drawn by two devices."""
    monkeypatch.setattr(sample_store, "PART", 6)
    monkeypatch.setattr(devices, "METHOD", "fork")
    expected = drawn(generator, tmp_path / "one", "samples.npz")
    images = draw_samples(generator, generator.config.sample).images
    with np.load(tmp_path / "one" / "samples.npz") as file:
        assert np.array_equal(file["arr_0"], images.permute(0, 2, 3, 1))
        assert file["arr_1"].tolist() == [i % 10 for i in range(40)]

    (tmp_path / "killed").mkdir()
    for kill in range(3):
        process = get_context("fork").Process(target=partial(slowly, generator, tmp_path / "killed"))
        process.start()
        while len(list((tmp_path / "killed").glob(".samples-*/[0-9]*.npz"))) <= kill and process.is_alive():
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    (folder,) = (tmp_path / "killed").glob(".samples-*")
    there = {path: path.stat().st_mtime_ns for path in folder.glob("[0-9]*.npz")}
    assert 3 <= len(there) < 7
    assert drawn(generator, tmp_path / "killed", "samples.npz") == expected
    assert all(path.stat().st_mtime_ns == changed for path, changed in there.items()), "nothing was drawn twice"

    train = replace(generator.config.train, devices=2, device="cpu")
    two = replace(generator, config=replace(generator.config, train=train))
    assert drawn(two, tmp_path / "two", "samples.npz") == expected


def slowly(generator, folder: Path) -> None:
    def write(*args, **kwargs):
        time.sleep(0.1)
        save(*args, **kwargs)

    save, np.savez = np.savez, write
    draw_store(generator, generator.config.sample, "balanced", folder)


def test_other_weights_or_options_are_other_samples(generator, tmp_path):
    stores = [draw_store(generator, generator.config.sample, "balanced", tmp_path)]
    stores.append(draw_store(generator, replace(generator.config.sample, temperature=0.5), "balanced", tmp_path))
    stores.append(draw_store(generator, generator.config.sample, "as_data", tmp_path))
    generator.module.model.head.weight.data.mul_(2)
    stores.append(draw_store(generator, generator.config.sample, "balanced", tmp_path))
    assert len({store.folder for store in stores}) == 4
    stores[0].paths[0].write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"samples .*000000.npz are damaged; delete them"):
        list(stores[0])


def test_who_left_a_launch_before_has_not_left_this_one(tmp_path):
    before, now = (SampleStore(tmp_path / "store", 40, 20, 1, launch) for launch in ("one", "other"))
    now.folder.mkdir()
    before.leave(1)
    assert (before.gone(), now.gone()) == (1, 0)
    now.leave(1)
    assert now.gone() == 1
    now.come(1)
    assert now.gone() == 0, "of an earlier start by the same name"
    now.leave(1)
    now.remove()
    assert not now.folder.exists()


def test_a_part_that_fails_is_left_to_others(generator, tmp_path, monkeypatch):
    store = SampleStore(tmp_path / "store", 40, 20)
    monkeypatch.setattr(sample_store.np, "savez", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fill(store, generator, "balanced")
    assert not store.folder.exists()
    monkeypatch.undo()
    fill(store, generator, "balanced")
    assert [len(part.images) for part in store] == [20, 20] and not list(store.folder.glob("*.lock"))


MEASURED = """
import sys
import numpy as np, torch
from pathlib import Path
from radar.config.options import DataConfig
from radar.data import load_data
from radar.encoders.network import FeatureNetwork
from radar.scoring.metrics import Scores
from radar.scoring.reference import build_reference
from radar.scoring.sample_store import SampleStore
from radar.timing.rates import peak_bytes

class Pooled(FeatureNetwork):
    label, digest, num_features, knows_labels = "pooled", "0", 1024, True
    def forward(self, images):
        return torch.nn.functional.adaptive_avg_pool2d(images.float(), (32, 32))[:, 0].flatten(1)
    def probabilities(self, images):
        return self(images)[:, :10].softmax(1)
    def spatial(self, images):
        return self(images)[:, 100:]

store = SampleStore(Path(sys.argv[1]), int(sys.argv[2]), 256)
reference = build_reference(load_data(DataConfig("shapes", images=3000)), Pooled(), spatial=True)
names = ["fid", "sfid", "inception_score", "kid", "precision_recall", "accuracy", "duplicates"]

def work():
    scores = Scores(names, [reference], store.images)
    for samples in store:
        scores.add(samples.images, samples.labels)
    scores.columns()

print(peak_bytes(torch.device("cpu"), work))
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_samples(tmp_path):
    """20,000 images of 64x64 with 1024 features take less than 1.5 GB more than 1,000."""
    random, peaks = np.random.default_rng(0), []
    store = SampleStore(tmp_path, 20_000, 256)
    for number, path in enumerate(store.paths):
        count = len(store.numbers(number))
        images = random.integers(0, 256, (count, 3, 64, 64), dtype=np.uint8)
        np.savez(path, images=images, tokens=np.zeros((count, 1)), labels=random.integers(0, 10, count))
    for count in (1_000, 20_000):
        command = [sys.executable, "-c", MEASURED, str(tmp_path), str(count)]
        if count % 256:
            last = tmp_path / f"{count // 256:06d}.npz"
            kept = dict(np.load(last))
            np.savez(last, **{name: value[: count % 256] for name, value in kept.items()})
        peaks.append(int(subprocess.run(command, check=True, text=True, capture_output=True).stdout.split()[-1]))
        if count % 256:
            np.savez(last, **kept)
    assert peaks[1] - peaks[0] < 1.5e9, peaks
