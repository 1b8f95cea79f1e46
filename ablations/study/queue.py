"""The queue of a study, and what a worker does with it.

Every (arm, seed) of a grid, and every slot of a search, is one enqueued trial with the user attribute `key`. A worker
takes trials until each key has one that is settled. A trial whose worker died is failed by its missing heartbeat, and
its key enqueued again, so nothing is lost; where a key is there twice, the later trial steps back, so nothing is done
twice.
"""

import hashlib
import math
import os
import socket
import time
import traceback
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import optuna
import sqlalchemy
import torch
from lightning.pytorch import Callback
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from ablations.study.plan import Plan, Trial, encode
from ablations.study.search import Reporter, Tuner, importances, make_sampler, suggest, tune
from ablations.study.storage import STORAGE_ERRORS, open_storage, storage_url
from ablations.study.workers import STOP
from radar.config.load import flatten, result_options
from radar.errors import DiskFull, InputError, RunError
from radar.files import is_full
from radar.scoring.row import Row

Run = Callable[[Trial, Sequence[Callback], Tuner], Row]
EXPECTED_FAILURES = (InputError, RunError, torch.OutOfMemoryError, MemoryError)  # need no traceback


DONE = (TrialState.COMPLETE, TrialState.PRUNED)


def is_settled(trial: FrozenTrial) -> bool:
    """Whether a trial has ended for good: done, pruned, or failed for a reason of its own."""
    return trial.state in DONE or "cause" in trial.user_attrs


NAMED = {
    "data.root",
    "tokenizer.checkpoint",
    "order.covariance",
    "order.path",
    "sample.order",
}  # which count by what they hold


class Surplus(Exception):  # noqa: N818 - an outcome, not an error
    """Another trial does the work of this one."""


def what_differs(row: Row | None, trial: Trial, tuned: Iterable[str] = ()) -> str:
    """Say why a trial that a study holds is not the planned one, as far as its row tells, but for `tuned` options."""
    if row is None:
        return "with another configuration, or from another version of this project"
    there, here = flatten(row["options"]), flatten(result_options(trial.config))
    options = (there.keys() | here.keys()) - NAMED - set(tuned)
    for option in sorted(options):
        if option not in here or option not in there:
            return f"from another version of this project ({option} is an option of one of them only)"
        if there[option] != here[option]:
            return f"with another configuration ({option}: {there[option]}, this file has {here[option]})"
    return "with another configuration (other images, tokenizer, order or tuning under the same options)"


