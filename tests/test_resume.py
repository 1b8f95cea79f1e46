"""A run that is killed at any moment and resumed ends bit-identical to an undisturbed one."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from radar.config.load import to_config
from radar.config.options import DataConfig
from radar.data import load_data
from radar.networks.features import load_features
from radar.training.logs import validations
from radar.training.runs import train_tokenizer

# Validation every 5 steps and checkpoints every 3, so that the kills fall in, before and after both, and between.
OPTIONS = {
    "model": {"dim": 16, "layers": 1, "heads": 1, "dropout": 0.1},
    "attention": "nested",
    "train": {
        "max_steps": 20, "batch_size": 8, "warmup": 4, "optimizer": "muon", "micro_batch": 4, "val_every": 5,
        "checkpoint_every": 3,
    },
    "data": {"held_out": 0.1},
}  # fmt: skip


DIT = {**OPTIONS, "method": "dit"}
del DIT["attention"]


def weights(path: Path) -> dict[str, torch.Tensor]:
    checkpoint = torch.load(path, weights_only=True)
    average = checkpoint["callbacks"].get("WeightAverage", {}).get("average", [])
    return checkpoint["state_dict"] | {f"average{i}": value for i, value in enumerate(average)}


def kill(step: int, number: int, where: str = "training_step", skip: int = 0) -> dict:
    return {"step": int(step), "signal": int(number), "where": where, "skip": skip}


VQGAN = {
    "data": {"name": "shapes", "images": 60},
    "tokenizer": {"name": "vq", "width": 8, "codebook": 16, "attention": True},
    "train": OPTIONS["train"] | {"optimizer": "adamw", "micro_batch": None, "adversarial_weight": 0.8,
                                 "adversarial_start": 4, "adversarial_width": 8},
}  # fmt: skip
PLAIN = {**OPTIONS, "attention": "plain"}  # trained in the very slots that it is validated in
ALIGNED = {
    **OPTIONS,
    "model": {**OPTIONS["model"], "conditioning": "adaln"},
    "train": {**OPTIONS["train"], "align": "cnn"},
}
SCALES = {"name": "multiscale", "levels": None, "codebook": 16, "width": 8, "downsample": 2, "sides": [1, 2, 3, 4]}
VAR = {**DIT, "method": "var", "tokenizer": SCALES}
KINDS = {
    "aligned": (ALIGNED, "val/nll"),
    "var": (VAR, "val/nll"),
    "nested": (OPTIONS, "val/nll"),
    "plain": (PLAIN, "val/nll"),
    "dit": (DIT, "val/loss"),
    "vqgan": (VQGAN, "val/mse"),
}


def prepare(options: dict, folder: Path) -> list[str]:
    """Make what a training begins with, a teacher or a tokenizer of scales, in `folder`; return options naming it."""
    if options is ALIGNED:
        load_features("cnn", load_data(DataConfig(**options["data"])), str(folder))
    if options is not VAR:
        return []
    begun = {**options, "method": "radar", "train": {"max_steps": 2, "batch_size": 8, "warmup": 1}}
    made = train_tokenizer(to_config(begun, [f"run={folder / 'scales'}", f"data.cache={folder}"]))
    return [f"tokenizer.checkpoint={made}"]


@pytest.mark.parametrize(("options", "judged_by"), KINDS.values(), ids=KINDS)
def test_killed_anywhere_and_resumed(options, judged_by, tmp_path):
    random = np.random.default_rng()
    chains = [
        [kill(random.integers(4, 19), signal.SIGTERM, skip=1)],
        [kill(random.choice([5, 10]), signal.SIGKILL, "validation_step")],
        [kill(random.choice([5, 10]), signal.SIGINT, "validation_step")],
        [kill(20, signal.SIGKILL, "validation_step")],  # after the last step, with a checkpoint due or not
        # Between a checkpoint and its own validation, and again before that was made up.
        [kill(15, signal.SIGKILL, "validation_step"), kill(15, signal.SIGKILL, "validation_step")],
        # Killed again right after the resume, between the two halves of an optimizer step.
        [kill(6, signal.SIGKILL), kill(6, signal.SIGKILL, skip=1)],
        [kill(step, signal.SIGKILL, skip=1) for step in sorted(random.integers(1, 19, size=3))],
    ]
    if options is not OPTIONS:
        chains = [chains[1], chains[5]] if options in (ALIGNED, VAR) else [chains[1], chains[4], chains[5]]
    expected_codes, jobs, made = [], [], prepare(options, tmp_path)
    for name, chain in [("whole", []), *enumerate(chains)]:
        overrides = [f"run={tmp_path / str(name)}", f"data.cache={tmp_path}", *made]
        jobs += [{"options": options, "overrides": overrides, "kill": struck} for struck in [*chain, None]]
        expected_codes += [-k["signal"] if k["signal"] == signal.SIGKILL else 128 + k["signal"] for k in chain] + [0]
    (tmp_path / "jobs.json").write_text(json.dumps(jobs))
    script = Path(__file__).with_name("forked_runs.py")
    result = subprocess.run([sys.executable, script, tmp_path / "jobs.json"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    assert json.loads(result.stdout.splitlines()[-1]) == expected_codes, (chains, result.stderr[-2000:])
    expected, curve = weights(tmp_path / "whole" / "last.ckpt"), validations(tmp_path / "whole", judged_by)
    assert [step for step, _ in curve] == [5, 10, 15, 20]
    for i, chain in enumerate(chains):
        found = weights(tmp_path / str(i) / "last.ckpt")
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected), chain
        assert not list((tmp_path / str(i)).glob("last-v*")), "one checkpoint, under one name"
        assert validations(tmp_path / str(i), judged_by) == curve, "no point of the learning curve is missing"
