"""`radar ablate STUDY.yaml`: arms x seeds, each trained, sampled and scored; then all timed; then the report.

A study is a YAML file: `name`, `base` (a configuration), `config` (options for all arms), `seeds`, `threads` (per
process) and `arms` (name -> options). Arms that differ only in `sample` or `evaluate` share their training. What is
done is kept as one JSON row per (arm, seed), so a study that was stopped goes on where it was.
"""

import argparse
import json
import os
from concurrent.futures import as_completed
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from ablations.report import trial_name, write_report
from ablations.workers import worker_pool
from experiments.configs import find_config
from experiments.evaluate import evaluate, measure_speed, open_reference, save_row
from experiments.sample import save_pictures
from experiments.train import train_generator
from radar.checkpoints import build_generator, load_generator, pick_device
from radar.config import (
    Config,
    config_hash,
    merge_options,
    read_yaml,
    result_options,
    structured,
    to_config,
    training_options,
)
from radar.errors import InputError, NonFiniteLoss, RunError
from radar.features import load_features
from radar.files import replacing
from radar.provenance import hardware
from radar.tokens import cached_tokens


@dataclass
class Study:
    """What a study file says."""

    name: str
    base: str
    arms: dict[str, dict[str, Any]]
    config: dict[str, Any] = field(default_factory=dict)
    seeds: list[int] = field(default_factory=lambda: [0])
    threads: int = 1


@dataclass(frozen=True)
class Trial:
    """One arm with one seed."""

    arm: str
    seed: int
    config: Config
    origin: dict[str, str]

    @property
    def key(self) -> str:
        """File name of the trial."""
        return trial_name(self.arm, self.seed)

    @property
    def digest(self) -> str:
        """Hash of all that decides the result."""
        return config_hash({**result_options(self.config), **self.origin})


def read_study(path: str) -> Study:
    """Read a study file, or a ready-made study by its bare name; raises InputError."""
    ready = Path(__file__).parent / f"{path}.yaml"
    values = read_yaml(ready if not Path(path).exists() and ready.exists() else path)
    if isinstance(arms := values.get("arms"), dict):
        values["arms"] = {str(name): options for name, options in arms.items()}
    study = structured(Study, values, path)
    if not study.seeds or min(study.seeds) < 0 or len(set(study.seeds)) < len(study.seeds):
        raise InputError(f"{path}: seeds={study.seeds} is not possible: different numbers of at least 0 expected")
    if study.threads < 1:
        raise InputError(f"{path}: threads={study.threads} is not possible: it must be at least 1")
    if not study.arms:
        raise InputError(f"{path}: the study needs at least one arm")
    files: dict[str, str] = {}
    for arm in study.arms:
        if (other := files.setdefault(trial_name(arm, 0), arm)) != arm:
            raise InputError(f"{path}: arms '{other}' and '{arm}' would share their files; name them apart")
    return study


def list_trials(study: Study, out: Path, overrides: list[str]) -> list[Trial]:
    """Build the configuration of every (arm, seed); raises InputError for the first that is not possible."""
    for text in overrides:
        if text.startswith(("seed=", "run=")):
            raise InputError(f"'{text}' is not possible: a study sets it for every trial")
    base, trials = read_yaml(find_config(study.base)), []
    for seed in study.seeds:
        for arm, options in study.arms.items():
            try:
                seeds = {"seed": seed, "sample": {"seed": seed}}
                config = to_config(merge_options(base, study.config, seeds, options), overrides)
                origin = build_generator(config)[0].origin
            except InputError as error:
                raise InputError(f"arm '{arm}': {error}") from error
            run = out / "runs" / config_hash({**training_options(config), **origin})
            trials.append(Trial(arm, seed, replace(config, run=str(run)), origin))
    if len({(t.config.evaluate.timing_batch, t.config.evaluate.timing_repeats) for t in trials}) > 1:
        raise InputError("all arms must be timed alike: evaluate.timing_batch and timing_repeats differ")
    return trials


def read_rows(trials: list[Trial], out: Path) -> dict[str, dict[str, Any]]:
    """Find the rows that are done; raises InputError if the folder holds a study of another configuration."""
    rows = {}
    for trial in trials:
        path = out / "rows" / f"{trial.key}.json"
        if path.exists():
            row = json.loads(path.read_text())
            if row["trial"] != trial.digest:
                raise InputError(
                    f"{path} is a result of another configuration of '{trial.arm}'; choose another --out or delete it"
                )
            rows[trial.key] = row
    if len(networks := {row["fid_feature"] for row in rows.values()}) > 1:
        raise InputError(f"{out} holds rows scored by different feature networks ({', '.join(sorted(networks))})")
    return rows


