"""Several devices: the processes that train one run together, and what they tell each other.

Processes are started here, unless torchrun, SLURM or the like has started them: then Lightning knows their numbers.
"""

import hashlib
import logging
import multiprocessing
import os
import pickle
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, distributed
from torch.multiprocessing.spawn import ProcessContext, ProcessExitedException, start_processes

from radar.config.training import TrainConfig
from radar.errors import InputError, RunError, stop
from radar.parts import cut

logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)

METHOD = "spawn"  # a fork would take over threads and CUDA
LOST = ("gloo", "NCCL")  # in what is raised where another process cannot be reached
# What launchers tell their processes that is new with every start, or nearly so.
OF_LAUNCH = (
    "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT",
    "MASTER_ADDR", "MASTER_PORT",
)  # fmt: skip
TRACKER = "ignore:resource_tracker"  # its warning, that a process which was killed has left some
GRACE = 10.0  # seconds that processes have to end after one of them has failed
R = TypeVar("R")


def pick_device(name: str) -> torch.device:
    """Resolve `train.device`; raises InputError if it is not there."""
    best = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.zeros(0, device=best if name == "auto" else name).device
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"train.device={name} cannot be used here: {str(error).splitlines()[0]}") from error


def over_devices(values: Tensor) -> Tensor:
    """Sum over all devices; where there is one, the values themselves."""
    if not distributed.is_initialized():
        return values
    total = values.detach().to("cuda" if distributed.get_backend() == "nccl" else "cpu", copy=True)
    distributed.all_reduce(total)
    return total.to(values.device)


def is_first(train: TrainConfig) -> bool:
    """Whether this is the process that writes and prints, of those that train one run."""
    return train.devices * train.nodes == 1 or getattr(rank_zero_only, "rank", 0) == 0


def started() -> tuple[int, int] | None:
    """How many processes run already for all devices, and the number of this one on its machine; None if none do."""
    if "LOCAL_RANK" in os.environ or TorchElasticEnvironment.detect():
        return int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("LOCAL_RANK", 0))
    if SLURMEnvironment.detect() and int(os.environ["SLURM_NTASKS"]) > 1:  # else nobody has called srun
        return int(os.environ["SLURM_NTASKS"]), int(os.environ.get("SLURM_LOCALID", 0))
    return None


def launch_name() -> str:
    """Name that all processes of one start by a launcher share, and those of another start hardly have."""
    told = [os.environ.get(name, "") for name in OF_LAUNCH]
    return hashlib.sha256(" ".join(told).encode()).hexdigest()[:8]


def must_start(train: TrainConfig) -> bool:
    """Whether processes are to be started for the devices of this training; raises InputError where they cannot be."""
    cut(train.batch_size, train.devices * train.nodes, train.micro_batch)
    return must_launch(train)


def must_launch(train: TrainConfig) -> bool:
    """The same of any work; takes the device of this process where a launcher has started it."""
    if (needed := train.devices * train.nodes) == 1:
        return False
    there, uses_cuda = torch.cuda.device_count(), pick_device(train.device).type == "cuda"
    if uses_cuda and train.devices > there:
        raise InputError(
            f"train.devices={train.devices} is not possible: this process sees {there} CUDA devices, and every process "
            "must see all of its machine"
        )
    if (running := started()) is not None:
        if running[0] != needed:
            raise InputError(
                f"train.devices={train.devices} and train.nodes={train.nodes} need {needed} processes, and "
                f"{running[0]} were started"
            )
        if uses_cuda:
            torch.cuda.set_device(running[1])
        return False
    if train.nodes > 1:
        raise InputError(f"train.nodes={train.nodes} needs a launcher that starts every machine: torchrun, srun, ...")
    return True


def on_devices(count: int, work: Callable[..., R], *given: Any) -> R:
    """Do the same work in one process per device of this machine; return what the first of them returns.

    All end when one fails, within seconds. Raises what failed, and RunError where one was killed.
    """
    context: Any = multiprocessing.get_context(METHOD)
    filters = [*filter(None, os.environ.get("PYTHONWARNINGS", "").split(","))]
    if TRACKER not in filters:
        os.environ["PYTHONWARNINGS"] = ",".join([*filters, TRACKER])  # inherited by what watches semaphores
    results = context.SimpleQueue()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = (count, port, results, pickle.dumps((work, given)))
    processes: ProcessContext = start_processes(_begin, arguments, count, join=False, start_method=METHOD)
    killed: ProcessExitedException | None = None
    try:
        while not processes.join(grace_period=GRACE):
            pass
    except ProcessExitedException as error:
        killed = error
    finally:
        _end(processes)
    told: list[tuple[bool, Any]] = []
    while not results.empty():
        told.append(results.get())
    for is_cause, outcome in told:
        if isinstance(outcome, Exception) and is_cause:
            raise outcome
    if killed is not None:
        raise _why([process.exitcode or 0 for process in processes.processes], killed.error_index, told)
    return told[0][1]  # type: ignore[no-any-return]


def _why(codes: list[int], failed: int, told: list[tuple[bool, Any]]) -> RunError:
    """Why processes have ended that have not said a cause: one was killed, or they cannot reach each other."""
    first = next((i for i, code in enumerate(codes) if code < 0 and code != -signal.SIGTERM), failed)
    if codes[first] >= 0 and told:
        return RunError(str(told[0][1]).splitlines()[0])
    how = signal.Signals(-codes[first]).name if codes[first] < 0 else f"exit code {codes[first]}"
    return RunError(
        f"process {first} of {len(codes)} has ended ({how}) and the others were stopped; the same command goes on from "
        "the last checkpoint"
    )


def _end(processes: ProcessContext) -> None:
    """Stop what still runs, and kill what takes too long."""
    for process in processes.processes:
        if process.is_alive():
            process.terminate()
    for process in processes.processes:
        process.join(GRACE)
        if process.is_alive():
            process.kill()


def _begin(number: int, count: int, port: int, results: Any, work: bytes) -> None:
    """Do the work of one device, and tell the process that started it what came of it."""
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    places = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": count, "MASTER_PORT": port}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "NODE_RANK": "0", **{key: str(value) for key, value in places.items()}}
    os.environ.pop("SLURM_NTASKS", None)  # by which Lightning would take SLURM for what has started them
    rank_zero_only.rank = number  # type: ignore[attr-defined]
    if number:
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 - to the end of the process
    function, given = pickle.loads(work)
    try:
        outcome = function(*given)
    except Exception as error:
        is_cause = not any(sign in str(error) for sign in LOST)  # else another one may know more
        if is_cause and not isinstance(error, InputError | RunError | OSError):
            traceback.print_exc()
        results.put((is_cause, _told(error)))
        sys.exit(1)
    if not number:
        results.put((True, outcome))


def _told(error: Exception) -> Exception:
    """An error as another process can read it."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever a class of errors does there
        return RunError(f"{type(error).__name__}: {error}")
    return error