@dataclass(frozen=True)
class StudyQueue:
    """A study in its storage."""

    plan: Plan
    storage: optuna.storages.RDBStorage
    study: optuna.Study

    @staticmethod
    def create(plan: Plan, url: str) -> "StudyQueue":
        """Create or open a study; raises InputError if its name belongs to another configuration."""
        if url == storage_url(None, plan):
            plan.out.mkdir(parents=True, exist_ok=True)
        storage = open_storage(url, plan.file.heartbeat)
        directions = [StudyDirection[value.upper()] for value in plan.objectives.values()]
        study = optuna.create_study(study_name=plan.name, storage=storage, load_if_exists=True, directions=directions)
        if "identity" not in study.user_attrs:
            study.set_user_attr("identity", plan.identity)
        queue = StudyQueue(plan, storage, study)
        queue.check_identity()
        return queue

    @staticmethod
    def open(plan: Plan, url: str) -> "StudyQueue":
        """Open a study that exists; raises InputError if it does not, or is of another configuration."""
        try:
            if url.startswith("sqlite") and not Path(str(sqlalchemy.make_url(url).database)).exists():
                raise KeyError
            storage = open_storage(url, plan.file.heartbeat, create=False)
            queue = StudyQueue(plan, storage, optuna.load_study(study_name=plan.name, storage=storage))
        except (KeyError, *STORAGE_ERRORS) as error:
            raise InputError(f"study '{plan.name}' does not exist here yet; `radar ablate` starts it") from error
        queue.check_identity()
        return queue

    def check_identity(self) -> None:
        """Refuse a study of the same name with another configuration; raises InputError."""
        found, where = self.study.user_attrs.get("identity", {}), "rename it, or choose another --out or --storage"
        for key, value in self.plan.identity.items():
            if found.get(key) != value:
                raise InputError(
                    f"study '{self.plan.name}' exists with another configuration ({key}: {found.get(key)}, this file "
                    f"has {value}); {where}"
                )
        planned = {trial.key: trial for trial in self.plan.trials}
        for trial in self.trials():
            key, digest = trial.user_attrs["key"], trial.user_attrs["digest"]
            if key in planned and planned[key].digest != digest:
                tune = self.plan.file.tune
                differs = what_differs(trial.user_attrs.get("row"), planned[key], tune.ranges if tune else ())
                raise InputError(f"study '{self.plan.name}' holds '{key}' {differs}; {where}")

    def trials(self) -> list[FrozenTrial]:
        """All trials that were enqueued for a key, of this plan or of a larger one."""
        return [trial for trial in self.study.get_trials(deepcopy=False) if "key" in trial.user_attrs]

    def latest(self) -> dict[str, FrozenTrial]:
        """The trial that stands for each key of the plan: the one that is done, or else the newest."""
        found: dict[str, FrozenTrial] = {}
        counted = [trial for trial in self.trials() if "surplus" not in trial.user_attrs]
        for trial in sorted(counted, key=lambda t: (t.state in DONE, t.number)):
            found[trial.user_attrs["key"]] = trial
        return {key: found[key] for key in self.plan.slots if key in found}

    def rows(self) -> list[Row]:
        """Rows of all trials that are done, in the order of the plan."""
        done = [t for t in self.latest().values() if t.state == TrialState.COMPLETE]
        return [trial.user_attrs["row"] for trial in done]

    def open_keys(self) -> list[str]:
        """Keys that are not settled."""
        latest = self.latest()
        return [key for key in self.plan.slots if key not in latest or not is_settled(latest[key])]

    def failures(self) -> dict[str, str]:
        """Cause of every trial that failed for a reason of its own, by key."""
        return {
            key: t.user_attrs["cause"]
            for key, t in self.latest().items()
            if t.state == TrialState.FAIL and is_settled(t)
        }

    def enqueue(self, keys: Iterable[str]) -> None:
        """Enqueue keys, with the parameters that they had before a stop."""
        prepared = {trial.key: (trial.digest, encode(trial.params)) for trial in self.plan.trials}
        chosen = {t.user_attrs["key"]: t.params for t in self.trials() if t.params.keys() == self.plan.ranges.keys()}
        for key in keys:
            digest, params = prepared.get(key, ("", chosen.get(key, {})))
            self.study.enqueue_trial(params, user_attrs={"key": key, "digest": digest})

    def enqueue_missing(self) -> list[str]:
        """Enqueue the keys that have no trial waiting, running or settled; return all that wait now.

        A search enqueues one key at a time, the oldest first, so that after a stop it goes on as it would have.
        """
        latest = self.latest()
        waiting = [key for key, trial in latest.items() if trial.state == TrialState.WAITING]
        missing = [key for key in self.open_keys() if key not in latest or latest[key].state.is_finished()]
        if self.plan.searching:
            missing = [] if waiting else missing[:1]
        self.enqueue(missing)
        return waiting + missing

    def work_off(self, run: Run) -> None:
        """Take trials until every key is settled; wait for what others run, and take over from dead workers.

        Raises DiskFull where there is no space left: the trial stays open, and the same command goes on later.
        """
        unclaimed, full = dict[int, float](), list[DiskFull]()
        while self.open_keys():
            optuna.storages.fail_stale_trials(self.study)
            self.fail_dead(unclaimed)
            waiting = self.enqueue_missing()
            if not waiting:
                time.sleep(1)
                continue
            self.study.sampler = make_sampler(self.plan, self.plan.slots.index(waiting[0]))
            try:
                with STOP.deferred():  # else a trial could be claimed and not be given back
                    self.study.optimize(lambda trial: self.objective(trial, run, full), n_trials=1, catch=Exception)
            except (optuna.exceptions.UpdateFinishedTrialError, ValueError):
                continue  # this worker was held to be dead, and its trial has been taken over
            if full:
                raise full[0]

    def fail_dead(self, unclaimed: dict[int, float]) -> None:
        """Fail trials whose worker on this machine is gone, or died between claiming and the first heartbeat."""
        here, patience = machine(), 3 * self.plan.file.heartbeat
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            name, _, process = trial.user_attrs.get("worker", "").rpartition(" ")
            since = unclaimed.setdefault(trial.number, time.monotonic())
            silent = not process and time.monotonic() - since > patience
            if silent or (name == here and not is_alive(int(process))):
                self.study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)

    def is_surplus(self, trial: optuna.Trial) -> bool:
        """Whether another trial does this key's work: one that is done, or an earlier one that has not ended."""
        key, number = trial.user_attrs["key"], trial.number
        others = [other for other in self.trials() if other.user_attrs["key"] == key and other.number != number]
        return any(o.state in DONE or (not o.state.is_finished() and o.number < number) for o in others)

    def objective(self, trial: optuna.Trial, run: Run, full: list[DiskFull]) -> list[float]:
        """Run one trial; keep its row, or the cause of a failure of its own, as an attribute.

        A full disk is no cause of its own; it is put into `full`.
        """
        if trial.user_attrs.get("key") not in self.plan.slots or self.is_surplus(trial):
            trial.set_user_attr("surplus", True)
            raise Surplus
        trial.set_user_attr("worker", f"{machine()} {os.getpid()}")
        try:
            return self.values(trial, run)
        except (optuna.TrialPruned, *STORAGE_ERRORS):
            raise
        except Exception as error:
            if is_full(error):
                full.append(error if isinstance(error, DiskFull) else DiskFull(f"cannot write: {error}"))
            elif STOP.number is None:  # else a signal broke something; without a cause the key is taken up again
                if not isinstance(error, EXPECTED_FAILURES):
                    traceback.print_exc()
                trial.set_user_attr("cause", (str(error).strip() or type(error).__name__).splitlines()[0])
            raise
        except SystemExit:  # stopped by a signal: the same
            self.study.tell(trial, state=TrialState.FAIL)
            raise

    def values(self, trial: optuna.Trial, run: Run) -> list[float]:
        """Make the row of a trial, or take the one that was stored before a stop; raises RunError for a NaN."""
        key = trial.user_attrs["key"]
        self.study.sampler = make_sampler(self.plan, self.plan.slots.index(key))
        params = {name: suggest(trial, name, values) for name, values in self.plan.ranges.items()}
        planned = self.plan.find(key, params)
        rows = [t.user_attrs["row"] for t in self.trials() if t.user_attrs["key"] == key and "row" in t.user_attrs]
        stored = [row for row in rows if row["trial"] == planned.digest]
        reporter, tuner = Reporter(trial, self.plan, planned), partial(tune, self.plan, self.storage)
        with STOP.at_once():
            row = stored[0] if stored else run(planned, [reporter], tuner)
        values = [float(row[name]) for name in self.plan.objectives]
        if not all(map(math.isfinite, values)):
            raise RunError(f"an objective is not finite: {dict(zip(self.plan.objectives, values, strict=True))}")
        trial.set_user_attr("row", row)
        return values

    def importances(self) -> dict[str, dict[str, float]]:
        """Share of each parameter in the variance of each objective."""
        return importances(self.study, self.plan.objectives)


@cache
def machine() -> str:
    """Name where process numbers mean what they mean here: host, its boot, and the container.

    Machines may share a host name, and their processes numbers; a boot has an identity of its own.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        space = Path("/proc/self/ns/pid").readlink()
    except OSError:  # not Linux
        boot, space = f"{uuid.getnode():x}", Path()
    return f"{socket.gethostname()}/{hashlib.sha256(f'{boot} {space}'.encode()).hexdigest()[:12]}"


def is_alive(process: int) -> bool:
    """Whether a process of this machine exists."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
