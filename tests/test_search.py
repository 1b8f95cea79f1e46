"""Searches and the tuning of sampling options: what is tried, and that a stop changes nothing of it."""

import json
import math
from itertools import product

import pytest

from ablations.cli import main
from ablations.reporting.results import tuning_notes
from ablations.study.plan import plan_study
from ablations.study.queue import StudyQueue
from ablations.study.search import tune
from ablations.study.storage import storage_url
from ablations.study.study_file import parse_ranges
from tests.command_line import fails
from tests.test_studies import cache, quick_workers, results

__all__ = ["cache", "quick_workers"]  # fixtures

TUNED = """
name: tuned
base: digits
config:
  order: {steps: 7}
  model: {dim: 16, heads: 1, layers: 1}
  train: {max_steps: 3, batch_size: 32, warmup: 1}
  evaluate: {images: 40, timing_batch: 4, timing_repeats: 1}
seeds: [0]
factors: {model.layers: [1, 2], order.name: [radial, halton]}
tune:
  ranges: {sample.temperature: {low: 0.5, high: 1.5}, sample.top_k: [0, 2], sample.correction: [0.1, 0.3]}
  trials: 4
  images: 50
"""


def test_every_arm_of_a_grid_is_tuned(tmp_path, cache, monkeypatch):
    (tmp_path / "tuned.yaml").write_text(TUNED)
    arguments = ["ablate", str(tmp_path / "tuned.yaml"), "--out", str(tmp_path / "out"), f"data.cache={cache}"]
    scored = []

    def score(settings):
        scored.append(settings)
        return abs(settings.temperature - 0.9) + settings.top_k

    plan = plan_study(arguments[1], arguments[3], arguments[4:])
    queue = StudyQueue.create(plan, storage_url(None, plan))
    chosen = tune(plan, queue.storage, plan.trials[0], score)
    assert len(scored) == 4 and scored[0] == plan.trials[0].config.sample, "the same budget, its own options first"
    assert chosen == min(scored, key=lambda s: abs(s.temperature - 0.9) + s.top_k)
    assert tune(plan, queue.storage, plan.trials[0], score) == chosen and len(scored) == 4, "nothing is scored again"
    main(arguments)
    rows = json.loads((tmp_path / "out" / "results.json").read_text())["rows"]
    assert [row["arm"] for row in rows] == [f"layers={n}, name={o}" for n in (1, 2) for o in ("radial", "halton")]
    assert all(0.5 <= row["temperature"] <= 1.5 and row["correction"] in (0.1, 0.3) for row in rows)
    assert "| temperature" in (tmp_path / "out" / "report.md").read_text(), "what was chosen is in the table"
    assert (tmp_path / "out" / "importances.png").exists()
    low, high = (sum(row["correction"] == end for row in rows) for end in (0.1, 0.3))
    counts = [f"{low} chose the lowest (0.1)"] * bool(low) + [f"{high} chose the highest (0.3)"] * bool(high)
    said = f"sample.correction, tuned: of 4 rows {' and '.join(counts)} of the values on offer."
    assert said in (tmp_path / "out" / "report.md").read_text()


def test_a_report_says_how_many_rows_chose_an_end_of_their_range():
    """Their figures might be better in a wider one."""
    ranges = {"sample.temperature": [0.7, 0.5, 1.0], "sample.top_k": [0, 3, 9], "sample.order": [None, "halton"]}
    ranges |= {
        "sample.top_p": [0.9],
        "sample.guidance": {"low": 1, "high": 3},
        "sample.guidance_schedule": ["constant", "linear"],
    }
    chosen = [(0.5, 3), (0.5, 0), (0.7, 9), (1.0, 4)]
    rows = [
        {"options": {"sample": {"temperature": t, "top_k": k, "top_p": 0.9, "guidance_schedule": "linear"}}}
        for t, k in chosen
    ]
    assert tuning_notes(rows, parse_ranges(ranges)) == [
        "sample.temperature, tuned: of 4 rows 2 chose the lowest (0.5) and 1 chose the highest (1) of the values on "
        "offer.",
        "sample.top_k, tuned: of 4 rows 1 chose the lowest (0) and 1 chose the highest (9) of the values on offer.",
    ]
    assert tuning_notes(rows[2:3], parse_ranges({"sample.temperature": [0.5, 0.7, 1.0]})) == []


SEARCH = """
name: searched
base: digits
config:
  model: {dim: 16, heads: 1, layers: 1}
  train: {max_steps: 6, batch_size: 32, warmup: 1, val_every: 2}
  evaluate: {images: 40, metrics: [fid]}
search:
  sampler: SAMPLER
  trials: 4
  prune: PRUNE
  ranges:
    order.name: [raster, halton, radial]
    attention: [causal, plain]
    train.lr: {low: 1.0e-4, high: 1.0e-2, log: true}
    train.warmup: {low: 1, high: 4}
objectives: OBJECTIVES
"""


