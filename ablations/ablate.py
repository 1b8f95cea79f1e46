"""`radar ablate STUDY.yaml`: run what a study has not done yet in worker processes; then time all arms; then report.

Any number of processes and machines may run the same study: with `--storage postgresql://...` they share its queue.
What is done stays done, so the same command goes on after any stop.
"""

import argparse
import os
import sys
import time

import torch

from ablations.arguments import add_study
from ablations.report import write_report
from ablations.reporting.results import Results, command_line
from ablations.study.plan import Plan, plan_study, read_plan
from ablations.study.prepare import prepare, prepare_inputs
from ablations.study.queue import StudyQueue
from ablations.study.storage import STORAGE_ERRORS, open_storage, storage_url
from ablations.study.trial import run_trial, time_arms
from ablations.study.workers import run_workers
from radar.config.load import merge_options, to_config
from radar.errors import DiskFull, InputError, RunError
from radar.files import is_full
from radar.training.devices import pick_device

REPORT_EVERY = 30.0  # seconds, at least
NO_SPACE = "no_space"  # attribute of a study: what could not be written


def default_workers(threads: int, device: torch.device) -> int:
    """One process for every `threads` cores that may be used; one on a GPU, which they would share."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // threads) if device.type == "cpu" else 1


def work(plan: Plan, url: str) -> None:
    """Work off the queue, in a worker process; one line and exit code 2 where a disk is full."""
    try:
        queue = StudyQueue.open(plan, url)
        try:
            queue.work_off(lambda *arguments: run_trial(plan, *arguments))
        except DiskFull as error:
            queue.study.set_user_attr(NO_SPACE, str(error))  # which the study's process says
            sys.exit(2)
    except Exception as error:
        if not is_full(error):
            raise
        sys.exit(2)


class Progress:
    """Rewrites the report and prints a line whenever more rows are done."""

    def __init__(self, queue: StudyQueue, command: str) -> None:
        self.queue, self.command = queue, command
        self.began, self.before = time.monotonic(), len(queue.rows())
        self.seen, self.written = self.before, self.began

    def __call__(self) -> None:
        """Look at the queue; a storage that does not answer is asked again the next time."""
        plan, now = self.queue.plan, time.monotonic()
        try:
            done, total = len(self.queue.rows()), len(plan.slots)
        except STORAGE_ERRORS:
            return
        if done == self.seen:
            return
        self.seen = done
        left = (now - self.began) / (done - self.before) * (total - done)
        if now - self.written > REPORT_EVERY and (plan.timeless or not plan.searching):  # drawing takes a core
            self.written = now
            write_report(Results.of(self.queue, self.command))
        print(f"{plan.name}: {done} of {total} rows, about {left:.0f} s left", flush=True)


def count_workers(plan: Plan, wanted: int | None) -> int:
    """Number of worker processes; raises InputError."""
    device = pick_device(to_config(merge_options(plan.base, plan.file.config), plan.overrides).train.device)
    count = default_workers(plan.file.threads, device) if wanted is None else wanted
    if count < 1:
        raise InputError(f"--workers {wanted} is not possible: it must be at least 1")
    if plan.searching and not plan.timeless and count > 1:
        raise InputError("a search for images_per_s or train_seconds needs --workers 1: others would slow it down")
    return count


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what it takes."""
    add_study(parser)
    parser.add_argument("--workers", type=int, help="processes (default: cores / threads of the study)")
    parser.add_argument(
        "--prepare", action="store_true", help="only make what all trials need: tokenizers, tokens, features of images"
    )
    parser.add_argument("--retry-failed", action="store_true", help="run trials that failed once more")


def main(args: argparse.Namespace) -> None:
    """Run `radar ablate`."""
    plan = read_plan(args.study, args.out, args.options)
    count, url = count_workers(plan, args.workers), storage_url(args.storage, plan)
    if args.storage:
        open_storage(url, plan.file.heartbeat)  # fails here, before any work
    prepare_inputs(plan)
    plan = plan_study(args.study, args.out, args.options)
    torch.set_num_threads(plan.file.threads)
    if args.prepare:
        prepare(plan, [])
        print(f"{plan.name}: {len(plan.slots)} trials can be run")
        return
    run_study(plan, url, count, command_line(args.study, args.out, args.options), args.retry_failed)


def run_study(plan: Plan, url: str, count: int, command: str, retry_failed: bool = False) -> None:
    """Do what is open with `count` workers, then time all arms, then report."""
    queue = StudyQueue.create(plan, url)
    queue.study.set_user_attr(NO_SPACE, None)
    if retry_failed:
        queue.enqueue(queue.failures())
    if left := queue.open_keys():
        prepare(plan, queue.rows())
        queue.enqueue_missing()  # before the workers would all do so
        progress = Progress(queue, command)
        run_workers(min(count, len(left)), plan.file.threads, progress, work, plan, url)
    if (message := queue.study.user_attrs.get(NO_SPACE)) is not None:
        raise DiskFull(message)
    time_arms(plan, queue.rows())
    print(write_report(Results.of(queue, command)))
    print(plan.out / "report.html")
    if left := queue.open_keys():
        raise RunError(
            f"all workers ended with {len(left)} trials left (killed, or out of memory?); the same command goes on"
        )
    if failed := queue.failures():
        raise RunError("; ".join(f"{key}: {cause}" for key, cause in failed.items()))
