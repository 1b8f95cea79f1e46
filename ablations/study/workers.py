"""Worker processes that end when their study ends, however that happens."""

import atexit
import gc
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from threading import Thread
from types import FrameType
from typing import Any

import torch

from ablations.study.launch import dumped, launch
from radar.errors import stop

SIGNALS = (signal.SIGINT, signal.SIGTERM)
METHOD = "spawn"  # a fork server would load the libraries only once, but a signal to all ends it before its workers
GRACE = 20.0  # seconds that all workers together have to give their trials back


class Stop:
    """Handler of the signals of a study and its workers: the first stops a process, now or after what may not be left.

    The others do nothing, since Ctrl-C comes from the terminal and again from the study. That is kept here and not by
    another handler: Lightning puts back the one that it found, at the end of each training.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self.now = True

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Take a signal; raises SystemExit."""
        if self.number is None:
            self.number = number
            self.check()

    def check(self) -> None:
        """Stop if a signal has come and may stop now; raises SystemExit."""
        if self.now and self.number is not None:
            stop(self.number, None)

    def deferred(self) -> AbstractContextManager[None]:
        """Finish this block before stopping; raises SystemExit after it."""
        return self._set(now=False)

    def at_once(self) -> AbstractContextManager[None]:
        """Stop anywhere in this block of a deferred one; raises SystemExit."""
        return self._set(now=True)

    @contextmanager
    def _set(self, now: bool) -> Iterator[None]:
        before, self.now = self.now, now
        try:
            self.check()
            yield
        finally:
            self.now = before
            self.check()

    @contextmanager
    def handling(self) -> Iterator[None]:
        """Take the signals of this process in this block."""
        before = [signal.signal(number, self) for number in SIGNALS]
        try:
            yield
        finally:
            for number, handler in zip(SIGNALS, before, strict=True):
                signal.signal(number, handler)


STOP = Stop()


def end_with_parent() -> None:
    """Stop this process when the study's process is gone, also by SIGKILL."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE)
        os._exit(1)


def begin(threads: int, target: Callable[..., None], arguments: Sequence[Any]) -> None:
    """Run `target` in a worker: its threads, an orderly end on signals, never outliving the study."""
    torch.set_num_threads(threads)
    atexit.register(gc.freeze)  # as in the command line; these seconds would be of the worker's grace
    with STOP.handling():
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        Thread(target=end_with_parent, daemon=True).start()
        target(*arguments)


def run_workers(count: int, threads: int, tick: Callable[[], None], target: Callable[..., None], *given: Any) -> None:
    """Run `target` in fresh processes with `threads` threads each until all have ended, calling `tick` in between.

    Stops them if that is interrupted; raises SystemExit for a signal.
    """
    os.environ["OMP_NUM_THREADS"] = str(threads)  # also for the libraries that they load
    context: Any = multiprocessing.get_context(METHOD)
    workers = [context.Process(target=launch, args=(dumped(begin, threads, target, given),)) for _ in range(count)]
    with STOP.handling():
        try:
            start(workers)
            while alive := [worker.sentinel for worker in workers if worker.is_alive()]:
                wait(alive, timeout=2)
                tick()
                STOP.check()  # a destructor swallows what is raised in it
        finally:
            with STOP.deferred():
                end([worker for worker in workers if worker.pid])


def start(workers: Sequence[BaseProcess]) -> None:
    """Start workers; a Ctrl-C while they load waits until they can take it, if the study does not stop them before."""
    resource_tracker.ensure_running()  # else the first start does this, which unblocks signals
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # they inherit it
    try:
        for worker in workers:
            worker.start()  # where a signal breaks this off, the worker ends with its parent
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])


def end(workers: Sequence[BaseProcess]) -> None:
    """Stop workers that run, and kill those that take too long."""
    for worker in workers:
        worker.terminate()
    deadline = time.monotonic() + GRACE
    for worker in workers:
        worker.join(max(0.0, deadline - time.monotonic()))
        worker.kill()
