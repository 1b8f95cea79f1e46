"""`radar watch STUDY.yaml`: a live table of a study's trials in the terminal."""

import argparse
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.live import Live
from rich.table import Table

from ablations.arguments import add_study
from ablations.study.plan import Plan, plan_study
from ablations.study.queue import StudyQueue
from ablations.study.storage import storage_url
from radar.config.options import Config
from radar.training.logs import validation_table

FIGURES_SHOWN = (("steps", "{:.0f}"), ("fid", "{:.3f}"), ("nll", "{:.2f}"))


def trial_line(key: str, state: str, attributes: Mapping[str, Any]) -> list[str]:
    """Cells of one trial: state, how far its training is, figures, worker or cause of failure."""
    progress, row = attributes.get("progress", {}), attributes.get("row", {})
    trained = f"{progress['step']}/{progress['of']}" if progress else ""
    nll = f"{progress['nll']:.2f}" if "nll" in progress else ""
    figures = [
        form.format(row[name]) if row.get(name) is not None else nll if name == "nll" else ""
        for name, form in FIGURES_SHOWN
    ]
    return [key, state, trained, *figures, attributes.get("cause", "" if row else attributes.get("worker", ""))]


def logged_progress(config: Config) -> dict[str, Any]:
    """How far a training is by its logs: processes of several devices write these, and do not reach the study."""
    if not (found := validation_table(Path(config.run))):
        return {}
    nll = found.get("val/nll", [None])[-1]
    progress = {"step": f"{found['step'][-1]:.0f}", "of": config.train.max_steps}
    return {"progress": progress if nll is None else progress | {"nll": nll}}


def status_table(plan: Plan, queue: StudyQueue) -> Table:
    """Lay out all trials of a study as they stand now."""
    latest = queue.latest()
    done = sum("row" in trial.user_attrs for trial in latest.values())
    table = Table(title=f"{plan.name}: {done} of {len(plan.slots)} done", box=SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("trial", overflow="fold", min_width=20)
    table.add_column("state", no_wrap=True)
    for name in ("trained", *(name for name, _ in FIGURES_SHOWN)):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("note", overflow="fold")
    planned = {trial.key: trial.config for trial in plan.trials}
    for key in plan.slots:
        trial = latest.get(key)
        state, told = (trial.state.name.lower(), trial.user_attrs) if trial else ("not queued", {})
        if trial and trial.state.name == "RUNNING" and "progress" not in told and key in planned:
            told = told | logged_progress(planned[key])
        table.add_row(*trial_line(key, state, told))
    return table


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what it takes."""
    add_study(parser)
    parser.add_argument("--once", action="store_true", help="print the table once")


def main(args: argparse.Namespace) -> None:
    """Run `radar watch`; ends when the study is complete, or at once with --once or without a terminal."""
    plan = plan_study(args.study, args.out, args.options)
    queue, console = StudyQueue.open(plan, storage_url(args.storage, plan)), Console()
    if args.once or not console.is_terminal:
        console.print(status_table(plan, queue))
        return
    with Live(status_table(plan, queue), console=console, auto_refresh=False) as live:
        while queue.open_keys():
            time.sleep(2)
            live.update(status_table(plan, queue), refresh=True)
