"""One thread: bit-identical runs, and no two tests that fight over the cores."""

import gzip
import hashlib
import os
from collections.abc import Iterator
from functools import partial
from importlib import import_module
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}  # read at the first import

import numpy as np
import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def quick_classifier(monkeypatch) -> None:
    """The classifier of a data set is trained for five steps; some tests say otherwise."""
    room = import_module("radar.networks.classifier")
    monkeypatch.setattr(room, "train_classifier", partial(room.train_classifier, steps=5))


@pytest.fixture(autouse=True)
def forked(monkeypatch) -> None:
    """Processes of studies and devices need not load the libraries again; some tests, and CUDA, say otherwise."""
    if not torch.cuda.is_available():
        for name in ("ablations.study.workers", "radar.training.devices"):
            monkeypatch.setattr(import_module(name), "METHOD", "fork")


@pytest.fixture
def fashion_files(tmp_path, monkeypatch) -> Iterator[Path]:
    """Fashion-MNIST of 40 + 20 images, random ones, where its publisher is looked for; nothing on the system."""
    room = import_module("radar.data.fashion")  # in whose package its function has the same name
    folder, content, random = tmp_path / "published", {}, np.random.default_rng(0)
    folder.mkdir()
    for name, count in {"train": 40, "t10k": 20}.items():
        pixels = random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        held = {
            "images-idx3": bytes(16) + pixels.tobytes(),
            "labels-idx1": bytes(8) + bytes(i % 10 for i in range(count)),
        }
        for kind, data in held.items():
            file = folder / f"{name}-{kind}-ubyte.gz"
            content[file.name] = hashlib.sha256(data).hexdigest()
            file.write_bytes(gzip.compress(data))
    monkeypatch.setattr(room, "CONTENT", content)
    monkeypatch.setattr(room, "SYSTEM", tmp_path / "none")
    monkeypatch.setattr(room, "PUBLISHER", folder.as_uri())
    room.fashion.cache_clear()
    yield folder
    room.fashion.cache_clear()
