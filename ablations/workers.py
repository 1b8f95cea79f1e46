"""Worker processes that end when their study ends, however that happens."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from threading import Thread
from types import FrameType
from typing import Any, NoReturn

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


def stop_once(number: int, frame: FrameType | None) -> NoReturn:
    """Stop on the first signal and ignore the next: Ctrl-C comes from the terminal and again from the study."""
    for other in SIGNALS:
        signal.signal(other, signal.SIG_IGN)
    stop(number, frame)


def begin(threads: int, target: Callable[..., None], arguments: Sequence[Any]) -> None:
    """Run `target` in a worker: its threads, an orderly end on signals, never outliving the study."""
    torch.set_num_threads(threads)
    for number in SIGNALS:
        signal.signal(number, stop_once)
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
