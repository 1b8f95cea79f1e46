"""A pool of fresh processes that ends when its study ends, however that happens."""

import multiprocessing
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from threading import Thread

import torch

from radar.errors import RunError


def start_worker(threads: int) -> None:
    """Prepare a worker: its threads, an end at once on signals, and never outliving the study."""
    torch.set_num_threads(threads)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: os._exit(128 + number))
    Thread(target=end_with_parent, daemon=True).start()


def end_with_parent() -> None:
    """End this process when the study's process is gone, also by SIGKILL; what is not saved is done again."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextmanager
def worker_pool(workers: int, threads: int) -> Iterator[ProcessPoolExecutor]:
    """Open a pool whose processes are killed if the block is left by an exception; raises RunError if one dies."""
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), start_worker, (threads,))
    try:
        yield pool
    except BaseException as error:
        for process in multiprocessing.active_children():
            process.kill()
        pool.shutdown(wait=True, cancel_futures=True)
        if isinstance(error, BrokenProcessPool):
            raise RunError(
                "a worker process died (killed, or out of memory); the same command goes on from what is saved"
            ) from error
        raise
    pool.shutdown()
