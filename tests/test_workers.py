"""Workers that are stopped: a claimed trial is given back, and none goes on."""

import signal
import time

import optuna
import pytest
from optuna.trial import TrialState

from ablations.study import workers
from ablations.study.plan import plan_study
from ablations.study.queue import StudyQueue
from ablations.study.storage import storage_url
from tests.test_studies import STUDY

MOMENTS = {  # when a signal comes -> what becomes of the first trial
    "before": [],
    "RUNNING": ["FAIL"],  # just claimed
    "trained": ["FAIL"],
    "broken": ["FAIL"],  # and what is cleaned up fails, as a data loader does whose processes got the signal too
    "COMPLETE": ["COMPLETE"],  # just told
    "between": ["COMPLETE"],
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_stopped_worker_gives_its_trial_back(moment, tmp_path, monkeypatch):
    """Whenever the signal comes, and one more while it gives back."""
    (tmp_path / "tiny.yaml").write_text(STUDY)
    plan = plan_study(str(tmp_path / "tiny.yaml"), str(tmp_path / "out"), [f"data.cache={tmp_path}"])
    queue, ended = StudyQueue.create(plan, storage_url(None, plan)), []
    monkeypatch.setattr(workers.STOP, "number", None)
    set_state, enqueue_missing = optuna.storages.RDBStorage.set_trial_state_values, StudyQueue.enqueue_missing

    def send(when):
        if when in (moment, "FAIL"):
            signal.raise_signal(signal.SIGTERM)

    def change(storage, number, state, values=None):
        changed = set_state(storage, number, state, values)
        send(state.name)
        return changed

    def look(queue):
        waiting = enqueue_missing(queue)
        send("between" if queue.rows() else "before")
        return waiting

    def run(trial, callbacks, tuner):
        try:
            send("trained")
            send("broken")
        finally:
            signal.signal(signal.SIGTERM, workers.STOP)  # as Lightning puts it back
            send("trained")
            ended.append(trial.key)
            if moment == "broken":
                raise RuntimeError("DataLoader worker is killed")
        return {"fid": 1.0, "steps": 7, "trial": trial.digest, "arm": trial.arm}

    monkeypatch.setattr(optuna.storages.RDBStorage, "set_trial_state_values", change)
    monkeypatch.setattr(StudyQueue, "enqueue_missing", look)
    with pytest.raises(SystemExit, match="143"), workers.STOP.handling():
        queue.work_off(run)
    states = [trial.state.name for trial in queue.study.get_trials() if trial.state != TrialState.WAITING]
    assert states == MOMENTS[moment] and not queue.failures()
    assert len(ended) == (moment not in ("before", "RUNNING")), (
        "a second signal does not break off what the first began"
    )


def test_workers_are_stopped_whatever_happens(monkeypatch):
    """The report cannot be written, and a signal comes while they are stopped for that."""
    monkeypatch.setattr(workers.STOP, "number", None)
    end, stopped = workers.end, []

    def tick():
        raise OSError("no space left on device")

    def disturbed(running):
        signal.raise_signal(signal.SIGTERM)
        end(running)
        stopped.extend(worker.exitcode for worker in running)

    monkeypatch.setattr(workers, "end", disturbed)
    with pytest.raises(SystemExit, match="143"):
        workers.run_workers(2, 1, tick, time.sleep, 60.0)
    assert len(stopped) == 2 and not {*stopped} - {-signal.SIGTERM, 143}, "stopped, and in time"
