"""Classes of samples: in equal shares, or in those of the data."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from radar.scoring.evaluation import cautions
from radar.scoring.labels import LABELS, label_gap
from radar.scoring.sample_pictures import by_class

COUNTS = torch.tensor([90, 10, 0, 300])


@given(st.integers(1, 2000))
def test_shares(count):
    numbers = range(count)
    balanced, as_data = (LABELS[name](numbers, COUNTS) for name in ("balanced", "as_data"))
    assert (torch.bincount(balanced, minlength=4) - count / 4).abs().max() < 1
    expected = COUNTS.double() / COUNTS.sum() * count
    found = torch.bincount(as_data, minlength=4)
    assert (found - expected).abs().max() <= 2 + np.log(count) and found[2] == 0, "no class that the data have not"


def test_a_label_depends_on_its_number_alone():
    for rule in LABELS.values():
        assert torch.equal(rule(range(100), COUNTS)[40:60], rule(range(40, 60), COUNTS))


def test_the_difference_is_told():
    """The folder of the report: 90 to 10 in the data, half and half among the samples."""
    counts = torch.tensor([90, 10])
    gap = label_gap(LABELS["balanced"](range(1000), counts), counts)
    assert gap == pytest.approx(40)
    row = {"label_gap": gap, "feature_accuracy": 0.95, "held_out": 5000, "classes": 2, "fid_feature": "cnn:0"}
    (line,) = cautions(row)
    assert "differ from those of the reference by up to 40 points" in line and "evaluate.labels=as_data" in line
    assert label_gap(LABELS["as_data"](range(1000), counts), counts) < 0.5
    assert not cautions(row | {"label_gap": 4.9})


def test_the_judge_is_judged():
    good = {"label_gap": 0.0, "feature_accuracy": 0.8, "held_out": 500, "classes": 2, "fid_feature": "cnn:0"}
    assert not cautions(good) and not cautions(good | {"feature_accuracy": None})
    assert "knows only 60% of the held-out images" in cautions(good | {"feature_accuracy": 0.6})[0]
    assert "only 40 images are held out" in cautions(good | {"held_out": 40})[0]
    assert "there is one class" in cautions(good | {"classes": 1})[0]


def test_pictures_have_a_column_per_class():
    labels = torch.tensor([1, 1, 0, 2, 0, 1, 2])
    assert labels[by_class(labels, 3)].tolist() == [0, 1, 2, 0, 1, 2]
    assert by_class(labels, 4).tolist() == list(range(7)), "as they come, where a class is missing"
