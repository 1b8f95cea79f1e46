"""The queue of a study in Optuna's storage, and what a worker does with it. The only file that imports optuna.

Every (arm, seed) of a grid, and every slot of a search, is one enqueued trial with the user attribute `key`. A worker
takes trials until each key has one that is settled. A trial whose worker died is failed by its missing heartbeat, and
its key enqueued again, so nothing is lost; where a key is there twice, the later trial steps back, so nothing is done
twice.
"""

import os
import socket
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
import sqlalchemy
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from optuna.trial import FrozenTrial, TrialState

from ablations.plan import Params, Plan, Trial, encode, nest
from ablations.study_file import Range, parse_ranges
from radar.config import SampleConfig, structured, to_dict
from radar.errors import InputError, RunError
from radar.seeding import Stream, derive

warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
optuna.logging.set_verbosity(optuna.logging.CRITICAL)

Row = dict[str, Any]
Score = Callable[[SampleConfig], float]
Tuner = Callable[[Trial, Score], SampleConfig]
Run = Callable[[Trial, Sequence[Callback], Tuner], Row]
RACES = ("already exists", "UNIQUE constraint", "duplicate key")  # another process makes the same tables just now
OWN_FAILURES = (InputError, RunError, torch.OutOfMemoryError, MemoryError)  # kept with their cause, not tried again


def storage_url(storage: str | None, plan: Plan) -> str:
    """Where a study is kept: in a given database, or in SQLite in its folder."""
    if storage is None:
        return f"sqlite:///{(plan.out / 'study.db').absolute()}"
    return storage.replace("postgresql://", "postgresql+psycopg://", 1)


def open_storage(url: str, heartbeat: int, create: bool = True, again: bool = True) -> optuna.storages.RDBStorage:
    """Connect to a database, creating its tables or not; raises InputError if it cannot be used."""
    shown = url.split("@")[-1]
    try:
        storage = optuna.storages.RDBStorage(
            url, heartbeat_interval=heartbeat, grace_period=3 * heartbeat, skip_table_creation=not create
        )
    except ImportError as error:
        raise InputError(f"storage {shown} needs its driver: pip install 'radar-ablations[postgres]'") from error
    except (sqlalchemy.exc.SQLAlchemyError, ValueError, RuntimeError) as error:
        reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        if again and any(sign in reason for sign in RACES):
            time.sleep(1)
            return open_storage(url, heartbeat, create, again=False)
        raise InputError(f"storage {shown} cannot be used: {reason}") from error
    if storage.engine.dialect.name == "sqlite":
        _serialise(storage.engine)
    return storage


def _serialise(engine: Any) -> None:
    """Let several processes write one SQLite file: by default two workers can claim the same trial."""

    def prepare(connection: Any, _: Any) -> None:
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA busy_timeout=60000")

    sqlalchemy.event.listen(engine, "connect", prepare)
    sqlalchemy.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    engine.dispose()  # what was connected before


def is_settled(trial: FrozenTrial) -> bool:
    """Whether a trial has ended for good: done, pruned, or failed for a reason of its own."""
    if trial.state == TrialState.FAIL:
        return "cause" in trial.user_attrs
    return trial.state.is_finished() and "surplus" not in trial.user_attrs


