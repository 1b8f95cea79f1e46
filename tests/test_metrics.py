"""Metrics against independent computations."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch

from radar.config.options import DataConfig
from radar.data import load_data
from radar.data.images import load_images
from radar.encoders.network import FeatureNetwork
from radar.errors import InputError
from radar.networks.classifier import Classifier, cnn, train_classifier
from radar.networks.features import load_features
from radar.scoring.distances import coverage, frechet_distance, kernel_distance, neighbour_radius
from radar.scoring.metrics import METRICS, score
from radar.scoring.reference import build_reference
from radar.scoring.statistics import Moments, kept_statistics

REPORTS = Path(__file__).parents[1] / "results"


class Raw(FeatureNetwork):
    """Pixels of the first channel as features, for tests."""

    label, digest, num_features = "pixels", "0", 64

    def forward(self, images):
        return images[:, 0].flatten(1).float() / 255


@pytest.fixture(scope="module")
def reference():
    return build_reference(load_data(DataConfig()), Raw())


def test_fid_against_scipy():
    random = np.random.default_rng(0)
    real, fake = random.normal(size=(400, 12)) @ random.normal(size=(12, 12)), random.normal(size=(300, 12)) + 0.3
    covariances = np.cov(real.T), np.cov(fake.T)
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
    shift = real.mean(0) - fake.mean(0)
    expected = shift @ shift + np.trace(covariances[0] + covariances[1] - 2 * root)
    real_side, fake_side = (Moments.of(torch.from_numpy(features)) for features in (real, fake))
    found = frechet_distance(real_side, fake_side)
    assert found == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(real_side, real_side) == pytest.approx(0, abs=1e-6)


def test_kid_against_its_formula():
    """With one subset of everything, KID is the unbiased polynomial-kernel MMD."""
    random = torch.Generator().manual_seed(0)
    real, fake = torch.randn(200, 8, generator=random).double(), torch.randn(200, 8, generator=random).double() + 0.5

    def kernel(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a @ b.T / 8 + 1) ** 3

    def off_diagonal(k: torch.Tensor) -> torch.Tensor:
        return (k.sum() - k.trace()) / (200 * 199)

    expected = off_diagonal(kernel(real, real)) + off_diagonal(kernel(fake, fake)) - 2 * kernel(real, fake).mean()
    assert kernel_distance(real, fake) == pytest.approx(float(expected), rel=1e-4)


def test_features_that_are_not_finite_are_refused():
    with pytest.raises(InputError, match="not finite"):
        frechet_distance(Moments.of(torch.full((9, 2), torch.nan)), Moments.of(torch.zeros(9, 2)))


def test_precision_and_recall_by_hand():
    """Brute force: a query is covered if some point's third neighbour is farther away than it."""
    random = torch.Generator().manual_seed(1)
    points, queries = torch.randn(60, 3, generator=random), torch.randn(40, 3, generator=random) * 1.5
    radius = torch.stack([(points - p).norm(dim=1).sort().values[3] for p in points])
    assert torch.allclose(neighbour_radius(points, chunk=7), radius, atol=1e-5)
    covered = [any((q - p).norm() <= r for p, r in zip(points, radius, strict=True)) for q in queries]
    assert coverage(points, radius, queries, chunk=7) == pytest.approx(np.mean(covered))


def test_images_are_looked_at_once_by_all_who_ask_at_once(reference, tmp_path):
    looks = []

    def look():
        looks.append(1)
        time.sleep(0.2)  # the others have asked by now
        images, labels = load_images(reference.data.held_out, range(8))
        return [(images, labels)]

    with ThreadPoolExecutor(3) as asking:
        ask = partial(kept_statistics, reference.network, "x", "eight", look, 8, str(tmp_path))
        found = [one.result() for one in [asking.submit(ask) for _ in range(3)]]
    assert len(looks) == 1
    assert all(torch.equal(one.features.mean, found[0].features.mean) for one in found)


def test_held_out_images_score_at_the_floor(reference):
    data = reference.data
    images, labels = load_images(data.held_out, range(len(data.held_out)))
    columns = score(list(METRICS), images, labels, reference)
    assert columns["fid"] == pytest.approx(columns["fid_floor"])
    assert columns["duplicates"] == columns["memorised"] == 0
    assert columns["precision"] > 0.8 and columns["recall"] > 0.8
    assert "accuracy" not in columns and "validity" not in columns


def test_copies_are_counted(reference):
    data = reference.data
    images, labels = load_images(data.train, [0, 1, 1, 2])
    columns = score(["duplicates"], images, labels, reference)
    assert columns["duplicates"] == pytest.approx(0.25) and columns["memorised"] == 1


def test_unknown_names(reference):
    with pytest.raises(InputError, match="unknown metric 'is'; choose from: fid"):
        score(["is"], torch.zeros(5, 3, 8, 8, dtype=torch.uint8), torch.zeros(5), reference)
    with pytest.raises(
        InputError, match="unknown feature network 'dino'; choose from: cnn, efficientnet_lite0, inception"
    ):
        load_features("dino", reference.data, "")


def test_classifier_is_trained_once_and_named_by_its_weights(tmp_path, monkeypatch):
    data = load_data(DataConfig(seed=1))
    train = "radar.networks.classifier.train_classifier"
    monkeypatch.setattr(train, partial(train_classifier, steps=250))
    network = cnn(data, str(tmp_path))
    images, labels = load_images(data.held_out, range(len(data.held_out)))
    assert (network.probabilities(images).argmax(1) == labels).double().mean() > 0.97
    monkeypatch.setattr(train, lambda data: pytest.fail("trained again"))
    again = cnn(data, str(tmp_path))
    assert again.title == network.title and network.title.startswith("digits-cnn:")
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match=r"feature network .* is damaged"):
        cnn(data, str(tmp_path))
    assert not any(p.requires_grad for p in network.parameters()) and not network.training
    assert isinstance(network, Classifier)


@pytest.mark.parametrize(
    "study, data, accuracy", [("theory-9", DataConfig(), 0.97), ("one_model-4", DataConfig("shapes", images=8000), 0.9)]
)
def test_networks_of_the_package_are_those_of_the_reports(study, data, accuracy, tmp_path):
    """Whoever runs these studies, on any processor, has figures that compare with the committed ones."""
    images = load_data(data)
    network = cnn(images, str(tmp_path))
    assert not list(tmp_path.iterdir()), "nothing was trained"
    pixels, labels = load_images(images.held_out, range(400))
    assert (network.probabilities(pixels).argmax(1) == labels).double().mean() > accuracy
    rows = json.loads((REPORTS / study / "results.json").read_text())["rows"]
    assert {row["fid_feature"] for row in rows} == {network.title}
