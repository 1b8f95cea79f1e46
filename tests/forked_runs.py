"""Runs training jobs one after the other, each in a fork of one process, so that the imports are paid once.

Usage: python forked_runs.py JOBS.json, a list of {"options", "overrides", "kill"}; kill is null or
{"step", "signal", "where", "skip"}.
Prints the list of exit codes as JSON; a signal is its negative number.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from radar.config.load import to_config
from radar.errors import stop
from radar.training.diffusion import DiffusionModule
from radar.training.generator import GeneratorModule
from radar.training.runs import train_generator, train_tokenizer
from radar.training.tokenizer import TokenizerModule
from radar.training.trained import TrainedModule


def kill_at(step: int, number: int, where: str, skip: int) -> None:
    """Send this process a signal at the start of a training or validation step, or `skip` batches later."""
    left = iter(range(skip, -1, -1))
    for kind in (GeneratorModule, DiffusionModule, TokenizerModule):
        original = getattr(kind, where)

        def struck(self: TrainedModule, *args: Any, original: Any = original) -> Any:
            if self.global_step >= step and next(left) == 0:
                os.kill(os.getpid(), number)
            return original(self, *args)

        setattr(kind, where, struck)


def child(job: dict[str, Any]) -> None:
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    torch.set_num_threads(1)
    if job["kill"]:
        kill_at(**{"number" if key == "signal" else key: value for key, value in job["kill"].items()})
    config = to_config(job["options"], job["overrides"])
    (train_tokenizer if config.train.adversarial_weight else train_generator)(config)


def run(job: dict[str, Any]) -> int:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            sys.stdout = sys.stderr
            child(job)
            code = 0
        except SystemExit as error:
            code = int(error.code or 0)
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


if __name__ == "__main__":
    print(json.dumps([run(job) for job in json.loads(Path(sys.argv[1]).read_text())]))
