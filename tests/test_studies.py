"""Studies: nothing is lost, nothing is done twice, whoever is killed; what is written at the end."""

import csv
import json
import math
import multiprocessing
import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from ablations.cli import main
from ablations.report import write_report
from ablations.reporting.results import Results
from ablations.study import workers
from ablations.study.plan import plan_study
from ablations.study.prepare import prepare
from ablations.study.queue import StudyQueue, machine, what_differs
from ablations.study.storage import storage_url
from ablations.study.trial import time_arms
from radar.config.load import result_options
from radar.errors import InputError
from tests.command_line import fails

STUDY = """
name: tiny
base: digits
config:
  model: {dim: 16, heads: 1, layers: 1}
  train: {max_steps: 3, batch_size: 32, warmup: 1}
  evaluate: {images: 40, timing_batch: 4, timing_repeats: 2}
  sample: {images: 12}
seeds: [0, 1]
arms:
  raster/causal: {order: {name: raster}, attention: causal}
  radial/nested: {order: {name: radial}, attention: nested, sample: {correction: 0.0}}
  radial/nested corrected: {order: {name: radial}, attention: nested, sample: {correction: 0.5}}
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module", autouse=True)
def quick_workers() -> Iterator[None]:
    """Forked from a server that has loaded the libraries; tests/test_kills.py has those that users have."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "METHOD", "forkserver")
        multiprocessing.set_forkserver_preload(["ablations.ablate"])
        yield


@pytest.fixture(scope="module")
def study(tmp_path_factory, cache) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("study")
    (folder / "tiny.yaml").write_text(STUDY)
    main(["ablate", str(folder / "tiny.yaml"), "--out", str(folder / "out"), "--workers", "1", f"data.cache={cache}"])
    return folder / "tiny.yaml", folder / "out"


