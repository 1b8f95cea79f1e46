"""Where a training is logged. To add a place: a function from run folder to a Lightning logger, a line in LOGGERS.

The CSV files are always there: curves are read from them.
"""

import os
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image

from radar.config.load import flatten, to_dict
from radar.config.lookup import choose
from radar.config.options import Config
from radar.errors import InputError
from radar.files import replacing
from radar.sheets import Pixels
from radar.training.devices import is_first
from radar.training.logs import LAST

PROJECT = "radar-ablations"
TAG = "radar_run"  # by which a training finds its run again
NAMED = ".log-id"  # the file of a run's folder that holds its name
ShowImage = Callable[[Any, str, Pixels, int], None]  # logger, name, pixels (H, W, 3), optimizer step
Table = dict[str, list[float | None]]  # columns by name
ShowTable = Callable[[Any, str, Table], None]  # logger, name, table


class Place(NamedTuple):
    """A kind of logger.

    Attributes:
        open: the logger of a run folder.
        package: that it needs.
        told: whether the options are logged as well, where nothing else of the run folder is there to read.
    """

    open: Callable[[Path], Logger]
    package: str
    told: bool = True


def name_training(run: Path) -> None:
    """Draw a name for a training that begins; one that goes on from its checkpoint keeps its own."""
    path = run / NAMED
    if not (path.exists() and (run / LAST).exists()):
        with replacing(path) as temporary:
            temporary.write_text(uuid.uuid4().hex)


def identity(run: Path) -> str:
    """Name of a training wherever it is logged: one that goes on is the same run there."""
    return (run / NAMED).read_text()


class TrackioLogger(Logger):
    """Figures and images through trackio, which keeps them on this machine unless told otherwise."""

    def __init__(self, run: Path) -> None:
        super().__init__()
        self.run, self._options = run, dict[str, Any]()
        self._opened: Any = None

    @property
    def name(self) -> str:
        """The project."""
        return PROJECT

    @property
    def version(self) -> str:
        """The run."""
        return str(self.run)

    @property
    def experiment(self) -> Any:
        """Opened at the first figure."""
        import trackio

        if self._opened is None:
            own: dict[str, Any] = {
                "name": f"{self.run} {identity(self.run)[:6]}",
                "config": self._options,
                "resume": "allow",
            }
            self._opened = trackio.init(PROJECT, **own, embed=False)
        return self._opened

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Keep the options for the opening."""
        self._options = dict(params)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log figures of an optimizer step."""
        self.experiment.log(dict(metrics), step=step)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """End the run."""
        if self._opened is not None:
            self._opened.finish()
            self._opened = None


def _tensorboard_image(logger: TensorBoardLogger, name: str, pixels: Pixels, step: int) -> None:
    logger.experiment.add_image(name, np.asarray(pixels), step, dataformats="HWC")


def _wandb_image(logger: WandbLogger, name: str, pixels: Pixels, step: int) -> None:
    logger.log_image(name, [Image.fromarray(np.asarray(pixels))], step)


def _mlflow_image(logger: MLFlowLogger, name: str, pixels: Pixels, step: int) -> None:
    image = Image.fromarray(np.asarray(pixels))
    logger.experiment.log_image(logger.run_id, image, f"{name}-{step}.png")


def _trackio_image(logger: TrackioLogger, name: str, pixels: Pixels, step: int) -> None:
    import trackio

    logger.experiment.log({name: trackio.Image(np.asarray(pixels))}, step=step)


def _tensorboard_table(logger: TensorBoardLogger, name: str, table: Table) -> None:
    lines = [list(table), ["---"] * len(table), *zip(*table.values(), strict=True)]
    text = "\n".join(f"| {' | '.join('' if cell is None else str(cell) for cell in line)} |" for line in lines)
    logger.experiment.add_text(name, text)


def _wandb_table(logger: WandbLogger, name: str, table: Table) -> None:
    logger.log_table(name, list(table), [list(row) for row in zip(*table.values(), strict=True)])


def _mlflow_table(logger: MLFlowLogger, name: str, table: Table) -> None:
    logger.experiment.log_table(logger.run_id, table, f"{name}.json")


def _trackio_table(logger: TrackioLogger, name: str, table: Table) -> None:
    import trackio

    rows = [list(row) for row in zip(*table.values(), strict=True)]
    logger.experiment.log({name: trackio.Table(columns=list(table), data=rows)})


