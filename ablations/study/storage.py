"""Where a study is kept: SQLite in its folder, or a database that several machines share."""

import time
import warnings
from typing import Any

import optuna
import sqlalchemy

from ablations.study.plan import Plan
from radar.errors import InputError

warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
optuna.logging.set_verbosity(optuna.logging.CRITICAL)

RACES = ("already exists", "UNIQUE constraint", "duplicate key")  # another process makes the same tables just now
STORAGE_ERRORS = (
    optuna.exceptions.StorageInternalError, optuna.exceptions.UpdateFinishedTrialError, sqlalchemy.exc.DatabaseError,
)  # fmt: skip


def storage_url(storage: str | None, plan: Plan) -> str:
    """Where a study is kept: in a given database, or in SQLite in its folder."""
    if storage is None:
        return sqlalchemy.URL.create("sqlite", database=str((plan.out / "study.db").absolute())).render_as_string()
    return storage.replace("postgresql://", "postgresql+psycopg://", 1)


def open_storage(url: str, heartbeat: int, create: bool = True, again: bool = True) -> optuna.storages.RDBStorage:
    """Connect to a database, creating its tables or not; raises InputError if it cannot be used."""
    shown = url.split("@")[-1]
    try:
        storage = optuna.storages.RDBStorage(
            url,
            heartbeat_interval=heartbeat,
            grace_period=3 * heartbeat,
            skip_table_creation=not create,
            engine_kwargs={"pool_pre_ping": True},
        )
    except ImportError as error:
        raise InputError(f"storage {shown} needs its driver: pip install 'radar-ablations[postgres]'") from error
    except (sqlalchemy.exc.SQLAlchemyError, ValueError, RuntimeError) as error:
        reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        if again and any(sign in reason for sign in RACES):
            time.sleep(1)
            return open_storage(url, heartbeat, create, again=False)
        raise InputError(f"storage {shown} cannot be used: {reason}") from error
    if storage.engine.dialect.name == "sqlite":
        _serialise(storage.engine)
    return storage


def _serialise(engine: Any) -> None:
    """Let several processes write one SQLite file: by default two workers can claim the same trial."""

    def prepare(connection: Any, _: Any) -> None:
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA busy_timeout=60000")

    sqlalchemy.event.listen(engine, "connect", prepare)
    sqlalchemy.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    engine.dispose()  # what was connected before
