"""The house rules: imports run one way, every option is read, every YAML file runs."""

import ast
import dataclasses
import sys
import typing
from pathlib import Path

import pytest
import torch

from ablations.cli import main
from ablations.study.plan import read_plan
from ablations.study.prepare import prepare, prepare_inputs
from ablations.study.trial import run_trial
from radar.config.load import load_config, read_yaml, to_config, tokenizer_config
from radar.config.options import Config
from radar.data import load_data
from radar.tokenizers import build_tokenizer
from radar.training.runs import train_generator, train_tokenizer
from tests.command_line import fails

ROOT = Path(__file__).parent.parent
LAYERS = {
    "radar": {"radar"},
    "experiments": {"radar", "experiments"},
    "ablations": {"radar", "experiments", "ablations"},
}
CONFIGS = sorted((ROOT / "experiments" / "configs").glob("*.yaml"))
STUDIES = sorted((ROOT / "ablations" / "studies").glob("*.yaml"))


def sources(layer: str) -> list[tuple[Path, ast.Module]]:
    return [(path, ast.parse(path.read_text())) for path in sorted((ROOT / layer).rglob("*.py"))]


@pytest.mark.parametrize("layer", list(LAYERS))
def test_imports_run_one_way(layer):
    for path, tree in sources(layer):
        for node in ast.walk(tree):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                top = name.split(".")[0]
                assert top not in LAYERS or top in LAYERS[layer], f"{path} imports {name}"
                assert top != "pytorch_lightning", f"{path}: its classes differ from lightning.pytorch's"
                assert top != "omegaconf" or path == ROOT / "radar" / "config" / "load.py", path
                assert top != "optuna" or path.parent == ROOT / "ablations" / "study", path


def test_rooms_do_not_depend_on_each_other_in_circles():
    """Of `radar`: what is imported for types alone does not count."""
    needs: dict[str, set[str]] = {}
    for path, tree in sources("radar"):
        parts = path.relative_to(ROOT / "radar").parts
        typed = [n for node in ast.walk(tree) if isinstance(node, ast.If) for n in ast.walk(node)]
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("radar.") and node not in typed:
                needs.setdefault(parts[0], set()).add(node.module.split(".")[1])
    while ready := [room for room, needed in needs.items() if not (needed - {room}) & needs.keys()]:
        for room in ready:
            del needs[room]
    assert not needs, "these wait for each other"


def options(kind: type) -> set[tuple[str, str]]:
    """(group, option) of every option below a dataclass."""
    found = set()
    for name, hint in typing.get_type_hints(kind).items():
        found |= options(hint) if dataclasses.is_dataclass(hint) else {(kind.__name__, name)}
    return found


@pytest.fixture
def read_options(monkeypatch) -> set[tuple[str, str]]:
    """Record which options are read by code outside radar/config/load.py and dataclasses."""
    read: set[tuple[str, str]] = set()

    def recording(self, name):
        file = Path(sys._getframe(1).f_code.co_filename)
        ours = any(file.is_relative_to(ROOT / layer) for layer in LAYERS)
        if ours and file != ROOT / "radar" / "config" / "load.py":
            read.add((type(self).__name__, name))
        return object.__getattribute__(self, name)

    for kind in {Config, *(hint for hint in typing.get_type_hints(Config).values() if dataclasses.is_dataclass(hint))}:
        monkeypatch.setattr(kind, "__getattribute__", recording)
    return read


def test_every_option_is_read(read_options, tmp_path, monkeypatch):
    """By a short run of the commands: nothing is an option that does nothing."""
    monkeypatch.chdir(tmp_path)
    small = ["train.max_steps=1", "train.batch_size=2", "model.dim=16", "model.heads=1", "model.layers=2"]
    small += ["evaluate.images=20", "evaluate.timing_repeats=1", "evaluate.timing_batch=2"]
    main(["train", "digits", "run=run", *small])
    main(["sample", "run/last.ckpt", "sample.images=4"])
    main(["evaluate", "run/last.ckpt"])
    with pytest.raises(SystemExit):
        main(["train", "shapes_vq", "run=other", "tokenizer.checkpoint=not_there.ckpt"])
    unread = options(Config) - read_options
    assert not unread, sorted(unread)