def run_trials(trials: list[Trial], out: str) -> list[str]:
    """Train once, then score every trial that shares this training; return a line for each that failed."""
    try:
        checkpoint = train_generator(trials[0].config, trials[0].key)
        for trial in trials:
            run_trial(trial, checkpoint, Path(out))
    except (NonFiniteLoss, torch.OutOfMemoryError) as error:
        return [f"{trial.key}: {str(error).splitlines()[0]}" for trial in trials]
    return []


def run_trial(trial: Trial, checkpoint: Path, out: Path) -> None:
    """Score one trial and write its pictures, then its row."""
    generator = replace(load_generator(checkpoint), config=trial.config)
    row, samples = evaluate(generator, open_reference(generator))
    save_pictures(generator, samples, trial.config.sample, out / "samples" / trial.key)
    save_row({"arm": trial.arm, "trial": trial.digest} | row, out / "rows" / f"{trial.key}.json")


def share_trainings(trials: list[Trial]) -> list[list[Trial]]:
    """Group the trials by their training, the longest first, so that no worker is left with a long one at the end."""
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        groups.setdefault(trial.config.run, []).append(trial)
    return sorted(groups.values(), key=lambda group: training_cost(group[0].config), reverse=True)


def training_cost(config: Config) -> int:
    """Slots that a training goes through."""
    module, _, _ = build_generator(config)
    return len(module.slots) * config.train.steps * config.train.batch_size * config.train.accumulate


def run_all(study: Study, trials: list[Trial], out: Path, workers: int, command: str) -> list[str]:
    """Run what is not done yet in worker processes; rewrite the tables after every training."""
    rows = read_rows(trials, out)
    missing = [trial for trial in trials if trial.key not in rows]
    parts = {repr((t.config.data, t.config.tokenizer, t.config.evaluate.features)): t.config for t in missing}
    for config in parts.values():  # once, before the workers would race for it
        _, data, tokenizer = build_generator(config)
        load_features(config.evaluate.features, data, config.data.cache)
        cached_tokens(data, tokenizer.to(pick_device(config.train.device)), config.data.cache, config.data.workers)
    failures: list[str] = []
    with worker_pool(workers, study.threads) as pool:
        jobs = [pool.submit(run_trials, group, str(out)) for group in share_trainings(missing)]
        for number, job in enumerate(as_completed(jobs), start=1):
            failures += job.result()
            rows = read_rows(trials, out)
            write_report(study.name, list(rows.values()), {}, out, command)
            print(f"{study.name}: {number} of {len(jobs)} trainings, {len(rows)} of {len(trials)} rows", flush=True)
    return failures


def time_all(study: Study, trials: list[Trial], out: Path) -> dict[str, dict[str, float]]:
    """Time one trial of every arm, in turns, with nothing else running; kept in timing.json."""
    path, first = out / "timing.json", list({trial.arm: trial for trial in reversed(trials)}.values())[::-1]
    torch.set_num_threads(study.threads)
    wanted = {trial.arm: trial.digest for trial in first}
    wanted["hardware"] = hardware(pick_device(first[0].config.train.device))
    if path.exists() and (kept := json.loads(path.read_text()))["trials"] == wanted:
        return dict(kept["arms"])
    generators = [replace(load_generator(Path(trial.config.run) / "last.ckpt"), config=trial.config) for trial in first]
    arms = dict(zip([trial.arm for trial in first], measure_speed(generators), strict=True))
    with replacing(path) as temporary:
        temporary.write_text(json.dumps({"trials": wanted, "arms": arms}, indent=1))
    return arms


def default_workers(threads: int, device: torch.device) -> int:
    """One process for every `threads` cores that may be used; one on a GPU, which they would share."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // threads) if device.type == "cpu" else 1


def main(args: argparse.Namespace) -> None:
    """Run `radar ablate`."""
    study = read_study(args.study)
    out = Path(args.out or f"runs/ablations/{study.name}")
    torch.set_num_threads(study.threads)
    trials = list_trials(study, out, args.options)
    device = pick_device(trials[0].config.train.device)
    workers = default_workers(study.threads, device) if args.workers is None else args.workers
    if workers < 1:
        raise InputError(f"--workers {args.workers} is not possible: it must be at least 1")
    command = " ".join(["radar ablate", args.study, *args.options])
    failures = run_all(study, trials, out, min(workers, len(trials)), command)
    rows = read_rows(trials, out)
    timed = [trial for trial in trials if trial.key in rows]
    speeds = time_all(study, timed, out) if timed else {}
    print(write_report(study.name, list(rows.values()), speeds, out, command))
    print(out / "report.md")
    if failures:
        raise RunError("; ".join(failures))
