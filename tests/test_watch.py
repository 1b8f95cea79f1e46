"""What `radar watch` shows of trainings that run."""

from pathlib import Path

from ablations.cli import main
from ablations.study.plan import plan_study
from ablations.study.queue import StudyQueue
from ablations.study.storage import storage_url
from tests.test_studies import STUDY


def test_watch_a_training(tmp_path, capsys, monkeypatch):
    """Of several devices by its logs, and one that has no NLL."""
    monkeypatch.setenv("COLUMNS", "120")
    (tmp_path / "tiny.yaml").write_text(STUDY)
    given = [str(tmp_path / "tiny.yaml"), "--out", str(tmp_path / "out"), f"data.cache={tmp_path}"]
    plan = plan_study(given[0], given[2], given[3:])
    queue = StudyQueue.create(plan, storage_url(None, plan))
    queue.enqueue(plan.slots[:2])
    queue.study.ask()
    queue.study.ask().set_user_attr("progress", {"step": 7, "of": 9, "loss": 1.0})
    first = next(trial for trial in plan.trials if trial.key == plan.slots[0])
    logs = Path(first.config.run) / "csv" / "version_0" / "metrics.csv"
    logs.parent.mkdir(parents=True)
    logs.write_text("step,val/nll,train/loss\n2,33.5,\n3,,1.0\n4,32.25,\n")
    main(["watch", *given[:3], "--once", *given[3:]])
    shown = capsys.readouterr().out
    assert f"4/{first.config.train.max_steps}" in shown and "32.25" in shown and "7/9" in shown
