"""Where the time of training goes: a trace of a few optimizer steps, for Perfetto or chrome://tracing, and a table."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.profiler import ProfilerActivity, profile, schedule

from radar.files import replacing

SKIPPED, WARM, TRACED = 5, 2, 3  # batches: at first much is done once
ROWS = 40


class Profile(Callback):
    """Writes run/profile/trace.json and table.txt, once, on the first device."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.profiler: profile | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to count batches."""
        if not trainer.is_global_zero:
            return
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
        plan = schedule(wait=SKIPPED, warmup=WARM, active=TRACED, repeat=1)
        self.profiler = profile(activities=activities, schedule=plan, on_trace_ready=self.save)
        self.profiler.start()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Count a batch."""
        if self.profiler is not None:
            self.profiler.step()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop, also where the training was shorter."""
        if self.profiler is not None:
            self.profiler.stop()
            self.profiler = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Stop."""
        self.on_train_end(trainer, pl_module)

    def save(self, profiler: profile) -> None:
        """Write both files."""
        with replacing(self.folder / "trace.json") as temporary:
            profiler.export_chrome_trace(str(temporary))
        by = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
        with replacing(self.folder / "table.txt") as temporary:
            temporary.write_text(profiler.key_averages().table(sort_by=by, row_limit=ROWS))
