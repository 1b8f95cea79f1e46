"""Worker processes that end when their study ends, however that happens."""

import atexit
import gc
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from threading import Thread
from types import FrameType
from typing import Any

import torch

from radar.errors import stop

SIGNALS = (signal.SIGINT, signal.SIGTERM)
METHOD = "spawn"  # a fork server would load the libraries only once, but a signal to all ends it before its workers
GRACE = 20.0  # seconds that a worker has to give its trial back


def end_with_parent() -> None:
    """Stop this process when the study's process is gone, also by SIGKILL."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE)
        os._exit(1)


class Stop:
    """Handler of the signals of a study and its workers: the first stops a process, at once or where that is allowed.

    The others do nothing, since Ctrl-C comes from the terminal and again from the study. That is kept here and not by
    another handler: Lightning puts back the one that it found, at the end of each training.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self.at_once = True

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Take a signal; raises SystemExit."""
        if self.number is None:
            self.number = number
            self.check()

    def check(self) -> None:
        """Stop if a signal has come and may stop now; raises SystemExit."""
        if self.at_once and self.number is not None:
            stop(self.number, None)

    @contextmanager
    def allowed(self, at_once: bool) -> Iterator[None]:
        """Let signals stop this process at once, or only later; raises SystemExit for one that had to wait."""
        before, self.at_once = self.at_once, at_once
        try:
            self.check()
            yield
        finally:
            self.at_once = before
            self.check()


STOP = Stop()


def obey_signals() -> None:
    """Let `STOP` handle the signals of this process."""
    for number in SIGNALS:
        signal.signal(number, STOP)


def begin(threads: int, target: Callable[..., None], arguments: Sequence[Any]) -> None:
    """Run `target` in a worker: its threads, an orderly end on signals, never outliving the study."""
    torch.set_num_threads(threads)
    obey_signals()
    atexit.register(gc.freeze)  # as in the command line; these seconds would be of the worker's grace
    Thread(target=end_with_parent, daemon=True).start()
    target(*arguments)


def start_workers(count: int, threads: int, target: Callable[..., None], *arguments: Any) -> list[BaseProcess]:
    """Start fresh processes, each with `threads` threads."""
    os.environ["OMP_NUM_THREADS"] = str(threads)  # also for the libraries that they load
    context: Any = multiprocessing.get_context(METHOD)
    workers = [context.Process(target=begin, args=(threads, target, arguments)) for _ in range(count)]
    for worker in workers:
        worker.start()
    return workers


def supervise(workers: Sequence[BaseProcess], tick: Callable[[], None], seconds: float = 2.0) -> None:
    """Wait until all workers have ended, calling `tick` in between; stop them if that is interrupted."""
    obey_signals()
    try:
        while alive := [worker.sentinel for worker in workers if worker.is_alive()]:
            wait(alive, timeout=seconds)
            tick()
    finally:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.join(GRACE)
            worker.kill()