def _csv(run: Path) -> Logger:
    return CSVLogger(run, "csv", flush_logs_every_n_steps=1)


def _tensorboard(run: Path) -> Logger:
    return TensorBoardLogger(run, "tensorboard")


class FinishedWandbLogger(WandbLogger):
    """Ends the run with the training: the next one of a process has its own."""

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write what is left."""
        super().finalize(status)
        if self._experiment is not None:
            self._experiment.finish()
            self._experiment = None


def _wandb(run: Path) -> Logger:
    return FinishedWandbLogger(project=PROJECT, name=str(run), save_dir=run, id=identity(run), resume="allow")


class ResumedMLFlowLogger(MLFlowLogger):
    """Goes on with a run, whose options cannot be written anew."""

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Leave them as they are."""


def _mlflow(run: Path) -> Logger:
    place = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{run.resolve()}/mlflow.db"
    run.mkdir(parents=True, exist_ok=True)
    files = None if os.environ.get("MLFLOW_TRACKING_URI") else (run.resolve() / "mlflow").as_uri()
    tags = {TAG: identity(run)}
    known = _logged(place, tags)
    return (ResumedMLFlowLogger if known else MLFlowLogger)(
        PROJECT, run_name=str(run), tracking_uri=place, artifact_location=files, tags=tags, run_id=known
    )


def _logged(place: str, tags: Mapping[str, str]) -> str | None:
    """The run with these tags, if there is one."""
    from mlflow import MlflowClient

    client = MlflowClient(place)
    experiments = client.search_experiments(filter_string=f"name = '{PROJECT}'")
    wanted = " and ".join(f"tags.{name} = '{value}'" for name, value in tags.items())
    found = client.search_runs([one.experiment_id for one in experiments], wanted, max_results=1) if experiments else []
    return str(found[0].info.run_id) if found else None


LOGGERS = {
    "csv": Place(_csv, "lightning", told=False),
    "tensorboard": Place(_tensorboard, "tensorboard", told=False),
    "wandb": Place(_wandb, "wandb"),
    "mlflow": Place(_mlflow, "mlflow"),
    "trackio": Place(TrackioLogger, "trackio"),
}


def check_loggers(names: Sequence[str]) -> None:
    """Raise InputError for an unknown one, one whose package is missing, and where csv is left out."""
    for name in names:
        place = choose("logger", name, LOGGERS)
        if find_spec(place.package) is None:
            raise InputError(f"train.loggers={name} needs {place.package}: pip install 'radar-ablations[loggers]'")
    if "csv" not in names or len(set(names)) < len(names):
        raise InputError(f"train.loggers={list(names)} is not possible: csv among them, and none twice, expected")


def open_loggers(config: Config) -> list[Logger]:
    """Loggers of a training, with its options; of several processes the first has all of them."""
    run, found = Path(config.run), []
    if is_first(config.train):
        name_training(run)
    for name in config.train.loggers:
        place = LOGGERS[name]
        if place.told and not is_first(config.train):
            continue  # one process speaks to it
        found.append(logger := place.open(run))
        if place.told:
            logger.log_hyperparams(flatten(to_dict(config)))
    return found


SHOWN: dict[type[Logger], tuple[ShowImage, ShowTable]] = {
    TensorBoardLogger: (_tensorboard_image, _tensorboard_table),
    WandbLogger: (_wandb_image, _wandb_table),
    MLFlowLogger: (_mlflow_image, _mlflow_table),
    TrackioLogger: (_trackio_image, _trackio_table),
}


def can_show(loggers: Iterable[Any]) -> bool:
    """Whether one of them shows images."""
    return any(isinstance(logger, tuple(SHOWN)) for logger in loggers)


@rank_zero_only
def show_image(loggers: Iterable[Any], name: str, pixels: Pixels, step: int) -> None:
    """Log an image (H, W, 3) uint8 wherever that is possible."""
    for logger in loggers:
        for kind, (show, _) in SHOWN.items():
            if isinstance(logger, kind):
                show(logger, name, pixels, step)


@rank_zero_only
def show_table(loggers: Iterable[Any], name: str, table: Table) -> None:
    """Log a table wherever that is possible."""
    for logger in loggers:
        for kind, (_, show) in SHOWN.items():
            if isinstance(logger, kind) and table:
                show(logger, name, table)
