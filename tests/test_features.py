"""Feature networks from elsewhere: several judge one study, and each is named by its figures."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import scipy.linalg
import torch
from torch.utils.data import Subset

from ablations.cli import main
from ablations.reporting.results import rank_notes
from radar.config.load import to_config
from radar.config.options import DataConfig
from radar.data import load_data
from radar.errors import InputError
from radar.networks.features import check_features, load_features
from radar.scoring.curve import curve_callbacks
from radar.scoring.distances import frechet_distance
from radar.scoring.reference import build_references
from radar.training.logs import validations
from radar.training.runs import train_generator
from tests.command_line import fails
from tests.test_studies import quick_workers

__all__ = ["quick_workers"]  # a fixture


class Scripted(torch.nn.Module):
    """Column means of the first channel, twice as wide with return_features."""

    def forward(self, images: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        means = images[:, 0].float().mean(1)
        return torch.cat([means, means.square()], 1) if return_features else means


class Map(torch.nn.Module):
    """No features."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.float()


class Strict(torch.nn.Module):
    """Takes another size."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.float().reshape(-1, 12345)


@pytest.fixture
def scripted(tmp_path) -> str:
    path = tmp_path / "column-means.pt"
    torch.jit.script(Scripted()).save(str(path))
    return str(path)


def scipy_distance(real: np.ndarray, fake: np.ndarray) -> float:
    """In float64, by the singular values of the product of both centred sets: exact where covariances are singular."""
    centred = [(x - x.mean(0)) / np.sqrt(len(x) - 1) for x in (real, fake)]
    shift = real.mean(0) - fake.mean(0)
    spread = sum(float((x**2).sum()) for x in centred)
    return float(shift @ shift + spread - 2 * scipy.linalg.svdvals(centred[0] @ centred[1].T).sum())


@pytest.mark.parametrize(
    ("name", "images"),
    [("cnn", 90), ("scripted", 90), pytest.param("efficientnet_lite0", 1400, marks=pytest.mark.slow)],
)
def test_fid_is_that_of_the_saved_features(name, images, scripted, tmp_path):
    """More images than features, for the covariances to have a root in any computation."""
    shapes = load_data(DataConfig("shapes", images=2 * images)).train
    splits = Subset(shapes, range(images)), Subset(shapes, range(images, 2 * images))
    data = replace(load_data(DataConfig("shapes")), train=splits[0], held_out=splits[1])
    options = {"features": {"scripted": scripted}.get(name, name)}
    config = to_config({"evaluate": options, "data": {"cache": str(tmp_path)}})
    reference = build_references(config, data, torch.device("cpu"))[0]
    paths = [next(tmp_path.glob(f"reference-shapes-{name}-*.npz")) for name in ("train", "held-out")]
    train, held_out = (np.load(path)["kept"].astype(np.float64) for path in paths)
    expected = scipy_distance(train, held_out)
    assert train.shape == (images, reference.network.num_features)
    found = frechet_distance(reference.real.features, reference.held_out.features)
    assert found == pytest.approx(expected, rel=1e-6)
    path = paths[0]
    damaged = path.read_bytes()[:1000]
    path.write_bytes(damaged)
    with pytest.raises(InputError, match=r"features of images .* are damaged; delete it"):
        build_references(config, data, torch.device("cpu"))


def test_an_imagenet_network_tells_textures_apart():
    network = load_features("efficientnet_lite0", load_data(DataConfig()), "")
    images = torch.randint(256, (4, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images[2:] = images[2:].float().mean((2, 3), keepdim=True).to(torch.uint8)
    features = network(images)
    assert features.shape == (4, network.num_features) and network.title.startswith("efficientnet_lite0:")
    assert torch.cdist(features, features)[:2, 2:].min() > 2 * torch.cdist(features, features)[:2, :2].max()
    assert not any(p.requires_grad for p in network.parameters())


def test_two_judges(scripted, tmp_path, monkeypatch):
    """Columns of both; the first decides; a table and a line show whether they agree."""
    small = ["model.dim=16", "model.heads=1", "model.layers=1", "train.max_steps=2", "train.batch_size=4"]
    small += [
        "train.val_samples=8",
        "train.val_every=1",
        "evaluate.images=40",
        "evaluate.timing_repeats=1",
        "evaluate.timing_batch=2",
        f"data.cache={tmp_path}",
    ]
    arms = {"plain": {"attention": "plain"}, "nested": {"attention": "nested"}, "full": {"attention": "full"}}
    study = {"name": "judged", "base": "digits", "arms": arms, "config": {"evaluate": {"features": ["cnn", scripted]}}}
    (tmp_path / "judged.yaml").write_text(json.dumps(study))
    monkeypatch.chdir(tmp_path)
    main(["ablate", "judged.yaml", "--workers", "1", "--out", "out", *small])
    rows = json.loads((tmp_path / "out" / "results.json").read_text())["rows"]
    for row in rows:
        further = {key: row[f"{key}[column-means]"] for key in ("fid", "fid_matched", "fid_floor", "kid", "precision")}
        assert further["fid"] > 0 and further["fid"] != row["fid"] and further["fid_floor"] < further["fid"]
        assert row["further_features"][0].startswith("column-means:") and row["fid_feature"].startswith("digits-cnn:")
        assert [step for step, _ in row["fid_curve"]] == [1, 2] and all(fid > 0 for _, fid in row["fid_curve"])
    page = (tmp_path / "out" / "report.md").read_text()
    assert "fid-curves.png" in page
    assert "fid[digits-cnn]" in page and "fid[column-means]" in page and "further features: column-means:" in page
    best = min(rows, key=lambda row: row["fid"])
    assert f"lowest fid[digits-cnn]: {best['arm']} ({best['fid']:.3f})" in page
    (said,) = rank_notes(rows)
    assert said in page and "rank the 3 arms" in said


def test_a_curve_of_fid_disturbs_no_training(tmp_path):
    options = {"model": {"dim": 16, "layers": 1, "heads": 1}, "data": {"cache": str(tmp_path)}}
    weights = []
    for samples in (0, 6):
        train = {"max_steps": 4, "batch_size": 4, "val_every": 2, "val_images": 5, "val_samples": samples}
        config = to_config({**options, "train": train, "run": str(tmp_path / str(samples))})
        checkpoint = train_generator(config, more=curve_callbacks)
        weights.append(torch.load(checkpoint, weights_only=True)["state_dict"])
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert [step for step, _ in validations(tmp_path / "6", "val/fid")] == [2, 4]


def test_ranks():
    def row(arm: str, first: float, second: float) -> dict[str, object]:
        return {"arm": arm, "fid": first, "fid[b]": second, "fid_feature": "a:0", "further_features": ["b:1"]}

    rows = [row("x", 1, 7), row("y", 2, 8), row("z", 3, 9), row("w", 4, 1)]
    assert rank_notes(rows[:3])[0].startswith(
        "fid[a] and fid[b] rank the 3 arms by their means with Spearman's rho = 1.00"
    )
    assert "rho = -0.20, Kendall's tau = 0.00" in rank_notes(rows)[0] and rank_notes(rows[:2]) == []


def test_bad_files(scripted, tmp_path, capsys):
    (tmp_path / "none.pt").write_bytes(b"none")
    torch.jit.script(Map()).save(str(tmp_path / "map.pt"))
    torch.jit.script(Strict()).save(str(tmp_path / "strict.pt"))
    run = f"run={tmp_path / 'run'}"
    line = fails(capsys, "train", "digits", f"evaluate.features={tmp_path / 'none.pt'}", run)
    assert "none.pt is not a TorchScript file" in line
    assert "missing.pt cannot be read" in fails(capsys, "train", "digits", "evaluate.features=missing.pt", run)
    assert "choose from: cnn, efficientnet_lite0" in fails(capsys, "train", "digits", "evaluate.features=dino", run)
    for names in ([], ["cnn", "cnn"]):
        with pytest.raises(InputError, match="one at least, and none twice"):
            check_features(names)
    (tmp_path / "other").mkdir()
    shutil.copy(scripted, tmp_path / "other" / "column-means.pt")
    with pytest.raises(InputError, match="names must differ"):
        check_features([scripted, str(tmp_path / "other" / "column-means.pt")])
    torch.jit.script(torch.nn.Module()).save(str(tmp_path / "empty.pt"))
    assert "empty.pt is not a TorchScript" in fails(capsys, "train", "digits", f"evaluate.features={tmp_path}/empty.pt")
    assert "train.val_samples=1" in fails(capsys, "train", "digits", "train.val_samples=1", run)
    assert "has no effect" in fails(capsys, "train", "digits", "train.perceptual=cnn", run)
    with pytest.raises(InputError, match=r"map.pt gives \(2, 3, 8, 8\) for two images: \(2, F\) expected"):
        load_features(str(tmp_path / "map.pt"), load_data(DataConfig()), "")
    with pytest.raises(InputError, match=r"strict.pt takes no images \(2, 3, 8, 8\) uint8"):
        load_features(str(tmp_path / "strict.pt"), load_data(DataConfig()), "")
    assert load_features(scripted, load_data(DataConfig()), "").num_features == 16, "with return_features"
    assert not (tmp_path / "run").exists()
