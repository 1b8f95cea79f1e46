"""`radar ablate STUDY.yaml`: run what a study has not done yet in worker processes; then time all arms; then report.

Any number of processes and machines may run the same study: with `--storage postgresql://...` they share its queue.
What is done stays done, so the same command goes on after any stop.
"""

import argparse
import os
import time

import torch

from ablations.plan import Plan, plan_study, read_plan
from ablations.prepare import prepare, train_tokenizers
from ablations.report import write_report
from ablations.results import Results
from ablations.study import StudyQueue, storage_url
from ablations.trial import run_trial, time_arms
from ablations.workers import start_workers, supervise
from radar.checkpoints import pick_device
from radar.errors import InputError, RunError


def default_workers(threads: int, device: torch.device) -> int:
    """One process for every `threads` cores that may be used; one on a GPU, which they would share."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // threads) if device.type == "cpu" else 1


def work(plan: Plan, url: str) -> None:
    """Work off the queue, in a worker process."""
    StudyQueue.open(plan, url).work_off(lambda *arguments: run_trial(plan, *arguments))


class Progress:
    """Rewrites the report and prints a line whenever more rows are done."""

    def __init__(self, queue: StudyQueue, command: str) -> None:
        self.queue, self.command = queue, command
        self.began, self.before = time.monotonic(), len(queue.rows())
        self.seen = self.before

    def __call__(self) -> None:
        """Look at the queue."""
        rows, total = self.queue.rows(), len(self.queue.plan.slots)
        if len(rows) == self.seen:
            return
        self.seen = len(rows)
        left = (time.monotonic() - self.began) / (self.seen - self.before) * (total - self.seen)
        write_report(Results.of(self.queue, {}, self.command))
        print(f"{self.queue.plan.name}: {self.seen} of {total} rows, about {left:.0f} s left", flush=True)


def main(args: argparse.Namespace) -> None:
    """Run `radar ablate`."""
    train_tokenizers(read_plan(args.study, args.out, args.options))
    plan = plan_study(args.study, args.out, args.options)
    torch.set_num_threads(plan.file.threads)
    device = pick_device((plan.trials or [plan.sketch()])[0].config.train.device)
    count = default_workers(plan.file.threads, device) if args.workers is None else args.workers
    if count < 1:
        raise InputError(f"--workers {args.workers} is not possible: it must be at least 1")
    if plan.searching and not plan.timeless and count > 1:
        raise InputError("a search for images_per_s or train_seconds needs --workers 1: others would slow it down")
    url = storage_url(args.storage, plan)
    queue = StudyQueue.create(plan, url)
    command = " ".join(["radar ablate", args.study, *args.options])
    queue.enqueue_missing()
    if queue.open_keys():
        prepare(plan)
        workers = start_workers(min(count, len(queue.open_keys())), plan.file.threads, work, plan, url)
        supervise(workers, Progress(queue, command))
    speeds = time_arms(plan, queue.rows())
    print(write_report(Results.of(queue, speeds, command)))
    print(plan.out / "report.md")
    if failed := queue.failures():
        raise RunError("; ".join(failed))
    if left := queue.open_keys():
        raise RunError(
            f"all workers ended with {len(left)} trials left (killed, or out of memory); the same command goes on"
        )