def test_ablate_writes_everything(study):
    _, out = study
    with (out / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    wanted = [
        "order",
        "variant",
        "seed",
        "steps",
        "nll",
        "fid",
        "fid_feature",
        "accuracy",
        "images_per_s",
        "train_seconds",
        "params",
    ]
    assert all(row[key] for row in rows for key in wanted)
    assert {row["steps"] for row in rows if row["order"] == "radial"} == {"7"}
    assert {row["steps"] for row in rows if row["order"] == "raster"} == {"64"}
    assert len(json.loads((out / "results.json").read_text())["rows"]) == 6
    assert len(list((out / "runs").iterdir())) == 4, "arms that differ in sampling share their training"
    for name in ("report.md", "steps.png", "fid-steps.png", "fid-speed.png"):
        assert (out / name).stat().st_size > 100
    report = (out / "report.md").read_text()
    assert (
        "fid[digits-cnn]" in report and "±" in report and "samples/radial-nested-corrected-seed0/samples.png" in report
    )
    assert all((out / line.rsplit("](")[-1][:-1]).exists() for line in report.splitlines() if line.startswith("!["))


def test_report_of_a_study_that_is_not_complete(study, cache, tmp_path):
    """At any time: the rows that are there, and a line that says how many are missing."""
    (tmp_path / "tiny.yaml").write_text(STUDY.replace("seeds: [0, 1]", "seeds: [0, 1, 2]"))
    plan = plan_study(str(tmp_path / "tiny.yaml"), str(study[1]), [f"data.cache={cache}"])
    results = Results.of(StudyQueue.open(plan, storage_url(None, plan)), "command")
    # Reading an open database past SQLite would take its locks away from this process.
    beside = shutil.ignore_patterns("study.db*")
    copy = Results(**{**vars(results), "out": Path(shutil.copytree(study[1], tmp_path / "copy", ignore=beside))})
    write_report(copy)
    for name in ("report.md", "report.html"):
        assert "3 of 9 trials are still to be done" in (copy.out / name).read_text()
    assert (copy.out / "results.tex").read_text().count("\\\\\n") == 4, "a header and three arms"


def stamps(out: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in [*(out / "rows").iterdir(), *out.rglob("*.ckpt")]}


def results(out: Path) -> list[dict[str, str]]:
    with (out / "results.csv").open() as file:
        return [
            {k: v for k, v in row.items() if not any(part in k for part in ("seconds", "images_per", "speedup"))}
            for row in csv.DictReader(file)
        ]


def test_what_is_done_stays_done(study, cache):
    """The same command again does nothing; a further seed runs that seed only."""
    path, out = study
    before, table = stamps(out), results(out)
    main(["ablate", str(path), "--out", str(out), "--workers", "1", f"data.cache={cache}"])
    assert stamps(out) == before and results(out) == table
    path.write_text(STUDY.replace("seeds: [0, 1]", "seeds: [0, 1, 2]"))
    main(["ablate", str(path), "--out", str(out), "--workers", "1", f"data.cache={cache}"])
    assert before.items() <= stamps(out).items() and len(results(out)) == 9
    assert [row for row in results(out) if row["seed"] != "2"] == table


def test_arms_are_timed_again_when_code_or_hardware_changes(study, cache, monkeypatch):
    path, out = study
    plan = plan_study(str(path), str(out), [f"data.cache={cache}"])
    rows = StudyQueue.open(plan, storage_url(None, plan)).rows()
    kept = (out / "timing.json").read_text()
    time_arms(plan, rows)
    assert (out / "timing.json").read_text() == kept and json.loads(kept)["commit"], "nothing has changed"
    for name, value in (("source_hash", lambda: "other"), ("hardware", lambda device: "other")):
        monkeypatch.setattr(f"ablations.study.trial.{name}", value)
        before = (out / "timing.json").read_text()
        time_arms(plan, rows)
        assert (out / "timing.json").read_text() != before, name
    monkeypatch.undo()
    time_arms(plan, rows)  # as the other tests find it


@pytest.mark.slow  # by default tests/test_kills.py compares two runs of a study
def test_the_same_study_gives_the_same_table(study, cache, tmp_path):
    path, out = study
    main(["ablate", str(path), "--out", str(tmp_path), "--workers", "2", f"data.cache={cache}"])
    assert results(tmp_path) == results(out)
    plan = plan_study(str(path), str(tmp_path), [f"data.cache={cache}"])
    trials = StudyQueue.open(plan, storage_url(None, plan)).study.get_trials()
    done = [trial.user_attrs["key"] for trial in trials if trial.state.name == "COMPLETE"]
    assert sorted(done) == sorted(plan.slots), "each is there once"
    # On a busy machine a worker may miss its heartbeats, and another takes its trial up; nothing else may fail.
    others = [trial for trial in trials if trial.state.name != "COMPLETE"]
    assert all(trial.state.name == "FAIL" and "cause" not in trial.user_attrs for trial in others)


def test_bad_studies(study, tmp_path, cache, capsys):
    path, out = study
    error = fails(capsys, "ablate", path, "--out", out, "train.lr=0.5", f"data.cache={cache}")
    said = "study 'tiny' holds 'radial-nested-seed0' with another configuration (train.lr: None, this file has 0.5)"
    assert said in error
    trial = plan_study(str(path), str(out), [f"data.cache={cache}"]).trials[0]
    older = result_options(trial.config)
    del older["train"]["muon_lr"]
    said = "from another version of this project (train.muon_lr is an option of one of them only)"
    assert what_differs({"options": older}, trial) == said
    assert "or tuning under the same options" in what_differs({"options": older}, trial, ["train.muon_lr"])
    cases = {
        "name: x\nbase: digits\narms: {a: {order: {name: radal}}}": "arm 'a': unknown order 'radal'",
        "name: x\nbase: digits\narms: {a: {ordr: {}}}": "arm 'a': ordr: Key 'ordr' not in 'Config'",
        "name: x\nbase: digits\narms: {a: 3}": "arms",
        "name: x\nbase: digts\narms: {a: {}}": "there is no configuration 'digts'",
        "name: x\nbase: digits\narm: {a: {}}": "Key 'arm' not in 'StudyFile'",
        "name: x\nbase: digits": "the study needs at least one arm, factor or a search",
        "name: x\nbase: digits\nseeds: 3\narms: {a: {}}": "seeds",
        "name: x\nbase: digits\nconfig: 5\narms: {a: {}}": "config",
        "name: x\nbase: digits\nseeds: [0, 0]\narms: {a: {}}": "seeds=[0, 0] is not possible",
        "name: x\nbase: digits\narms: {a b: {}, a-b: {}}": "arms 'a b' and 'a-b'",
        "name: x\nbase: digits\narms: {a: {attention: causal}}": "arm 'a': attention 'causal' decodes one cell",
        "name: x\nbase: digits\narms: {a: {order: {steps: 65}}}": "arm 'a': order.steps=65 is not possible",
        "name: x\nbase: digits\nfactors: {train.lrr: [1]}": "unknown option 'train.lrr'",
        "name: x\nbase: digits\nfactors: {train.lr: []}": "factor 'train.lr' has values []",
        "name: x\nbase: digits\nfactors: {train.lr: [x]}": "arm 'lr=x': train.lr",
        "name: x\nbase: digits\nfactors: {train: [1]}": "option 'train' is a group",
        "name: x\nbase: digits\narms: {a: {}}\nobjectives: {fid: }": "objective 'fid' has direction None",
        "name: x\nbase: digits\narms: {a: {}}\nobjectives: [fid]": "objectives",
        "name: x\nbase: digits\narms: {a: {}}\nobjectives: {is: maximize}": "unknown objective 'is'",
        "name: x\nbase: digits\narms: {a: {}}\nbaseline: b": "baseline 'b' is not an arm; choose from: a",
        "name: x\nbase: digits\narms: {a: {}}\nheartbeat: 0": "heartbeat=0 is not possible",
        "name: x\nbase: digits\nsearch: {ranges: {}}": "ranges is empty",
        "name: x\nbase: digits\nsearch: {ranges: {train.lr: {low: 2, high: 1}}}": "range of 'train.lr' is",
        "name: x\nbase: digits\nsearch: {ranges: {train.lr: [1]}, sampler: grid}": "unknown sampler 'grid'",
        "name: x\nbase: digits\nsearch: {ranges: {train.lr: [1]}, prune: true}": "search.prune needs nll or fid",
        "name: x\nbase: digits\nconfig: {train: {devices: 2, device: cpu}}\nobjectives: {nll: minimize}\n"
        "search: {ranges: {train.lr: [1.0]}, prune: true}": "search.prune is not possible with train.devices=2",
        "name: x\nbase: digits\nseeds: [0, 1]\nsearch: {ranges: {train.lr: [1]}}": "a search takes one seed",
        "name: x\nbase: digits\narms: {a: {}}\ntune: {ranges: {train.lr: [1]}}": "tune.ranges names 'train.lr'",
        "name: x\nbase: digits\narms: {a: {}}\nestimator: guess": "unknown estimator 'guess'",
        "name: x\nbase: digits\narms: {a: {order: {name: optimised, covariance: x.npz}}}": "holds no covariance",
        "name: ../x\nbase: digits\narms: {a: {}}": "name='../x' is not possible",
        "name: x\nbase: digits\nfactors: {train.lr: [0.1, 0.1]}": "factor 'train.lr' has values [0.1, 0.1]",
        "name: x\nbase: digits\nfactors: {seed: [1, 2]}": "'seed' cannot be varied",
        "name: x\nbase: digits\narms: {a: {seed: 1}}": "'a' sets a seed or run",
        "name: x\nbase: digits\nsearch: {ranges: {order.name: {low: 1, high: 2}}}": "range of 'order.name' is",
        "name: x\nbase: digits\nsearch: {ranges: {train.lr: {low: 1, high: .inf}}}": "range of 'train.lr' is",
        "name: x\nbase: digits\nsearch: {ranges: {train.lr: [x]}}": "range of 'train.lr': train.lr",
        "name: x\nbase: digits\nsearch: {ranges: {train.warmup: {low: 0.5, high: 4, log: true}}}": "'train.warmup' is",
        "name: x\nbase: digits\narms: {a: {}}\ntune: {ranges: {sample.temperature: {low: -1, high: 1}}}": "-1.0 is not",
        "name: x\nbase: digits\narms: {a: {}}\ntune: {ranges: {sample.temperature: [hot]}}": "range of 'sample.temp",
        "name: x\nbase: digits\narms: {a: {evaluate: {metrics: [kid]}}}": "fid is an objective, but",
        "name: x\nbase: digits\narms: {a: {evaluate: {metrics: [is]}}}": "arm 'a': unknown metric 'is'",
        "name: x\nbase: digits\narms: {a: {sample: {guidance_schedule: up}}}": "unknown guidance schedule 'up'",
        "name: x\nbase: digits\narms: {'': {}}": "every arm needs a name",
        "name: x\nbase: digits\narms: {a: {attention: plain}}\nfactors: {attention: [nested]}": (
            "arm 'a': 'attention' is a factor of the study already"
        ),
        "name: x\nbase: digits\narms: {a: {sample: [1]}}": "a list stands where a group of options belongs",
        "name: x\nbase: digits\narms: {a: {}}\nestimator: embeddings": "estimator: embeddings has no effect",
        "name: x\nbase: digits\narms: {a: {}}\ntokenizer_training: {train: {max_steps: 9}}": (
            "tokenizer_training is an option of a configuration: put it under `config`"
        ),
        "name: x\nbase: digits\nfactors: {data.held_out: [0.2, 0.5]}": "data.held_out differs between the arms",
        "name: x\nbase: digits\narms: {a: {}, b: {evaluate: {images: 5}}}": "evaluate.images differs between the arms",
        "name: x\nbase: digits\nsearch: {ranges: {data.held_out: [0.2]}}": "data.held_out differs between the arms",
        "name: x\nbase: digits\nfactors: {sample.temperature: [1]}\ntune: {ranges: {sample.temperature: [1, 2]}}": (
            "tune.ranges names 'sample.temperature', which the study varies already"
        ),
    }
    for text, message in cases.items():
        (tmp_path / "bad.yaml").write_text(text)
        assert message in fails(capsys, "ablate", tmp_path / "bad.yaml", "--out", tmp_path / "out"), text
        assert not (tmp_path / "out").exists(), "nothing is half-written"
    (tmp_path / "bad.yaml").write_text(
        "name: x\nbase: digits\narms: {a: {attention: plain}, b: {method: llamagen}}\nfactors: {order.steps: [4, 8]}\n"
        "tune: {ranges: {sample.temperature: [1, 2]}}"
    )
    for option in ("attention=full", "order.steps=6", "sample.temperature=1", "order.name=halton", "method=nar"):
        line = fails(capsys, "ablate", tmp_path / "bad.yaml", option, "--out", tmp_path / "out")
        assert line.startswith(f"radar: '{option}' is not possible: "), "an arm would not be what its name says"
    assert "there is no study 'nowhere.yaml'" in fails(capsys, "ablate", "nowhere.yaml")
    assert "--workers 0 is not possible" in fails(capsys, "ablate", path, "--out", out, "--workers", "0")


def test_rows_of_another_feature_network_are_refused_before_training(tmp_path, cache):
    (tmp_path / "tiny.yaml").write_text(STUDY)
    plan = plan_study(str(tmp_path / "tiny.yaml"), str(tmp_path / "out"), [f"data.cache={cache}"])
    with pytest.raises(InputError, match=r"digits-cnn:00000000 scored, and here is digits-cnn:"):
        prepare(plan, [{"fid_feature": "digits-cnn:00000000"}])


def test_failed_trials_run_again_when_asked_to(tmp_path, cache, monkeypatch, capsys):
    (tmp_path / "tiny.yaml").write_text(STUDY.replace("[0, 1]", "[0]"))
    plan = plan_study(str(tmp_path / "tiny.yaml"), str(tmp_path / "out"), [f"data.cache={cache}"])
    queue = StudyQueue.create(plan, storage_url(None, plan))
    broken = {plan.trials[0].key}

    def run(trial, callbacks, tuner):
        if trial.key in broken:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return {"fid": 1.0, "steps": 7, "trial": trial.digest, "arm": trial.arm}

    queue.work_off(run)
    assert queue.failures() == {plan.trials[0].key: "DefaultCPUAllocator: can't allocate memory"}
    broken.clear()
    queue.work_off(run)
    assert queue.failures() and len(queue.rows()) == 2, "a failure is kept"
    queue.enqueue(queue.failures())
    queue.work_off(run)
    assert not queue.failures() and len(queue.rows()) == 3 and not queue.open_keys()


def test_trials_claimed_by_nobody_are_taken_up(tmp_path, cache):
    """Of a worker that died between claiming and its first heartbeat, or on this machine; a NaN; a removed key."""
    (tmp_path / "tiny.yaml").write_text(STUDY.replace("base: digits", "base: digits\nheartbeat: 1"))
    plan = plan_study(str(tmp_path / "tiny.yaml"), str(tmp_path / "out"), [f"data.cache={cache}"])
    queue = StudyQueue.create(plan, storage_url(None, plan))
    queue.enqueue([*plan.slots, "removed-seed9"])
    queue.study.ask()
    queue.study.ask().set_user_attr("worker", f"{machine()} 999999999")

    def run(trial, callbacks, tuner):
        return {"fid": math.nan if trial.seed else 1.0, "steps": 7, "trial": trial.digest, "arm": trial.arm}

    queue.work_off(run)
    assert len(queue.rows()) == 3 and len(queue.failures()) == 3
    assert all("an objective is not finite" in cause for cause in queue.failures().values())
    assert all(trial.state.is_finished() for trial in queue.study.get_trials())


def test_workers_of_another_machine_of_the_same_name_are_left_alone(tmp_path, cache):
    """Machines share a database, may share a host name, and their processes numbers."""
    (tmp_path / "tiny.yaml").write_text(STUDY)
    plan = plan_study(str(tmp_path / "tiny.yaml"), str(tmp_path / "out"), [f"data.cache={cache}"])
    queue = StudyQueue.create(plan, storage_url(None, plan))
    queue.enqueue(plan.slots[:3])
    for name in (machine(), f"{socket.gethostname()}/0123456789ab", socket.gethostname()):
        queue.study.ask().set_user_attr("worker", f"{name} 999999999")
    queue.fail_dead({})
    assert [trial.state.name for trial in queue.study.get_trials()] == ["FAIL", "RUNNING", "RUNNING"]


def test_a_folder_of_any_name_holds_its_database(tmp_path, cache):
    (tmp_path / "tiny.yaml").write_text(STUDY)
    for name in ("a?b", "a#b", "a%20b", "a b"):
        plan = plan_study(str(tmp_path / "tiny.yaml"), str(tmp_path / name), [f"data.cache={cache}"])
        StudyQueue.create(plan, storage_url(None, plan))
        assert (tmp_path / name / "study.db").exists() and StudyQueue.open(plan, storage_url(None, plan))
    assert {path.name for path in tmp_path.iterdir()} == {"tiny.yaml", "a?b", "a#b", "a%20b", "a b"}


def test_watch(study, cache, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    path, out = study
    main(["watch", str(path), "--out", str(out), "--once", f"data.cache={cache}"])
    shown = capsys.readouterr().out
    assert f"{shown.count('complete')} of {shown.count('complete')} done" in shown and "raster-causal-seed0" in shown
    assert "does not exist here yet" in fails(capsys, "watch", path, "--out", out / "nowhere", f"data.cache={cache}")


def test_trials_that_fail_do_not_stop_the_study(tmp_path, cache, capsys):
    text = STUDY.replace("radial/nested: {", "radial/nested: {train: {lr: 1.0e+30, max_steps: 30}, ").replace(
        "[0, 1]", "[0]"
    )
    (tmp_path / "tiny.yaml").write_text(text)
    with pytest.raises(SystemExit) as caught:
        main(["ablate", str(tmp_path / "tiny.yaml"), "--out", str(tmp_path / "out"), f"data.cache={cache}"])
    assert caught.value.code == 1
    error = capsys.readouterr().err
    assert re.search("radial-nested-seed0: loss or gradient became (nan|inf) at step", error)
    assert len(results(tmp_path / "out")) == 2
    assert "Failed: radial-nested-seed0" in (tmp_path / "out" / "report.md").read_text()


def test_planning_builds_no_weights(monkeypatch):
    """So a study of large models is checked in seconds."""
    drawn = []
    monkeypatch.setattr(torch.nn.init, "normal_", lambda tensor, *args, **options: drawn.append(tensor.device.type))
    plan = plan_study("masks", None, ["model.preset=XL"])
    assert len(plan.trials) == 27 and all(trial.cost > 0 for trial in plan.trials)
    assert set(drawn) <= {"meta"}


def test_a_study_goes_on_seed_by_seed(tmp_path):
    """So what was stopped early has compared all arms; those that only sample otherwise wait for their training."""
    (tmp_path / "tiny.yaml").write_text(STUDY)
    plan = plan_study(str(tmp_path / "tiny.yaml"), None, [])
    trials = [plan.find(key, {}) for key in plan.slots]
    costly_first = ["radial/nested", "raster/causal"]
    assert [trial.arm for trial in trials] == [*costly_first * 2, *["radial/nested corrected"] * 2]
    assert [trial.seed for trial in trials] == [0, 0, 1, 1, 0, 1]
