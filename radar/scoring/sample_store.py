"""Samples on disk, in parts that any number of processes and devices draw together; what is there survives a kill."""

import hashlib
import json
import shutil
import time
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_only

from radar.config.load import to_dict
from radar.config.options import Config
from radar.config.sampling import SampleConfig
from radar.config.training import TrainConfig
from radar.errors import InputError
from radar.files import DAMAGED, locked_or_refused, replacing
from radar.provenance import weights_hash
from radar.scoring.npz import write_rows
from radar.scoring.samples import Samples, drawing, joined
from radar.together import WAIT, make_together
from radar.tokenizers import tokenizer_hash
from radar.training.checkpoints import Generator, configured, load_generator
from radar.training.devices import is_first, launch_name, must_launch, on_devices

PART = 256  # images of a part, at least
SHOWN = 1000  # samples that pictures choose from


@dataclass(frozen=True)
class SampleStore:
    """So many images, in files of `part` images each.

    Attributes:
        others: processes that a launcher has started beside this one, and that draw along.
        launch: name of that start: what a killed one has left behind says nothing about this one.
    """

    folder: Path
    images: int
    part: int
    others: int = 0
    launch: str = ""

    @cached_property
    def paths(self) -> list[Path]:
        """Files of the parts."""
        return [self.folder / f"{number:06d}.npz" for number in range(-(-self.images // self.part))]

    def numbers(self, part: int) -> range:
        """Numbers of the images of a part."""
        return range(part * self.part, min(self.images, (part + 1) * self.part))

    def __iter__(self) -> Iterator[Samples]:
        for path in self.paths:
            try:
                with np.load(path) as file:
                    yield Samples(*(torch.from_numpy(file[name]) for name in ("images", "tokens", "labels")))
            except DAMAGED as error:
                raise InputError(f"samples {path} are damaged; delete them ({type(error).__name__})") from error

    def first(self, count: int = SHOWN) -> Samples:
        """The first images, `count` or a few more, in memory."""
        parts: list[Samples] = []
        for part in self:
            parts.append(part)
            if sum(len(each.images) for each in parts) >= count:
                break
        return joined(parts)

    def come(self, rank: int) -> None:
        """Take back what this process has said in a start of the same name that was killed."""
        self._left(rank).unlink(missing_ok=True)

    def leave(self, rank: int) -> None:
        """Tell the first process that this one needs them no more."""
        self._left(rank).touch()

    def _left(self, rank: int) -> Path:
        return self.folder / f"left-{self.launch}-{rank}"

    def gone(self) -> int:
        """How many of the other processes have left."""
        return len(list(self.folder.glob(f"left-{self.launch}-*")))

    def remove(self) -> None:
        """Delete all files, when the other processes have left."""
        while self.gone() < self.others:
            time.sleep(WAIT)
        shutil.rmtree(self.folder, ignore_errors=True)


def alone_in(folder: Path, train: TrainConfig) -> AbstractContextManager[None]:
    """Hold the folder that samples and scores are written to; of several devices' processes the first does.

    Raises InputError where another command writes there: a launcher must then end the other processes.
    """
    return locked_or_refused(folder / ".samples.lock", f"--out {folder}") if is_first(train) else nullcontext()


def draw_store(generator: Generator, settings: SampleConfig, labels: str, folder: Path) -> SampleStore:
    """Draw `settings.images` images with labels by a rule, in parts below `folder`, on all of `train.devices`.

    Parts that are there already, of the same weights and options, are not drawn again. Where a launcher has started
    the processes of several devices, each returns when all parts are there.
    """
    part = settings.batch_size * -(-PART // settings.batch_size)
    config, starts = replace(generator.config, sample=settings), must_launch(generator.config.train)
    others = 0 if starts else config.train.devices * config.train.nodes - 1
    name = f".samples-{identity(generator, settings, labels, part)}"
    store = SampleStore(folder / name, settings.images, part, others, launch_name())
    rank = getattr(rank_zero_only, "rank", 0)
    store.come(rank)
    if starts:
        on_devices(config.train.devices, _draw_here, generator.path, generator.overrides, config, labels, store)
    else:
        fill(store, replace(generator, config=config), labels)
    if not is_first(config.train):
        store.leave(rank)
    return store


def fill(store: SampleStore, generator: Generator, labels: str) -> None:
    """Draw what is missing, together with all processes that do the same."""
    with drawing(generator, generator.config.sample, labels) as draw:

        def make(number: int, path: Path) -> None:
            samples = draw(store.numbers(number))
            with path.open("wb") as file:
                np.savez(file, **{name: value.numpy() for name, value in vars(samples).items()})

        make_together(store.paths, make, _never, "sample", min(store.part, store.images))


def _never() -> bool:
    """They are removed when nobody draws any more."""
    return False


def _draw_here(path: str, overrides: Sequence[str], config: Config, labels: str, store: SampleStore) -> None:
    """Draw on the device of this process."""
    must_launch(config.train)  # takes the device
    fill(store, configured(load_generator(path, list(overrides)), config), labels)


def identity(generator: Generator, settings: SampleConfig, labels: str, part: int) -> str:
    """Name all that the images depend on by hex digits."""
    said = {
        "sample": to_dict(replace(settings, batch_size=0)),
        "labels": labels,
        "weights": weights_hash(generator.module.model),
        "order": generator.module.order.sampled_digest(settings),
        "tokenizer": tokenizer_hash(generator.tokenizer),
        "data": generator.data.identity,
        "part": part,
    }
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:12]


def save_npz(store: SampleStore, path: Path) -> None:
    """Write the ADM format: arr_0 images (B, H, W, 3) uint8, arr_1 labels (B,); a part at a time is in memory."""
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        write_rows(archive, "arr_0", (part.images.permute(0, 2, 3, 1).numpy() for part in store), store.images)
        write_rows(archive, "arr_1", (part.labels.numpy() for part in store), store.images)