@pytest.mark.slow  # by default a stopped search is compared with a whole one
@pytest.mark.parametrize(
    ("sampler", "prune", "objectives"),
    [("tpe", "true", "{nll: minimize}"), ("nsga2", "false", "{fid: minimize, steps: minimize}")],
)
def test_search(sampler, prune, objectives, tmp_path, cache, capsys):
    """One worker finds the same each time; combinations that are not possible are kept with their cause."""
    text = SEARCH.replace("SAMPLER", sampler).replace("PRUNE", prune).replace("OBJECTIVES", objectives)
    (tmp_path / "searched.yaml").write_text(text)
    tables = []
    for name in ("a", "b"):
        out = tmp_path / name
        arguments = ["ablate", str(tmp_path / "searched.yaml"), "--out", str(out), "--workers", "1"]
        try:
            main([*arguments, f"data.cache={cache}"])
        except SystemExit as error:
            assert error.code == 1
        plan = plan_study(arguments[1], arguments[3], [f"data.cache={cache}"])
        queue = StudyQueue.open(plan, storage_url(None, plan))
        states = [trial.state.name for trial in queue.latest().values()]
        assert len(states) == 4 and set(states) <= {"COMPLETE", "PRUNED", "FAIL"}
        assert all("'causal' decodes one cell per step" in cause for cause in queue.failures().values())
        assert len(queue.failures()) == states.count("FAIL")
        tables.append(results(out))
        rows = json.loads((out / "results.json").read_text())["rows"]
        assert all(
            1e-4 <= row["tried"]["train.lr"] <= 1e-2 and row["tried"]["train.warmup"] in range(1, 5) for row in rows
        )
    assert tables[0] == tables[1]


def test_a_stopped_search_goes_on_as_it_would_have(tmp_path, cache):
    text = SEARCH.replace("SAMPLER", "tpe").replace("PRUNE", "false").replace("OBJECTIVES", "{nll: minimize}")
    (tmp_path / "searched.yaml").write_text(
        text.replace("trials: 4", "trials: 14").replace("[causal, plain]", "[plain]")
    )
    found = []
    for stops in ([], [1, 5, 12]):
        plan = plan_study(str(tmp_path / "searched.yaml"), str(tmp_path / str(len(stops))), [f"data.cache={cache}"])
        queue, tried, left = StudyQueue.create(plan, storage_url(None, plan)), [], list(stops)

        def run(trial, callbacks, tuner, tried=tried, left=left):
            if left and len(tried) == left[0]:
                left.pop(0)
                raise SystemExit(143)
            tried.append(trial.params)
            nll = math.log(trial.params["train.lr"] / 1e-3) ** 2 + trial.params["train.warmup"]
            return {"nll": nll, "fid": 1.0, "trial": trial.digest, "arm": trial.arm}

        for _ in range(len(stops) + 1):
            try:
                queue.work_off(run)
            except SystemExit:
                continue
        found.append(tried)
    assert len(found[0]) == 14 and found[0] == found[1]
    assert len({json.dumps(params) for params in found[0]}) > 10, "and no slot repeats another"


def test_a_timed_search_needs_one_worker(tmp_path, cache, capsys):
    text = SEARCH.replace("SAMPLER", "tpe").replace("PRUNE", "false").replace("OBJECTIVES", "{images_per_s: maximize}")
    (tmp_path / "searched.yaml").write_text(text)
    arguments = ["ablate", tmp_path / "searched.yaml", "--out", tmp_path / "out", f"data.cache={cache}"]
    assert "needs --workers 1" in fails(capsys, *arguments, "--workers", "2")


def test_a_stopped_tuning_goes_on_as_it_would_have(tmp_path, cache):
    """Stopped in the third of four scores, it tries the same options as without the stop, and chooses the same."""
    (tmp_path / "tuned.yaml").write_text(TUNED.replace("trials: 4", "trials: 7"))
    found = []
    for stop_at in (None, 2, 5):
        plan = plan_study(str(tmp_path / "tuned.yaml"), str(tmp_path / str(stop_at)), [f"data.cache={cache}"])
        storage, scored = StudyQueue.create(plan, storage_url(None, plan)).storage, []

        def score(settings, scored=scored, stop_at=stop_at):
            if len(scored) == stop_at and "stopped" not in scored:
                scored.append("stopped")
                raise SystemExit(143)
            scored.append(settings)
            return (settings.temperature - 0.9) ** 2 + settings.top_k

        try:
            chosen = tune(plan, storage, plan.trials[0], score)
        except SystemExit:
            chosen = tune(plan, storage, plan.trials[0], score)
        found.append((chosen, [settings for settings in scored if settings != "stopped"]))
    assert found[0] == found[1] == found[2]


def test_few_combinations_are_all_tried_once(tmp_path, cache):
    """Also after a stop, and whatever TPE would prefer."""
    (tmp_path / "tuned.yaml").write_text(
        TUNED.replace("trials: 4", "trials: 12").replace("{low: 0.5, high: 1.5}", "[0.5, 1.0, 1.5]")
    )
    plan = plan_study(str(tmp_path / "tuned.yaml"), str(tmp_path / "out"), [f"data.cache={cache}"])
    storage, scored = StudyQueue.create(plan, storage_url(None, plan)).storage, []

    def score(settings):
        if len(scored) == 2:
            scored.append(None)
            raise SystemExit(143)
        scored.append(settings)
        return settings.temperature + settings.top_k

    with pytest.raises(SystemExit):
        tune(plan, storage, plan.trials[0], score)
    chosen = tune(plan, storage, plan.trials[0], score)
    tried = [(settings.temperature, settings.top_k, settings.correction) for settings in scored if settings]
    assert len(tried) == 12 and set(tried) == set(product((0.5, 1.0, 1.5), (0, 2), (0.1, 0.3)))
    assert chosen.temperature == 0.5
    assert scored[0] == plan.trials[0].config.sample