def shrunk(values: dict, tmp_path: Path) -> Config:
    """One step of a run at a size for tests, with everything else as in the file."""
    small = [f"run={tmp_path / 'run'}", f"data.cache={tmp_path}", "train.max_steps=1", "train.batch_size=2"]
    small += ["train.micro_batch=none", "model.dim=16", "model.heads=1", "model.layers=1", "train.device=cpu"]
    small += ["train.precision=32-true", "data.workers=0", "train.warmup=1"]
    return to_config(values, small)


def fitted(values: dict, tmp_path: Path) -> Config:
    """Shrink, with small data made here, and a tokenizer trained for one step where one is needed."""
    if values["data"]["name"] == "shapes":
        values["data"]["images"] = 20
    if values["data"]["name"] == "folder":
        from PIL import Image

        for name in ("a", "b"):
            (tmp_path / "images" / name).mkdir(parents=True)
            for i in range(4):
                Image.new("RGB", (40, 30), (20 * i, 99, 0)).save(tmp_path / "images" / name / f"{i}.png")
        values["data"] |= {"root": str(tmp_path / "images"), "size": 64, "held_out": 0.5}
        values["tokenizer"] |= {"codebook": 64, "width": 8}
    config = shrunk(values, tmp_path)
    if build_tokenizer(config.tokenizer).learned:
        small = [f"train.{one}" for one in ("max_steps=1", "batch_size=2", "warmup=1", "precision=32-true")]
        trained = dataclasses.replace(tokenizer_config(config, small), run=str(tmp_path / "tokenizer"))
        config.tokenizer.checkpoint = str(train_tokenizer(trained))
    return config


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_configuration_runs_one_step(path, tmp_path, fashion_files):
    config = fitted(read_yaml(path), tmp_path)
    checkpoint = config.tokenizer.checkpoint if config.train.perceptual else train_generator(config)
    assert torch.load(checkpoint, weights_only=True)["global_step"] == 1


QUICK = ("ordering", "revisions", "tokenizer")  # a grid, sampling options and a learned tokenizer; the rest is slow


@pytest.mark.parametrize(
    "path", [pytest.param(p, marks=[pytest.mark.slow] * (p.stem not in QUICK)) for p in STUDIES], ids=lambda p: p.stem
)
def test_every_study_runs_one_step(path, tmp_path, monkeypatch, fashion_files):
    monkeypatch.chdir(tmp_path)
    overrides = ["train.max_steps=1", "train.batch_size=32", "model.dim=16", "model.heads=1", "model.layers=2"]
    overrides += [f"data.cache={tmp_path}", "evaluate.images=20"]
    overrides += ["data.images=40"] if read_yaml(path)["base"].startswith("shapes") else []
    overrides += [f"tokenizer_training.train.{one}" for one in ("max_steps=1", "batch_size=2", "warmup=1")]
    # Past the check that no option makes an arm something else: here all arms are to be as small.
    plan = dataclasses.replace(read_plan(str(path), str(tmp_path / "out"), []), overrides=tuple(overrides))
    plan.file.seeds = plan.file.seeds[:1]
    prepare_inputs(plan)
    assert len(plan.trials) == len(plan.arms) * len(plan.file.seeds)
    prepare(plan, [])
    trial = plan.trials[-1]  # every one has been built by now
    row = run_trial(plan, trial, [], lambda trial, score: trial.config.sample)
    assert row["arm"] == trial.arm and row["fid"] > 0


def test_a_wrong_option_fails_before_a_tokenizer_is_trained(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    study = ROOT / "ablations" / "studies" / "one_model.yaml"
    line = fails(capsys, "ablate", study, "order.steps=65", "data.images=40", f"data.cache={tmp_path}")
    assert line == "radar: arm 'radial': order.steps=65 is not possible: a grid of 64 cells takes 1..64 steps"
    assert not list(tmp_path.rglob("*.ckpt"))


def test_ready_made_files_load(fashion_files):
    for path in CONFIGS:
        config = load_config(path)
        assert config.data.name in ("digits", "fashion", "shapes", "folder")
        if config.data.name != "folder":
            load_data(config.data)