@dataclass(frozen=True)
class StudyQueue:
    """A study in its storage."""

    plan: Plan
    storage: optuna.storages.RDBStorage
    study: optuna.Study

    @staticmethod
    def create(plan: Plan, url: str) -> "StudyQueue":
        """Create or open a study; raises InputError if its name belongs to another configuration."""
        if url.startswith("sqlite"):
            plan.out.mkdir(parents=True, exist_ok=True)
        storage, directions = open_storage(url, plan.file.heartbeat), list(plan.objectives.values())
        study = optuna.create_study(study_name=plan.name, storage=storage, load_if_exists=True, directions=directions)
        if "identity" not in study.user_attrs:
            study.set_user_attr("identity", plan.identity)
        found = study.user_attrs["identity"]
        for key, value in plan.identity.items():
            if found.get(key) != value:
                raise InputError(
                    f"study '{plan.name}' exists with another configuration ({key}: {found.get(key)}, this file has "
                    f"{value}); rename it, or choose another --out or --storage"
                )
        queue = StudyQueue(plan, storage, study)
        queue.check_digests()
        return queue

    @staticmethod
    def open(plan: Plan, url: str) -> "StudyQueue":
        """Open a study that exists; raises InputError if it does not."""
        try:
            if url.startswith("sqlite") and not (plan.out / "study.db").exists():
                raise KeyError
            storage = open_storage(url, plan.file.heartbeat, create=False)
            return StudyQueue(plan, storage, optuna.load_study(study_name=plan.name, storage=storage))
        except (KeyError, optuna.exceptions.StorageInternalError, sqlalchemy.exc.DatabaseError) as error:
            raise InputError(f"study '{plan.name}' does not exist here yet; `radar ablate` starts it") from error

    def check_digests(self) -> None:
        """Refuse a study whose trials have the same names but another configuration; raises InputError."""
        digests = {trial.key: trial.digest for trial in self.plan.trials}
        for trial in self.trials():
            key, digest = trial.user_attrs["key"], trial.user_attrs["digest"]
            if digests.get(key, digest) != digest:
                raise InputError(
                    f"study '{self.plan.name}' holds '{key}' with another configuration; rename the study or choose "
                    "another --out or --storage"
                )

    def trials(self) -> list[FrozenTrial]:
        """All trials that were enqueued for a key of this plan, or of an earlier and larger one."""
        return [trial for trial in self.study.get_trials(deepcopy=False) if "key" in trial.user_attrs]

    def latest(self) -> dict[str, FrozenTrial]:
        """The trial that stands for each key of the plan: the settled one, or else the newest."""
        best: dict[str, FrozenTrial] = {}
        for trial in sorted(self.trials(), key=is_settled):
            best[trial.user_attrs["key"]] = trial
        return {key: best[key] for key in self.plan.slots if key in best}

    def rows(self) -> list[Row]:
        """Rows of all trials that are done, in the order of the plan."""
        done = [t for t in self.latest().values() if t.state == TrialState.COMPLETE]
        return [trial.user_attrs["row"] for trial in done]

    def open_keys(self) -> list[str]:
        """Keys that are not settled."""
        latest = self.latest()
        return [key for key in self.plan.slots if key not in latest or not is_settled(latest[key])]

    def failures(self) -> list[str]:
        """A line for each trial that failed for a reason of its own."""
        failed = [t for t in self.latest().values() if t.state == TrialState.FAIL and is_settled(t)]
        return [f"{trial.user_attrs['key']}: {trial.user_attrs['cause']}" for trial in failed]

    def enqueue_missing(self) -> None:
        """Enqueue every key that has no trial waiting, running or settled, with the parameters that it had before."""
        prepared = {trial.key: (trial.digest, encode(trial.params)) for trial in self.plan.trials}
        covered, before = set[str](), dict[str, Params]()
        for trial in self.trials():
            if is_settled(trial) or not trial.state.is_finished():
                covered.add(trial.user_attrs["key"])
            elif trial.params:
                before[trial.user_attrs["key"]] = trial.params
        for key in self.plan.slots:
            if key not in covered:
                digest, params = prepared.get(key, ("", before.get(key, {})))
                self.study.enqueue_trial(params, user_attrs={"key": key, "digest": digest})

    def work_off(self, run: Run) -> None:
        """Take trials until every key is settled; wait for what others run, and take over from dead workers."""
        while True:
            optuna.storages.fail_stale_trials(self.study)
            self.enqueue_missing()
            states = [trial.state for trial in self.trials()]
            if TrialState.WAITING in states:
                self.study.sampler = make_sampler(self.plan, sum(map(is_settled, self.trials())))
                self.study.optimize(lambda trial: self.objective(trial, run), n_trials=1, catch=OWN_FAILURES)
            elif TrialState.RUNNING in states:
                time.sleep(1)
            else:
                return

    def is_surplus(self, trial: optuna.Trial) -> bool:
        """Whether another trial does this key's work: a settled one, or an earlier one that has not ended."""
        key, number = trial.user_attrs["key"], trial.number
        others = [other for other in self.trials() if other.user_attrs["key"] == key and other.number != number]
        return any(is_settled(o) or (not o.state.is_finished() and o.number < number) for o in others)

    def objective(self, trial: optuna.Trial, run: Run) -> list[float]:
        """Run one trial; keep its row, or the cause of a failure of its own, as an attribute."""
        if "key" not in trial.user_attrs or self.is_surplus(trial):
            trial.set_user_attr("surplus", True)
            raise optuna.TrialPruned
        trial.set_user_attr("worker", f"{socket.gethostname()} {os.getpid()}")
        try:
            params = {key: suggest(trial, key, values) for key, values in self.plan.ranges.items()}
            planned = self.plan.find(trial.user_attrs["key"], params)
            row = run(planned, [Reporter(trial, self.plan)], self.tune)
        except OWN_FAILURES as error:
            trial.set_user_attr("cause", (str(error).strip() or type(error).__name__).splitlines()[0])
            raise
        except SystemExit:  # stopped by a signal: failed without a cause, so that the key is taken up again
            self.study.tell(trial, state=TrialState.FAIL)
            raise
        trial.set_user_attr("row", row)
        return [float(row[name]) for name in self.plan.objectives]

    def tune(self, trial: Trial, score: Score) -> SampleConfig:
        """Choose the sampling options of one trained arm: the best of `tune.trials` by `score`, its own ones first.

        What was scored before a stop is kept in the storage, and the same options follow as without the stop.
        """
        tuning = self.plan.file.tune
        if tuning is None:
            return trial.config.sample
        ranges = parse_ranges(tuning.ranges)
        name = f"{self.plan.name} / tuning of {trial.key} {trial.digest}"
        inner = optuna.create_study(study_name=name, storage=self.storage, load_if_exists=True)

        def tried(attempt: optuna.Trial) -> float:
            return score(with_options(trial.config.sample, {k: suggest(attempt, k, v) for k, v in ranges.items()}))

        while (done := len(inner.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))) < tuning.trials:
            seed = derive(Stream.TUNE, trial.seed, done) % 2**32
            inner.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=max(3, tuning.trials // 3))
            if not done and not inner.get_trials(states=(TrialState.WAITING,)):
                own = {key: getattr(trial.config.sample, key.split(".")[1]) for key in ranges}
                inner.enqueue_trial({key: value for key, value in own.items() if value in ranges[key]})
            inner.optimize(tried, n_trials=1)
        best = {key: decode(inner.best_params[key], values) for key, values in ranges.items()}
        return with_options(trial.config.sample, best)

    def importances(self) -> dict[str, dict[str, float]]:
        """Share of each parameter in the variance of each objective (fANOVA), where there are trials enough."""
        found = {}
        for place, name in enumerate(self.plan.objectives):
            try:
                evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
                found[name] = optuna.importance.get_param_importances(
                    self.study, evaluator=evaluator, target=lambda trial, place=place: trial.values[place]
                )
            except (ValueError, RuntimeError):  # fewer than two trials, or all alike
                continue
        return {name: values for name, values in found.items() if values}


class Reporter(Callback):
    """Tells the study at every validation how far a training is; prunes it where the study says so."""

    def __init__(self, trial: optuna.Trial, plan: Plan) -> None:
        self.trial, self.prune = trial, plan.file.search is not None and plan.file.search.prune

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report the validation NLL at this optimizer step."""
        nll = float(trainer.callback_metrics["val/nll"])
        self.trial.set_user_attr("progress", {"step": trainer.global_step, "of": trainer.max_steps, "nll": nll})
        if self.prune:
            self.trial.report(nll, trainer.global_step)
            if self.trial.should_prune():
                raise optuna.TrialPruned


def with_options(sample: SampleConfig, params: Params) -> SampleConfig:
    """Replace dotted `sample.*` options, by the types of their fields."""
    return structured(SampleConfig, to_dict(sample) | nest(params)["sample"], "tune")


def decode(value: Any, values: Range) -> Any:
    """Turn what Optuna keeps back into the option's value."""
    return {encode({"": choice})[""]: choice for choice in values.choices}.get(value, value)


def suggest(trial: optuna.Trial, key: str, values: Range) -> Any:
    """Let the study choose the value of one option."""
    if values.choices:
        shown = [encode({"": choice})[""] for choice in values.choices]
        return decode(trial.suggest_categorical(key, shown), values)
    if values.whole:
        return trial.suggest_int(key, int(values.low), int(values.high), log=values.log)
    return trial.suggest_float(key, values.low, values.high, log=values.log)


def make_sampler(plan: Plan, settled: int) -> optuna.samplers.BaseSampler:
    """Build the sampler, seeded by how much is settled: one worker, however often stopped, repeats itself."""
    if plan.file.search is None:
        return optuna.samplers.RandomSampler(seed=0)  # never asked: a grid's trials are enqueued with their parameters
    seed, trials = derive(plan.file.seeds[0], settled) % 2**32, plan.file.search.trials
    made: dict[str, Callable[[], optuna.samplers.BaseSampler]] = {
        "tpe": lambda: optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=max(3, min(10, trials // 3)), constant_liar=True
        ),
        "nsga2": lambda: optuna.samplers.NSGAIISampler(seed=seed, population_size=max(4, trials // 4)),
    }
    return made[plan.file.search.sampler]()
