"""A run that is killed at any moment and resumed ends bit-identical to an undisturbed one."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

# Validation every 10 steps and checkpoints every 7, so that the kills fall in, before and after both.
OPTIONS = {
    "model": {"dim": 16, "layers": 1, "heads": 1, "dropout": 0.1},
    "attention": "nested",
    "train": {"steps": 40, "batch_size": 4, "warmup": 4, "val_every": 10, "checkpoint_every": 7, "accumulate": 2},
    "data": {"held_out": 0.1},
}


def weights(path: Path) -> dict[str, torch.Tensor]:
    checkpoint = torch.load(path, weights_only=True)
    average = checkpoint["callbacks"]["WeightAverage"]["average"]
    return checkpoint["state_dict"] | {f"average{i}": value for i, value in enumerate(average)}


def test_killed_anywhere_and_resumed(tmp_path):
    random = np.random.default_rng()
    kills = [
        {"step": int(step), "signal": int(number), "where": where}
        for step, number, where in [
            (random.integers(1, 39), signal.SIGKILL, "training_step"),
            (random.integers(8, 39), signal.SIGTERM, "training_step"),
            (random.integers(8, 39), signal.SIGINT, "training_step"),
            (random.choice([10, 20, 30]), signal.SIGKILL, "validation_step"),
            (random.choice([10, 20, 30]), signal.SIGTERM, "validation_step"),
            (40, signal.SIGKILL, "validation_step"),  # after the last step
            (14, signal.SIGKILL, "training_step"),  # right after a checkpoint
        ]
    ]
    common = {"options": OPTIONS}
    jobs = [{**common, "overrides": [f"run={tmp_path / 'whole'}", f"data.cache={tmp_path}"], "kill": None}]
    for i, kill in enumerate(kills):
        overrides = [f"run={tmp_path / str(i)}", f"data.cache={tmp_path}"]
        jobs += [{**common, "overrides": overrides, "kill": k} for k in (kill, None)]
    (tmp_path / "jobs.json").write_text(json.dumps(jobs))
    script = Path(__file__).with_name("forked_runs.py")
    result = subprocess.run([sys.executable, script, tmp_path / "jobs.json"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    killed = [-k["signal"] if k["signal"] == signal.SIGKILL else 128 + k["signal"] for k in kills]
    expected_codes = [0] + [code for kill in killed for code in (kill, 0)]
    assert json.loads(result.stdout.splitlines()[-1]) == expected_codes, (kills, result.stderr[-2000:])
    expected = weights(tmp_path / "whole" / "last.ckpt")
    for i, kill in enumerate(kills):
        found = weights(tmp_path / str(i) / "last.ckpt")
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected), kill
        assert not list((tmp_path / str(i)).glob("last-v*")), "one checkpoint, under one name"
