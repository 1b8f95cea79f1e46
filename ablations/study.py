"""`radar ablate STUDY.yaml`: arms x seeds, each trained, sampled and scored; then all timed; then the report.

A study is a YAML file: `name`, `base` (a configuration), `config` (options for all arms), `seeds`, `threads` (per
process) and `arms` (name -> options). Arms that differ only in `sample` or `evaluate` share their training. What is
done is kept as one JSON row per (arm, seed), so a study that was stopped goes on where it was.
"""

import argparse
import json
import multiprocessing
import os
import signal
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, fields, replace
from pathlib import Path
from threading import Thread
from typing import Any

import torch

from ablations.report import trial_name, write_report
from experiments.configs import find_config
from experiments.evaluate import evaluate, measure_speed, open_reference, save_row
from experiments.sample import save_pictures
from experiments.train import train_generator
from radar.checkpoints import build_generator, load_generator
from radar.config import Config, choose, config_hash, read_yaml, to_config, to_dict
from radar.errors import InputError, NonFiniteLoss
from radar.features import load_features
from radar.files import replacing
from radar.metrics import check_metrics
from radar.sampling import GUIDANCE_SCHEDULES
from radar.tokens import cached_tokens


@dataclass(frozen=True)
class Study:
    """What a study file says."""

    name: str
    base: str
    arms: dict[str, dict[str, Any]]
    config: dict[str, Any]
    seeds: list[int]
    threads: int = 1


@dataclass(frozen=True)
class Trial:
    """One arm with one seed."""

    arm: str
    seed: int
    config: Config

    @property
    def key(self) -> str:
        """File name of the trial."""
        return trial_name(self.arm, self.seed)

    @property
    def digest(self) -> str:
        """Hash of all that decides the result."""
        return config_hash(result_options(self.config))


def result_options(config: Config) -> dict[str, Any]:
    """Options that decide a result: all but where files lie and how many processes load them."""
    return to_dict(replace(config, run="", data=replace(config.data, cache="", workers=0)))


def read_study(path: str) -> Study:
    """Read a study file, or a ready-made study by its bare name; raises InputError."""
    ready = Path(__file__).parent / f"{path}.yaml"
    values = read_yaml(ready if not Path(path).exists() and ready.exists() else path)
    known = {field.name for field in fields(Study)}
    for key in values:
        if key not in known:
            raise InputError(f"{path}: unknown key '{key}'; a study has: {', '.join(sorted(known))}")
    for key in ("name", "base", "arms"):
        if not values.get(key):
            raise InputError(f"{path}: the study needs '{key}'")
    seeds, arms, threads = values.get("seeds", [0]), values["arms"], values.get("threads", 1)
    if not isinstance(seeds, list) or not seeds or not all(type(s) is int and s >= 0 for s in seeds) or repeats(seeds):
        raise InputError(f"{path}: seeds={seeds} is not possible: a list of different whole numbers expected")
    if not isinstance(arms, dict) or not all(isinstance(options, dict) for options in arms.values()):
        raise InputError(f"{path}: arms must map names to options")
    files = {trial_name(arm, 0): arm for arm in reversed(arms)}
    for arm in arms:
        if (other := files[trial_name(arm, 0)]) != arm:
            raise InputError(f"{path}: arms '{other}' and '{arm}' would share their files; name them apart")
    if not isinstance(threads, int) or threads < 1:
        raise InputError(f"{path}: threads={threads} is not possible: a whole number of at least 1 expected")
    return Study(values["name"], values["base"], arms, values.get("config") or {}, seeds, threads)


def repeats(values: list[int]) -> bool:
    """Tell whether a value stands twice."""
    return len(set(values)) < len(values)


def merge(*layers: dict[str, Any]) -> dict[str, Any]:
    """Merge nested options; later layers win."""
    merged: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            both = isinstance(value, dict) and isinstance(merged.get(key), dict)
            merged[key] = merge(merged[key], value) if both else value
    return merged


def list_trials(study: Study, out: Path, overrides: list[str]) -> list[Trial]:
    """Build the configuration of every (arm, seed); raises InputError for the first that is not possible."""
    base = read_yaml(find_config(study.base))
    trials = []
    for seed in study.seeds:
        for arm, options in study.arms.items():
            try:
                config = to_config(merge(base, study.config, options, {"seed": seed}), overrides)
                build_generator(config)
                check_metrics(config.evaluate.metrics)
                choose("guidance schedule", config.sample.guidance_schedule, GUIDANCE_SCHEDULES)
            except InputError as error:
                raise InputError(f"arm '{arm}': {error}") from error
            trained = {k: v for k, v in result_options(config).items() if k not in ("sample", "evaluate")}
            run = out / "runs" / config_hash(trained)
            trials.append(Trial(arm, config.seed, replace(config, run=str(run))))
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
    return rows


def start_worker(threads: int) -> None:
    """Prepare a worker process: its threads, a quick end on signals, and never outliving the study."""
    torch.set_num_threads(threads)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    Thread(target=end_with_parent, daemon=True).start()


def end_with_parent() -> None:
    """End this process when the study's process is gone, also by SIGKILL; what is not saved is done again."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


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
    for config in {trial.config.data.name: trial.config for trial in missing}.values():
        _, data, tokenizer = build_generator(config)
        load_features(config.evaluate.features, data, config.data.cache)
        cached_tokens(data, tokenizer, config.data.cache)
    failures: list[str] = []
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, start_worker, (study.threads,)) as pool:
        jobs = [pool.submit(run_trials, group, str(out)) for group in share_trainings(missing)]
        for number, job in enumerate(as_completed(jobs), start=1):
            failures += job.result()
            rows = read_rows(trials, out)
            write_report(study.name, list(rows.values()), {}, out, command)
            print(
                f"{study.name}: {number} of {len(jobs)} trainings done, {len(rows)} of {len(trials)} rows", flush=True
            )
    return failures


def time_all(study: Study, trials: list[Trial], out: Path) -> dict[str, dict[str, float]]:
    """Time one trial of every arm, in turns, with nothing else running; kept in timing.json."""
    path, first = out / "timing.json", [trial for trial in trials if trial.seed == trials[0].seed]
    wanted = [trial.digest for trial in first]
    if path.exists() and (kept := json.loads(path.read_text()))["trials"] == wanted:
        return dict(kept["arms"])
    torch.set_num_threads(study.threads)
    generators = [replace(load_generator(Path(trial.config.run) / "last.ckpt"), config=trial.config) for trial in first]
    arms = dict(zip([trial.arm for trial in first], measure_speed(generators), strict=True))
    with replacing(path) as temporary:
        temporary.write_text(json.dumps({"trials": wanted, "arms": arms}, indent=1))
    return arms


def main(args: argparse.Namespace) -> None:
    """Run `radar ablate`."""
    study = read_study(args.study)
    out = Path(args.out or f"runs/ablations/{study.name}")
    workers = max(1, (os.cpu_count() or 1) // study.threads) if args.workers is None else args.workers
    if workers < 1:
        raise InputError(f"--workers {args.workers} is not possible: it must be at least 1")
    torch.set_num_threads(study.threads)
    trials = list_trials(study, out, args.options)
    command = " ".join(["radar ablate", args.study, *args.options])
    failures = run_all(study, trials, out, min(workers, len(trials)), command)
    rows = read_rows(trials, out)
    timed = [trial for trial in trials if trial.key in rows]
    speeds = time_all(study, timed, out) if timed else {}
    print(write_report(study.name, list(rows.values()), speeds, out, command))
    print(out / "report.md")
    if failures:
        raise NonFiniteLoss("; ".join(failures))
