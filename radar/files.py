"""Files that are whole or absent: written under a temporary name, flushed, then renamed; locks between processes."""

import errno
import os
import shutil
import uuid
import zipfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from radar.errors import DiskFull, InputError

OF_TORCH = ("PytorchStreamWriter", "inline_container", "iostream error")  # how torch.save says it
DAMAGED = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)  # what reading a damaged array may raise
PATIENCE = 10.0  # seconds for a lock to become free
OF_SQLITE = "disk is full"
NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # no space on the disk, in a quota, or in the size of a file


def check_writable(path: Path, folder: bool) -> None:
    """Fail before the work and not after it, where a file or folder could not be made; raises InputError."""
    there = next(parent for parent in [path, *path.absolute().parents] if parent.exists())
    if (folder or there != path) and not there.is_dir():
        raise InputError(f"{path} cannot be written: {there} is no folder")
    if not folder and path.is_dir():
        raise InputError(f"{path} cannot be written: it is a folder, and a file is to be there")
    if not os.access(there if there.is_dir() else there.parent, os.W_OK):
        raise InputError(f"{path} cannot be written: no permission for {there}")


def is_full(error: BaseException | None) -> bool:
    """Whether an exception, or what it comes from, says that a disk has no space left."""
    if error is None:
        return False
    if isinstance(error, DiskFull) or (isinstance(error, OSError) and error.errno in FULL):
        return True
    signs = OF_TORCH if isinstance(error, RuntimeError) else ()
    return any(sign in str(error) for sign in (*signs, OF_SQLITE)) or is_full(error.__cause__)


def cache_folder() -> Path:
    """Folder of what is computed once per user and machine; made, for nobody else: what lies there is run and shown.

    Raises RuntimeError where there is no home folder.
    """
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "radar-ablations"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


@contextmanager
def kept_where_possible() -> Iterator[None]:
    """Do without keeping something where nothing may be written: a cache that is only read."""
    try:
        yield
    except OSError as error:
        if error.errno not in NOT_WRITABLE:
            raise


@contextmanager
def naming_full_disk(path: Path) -> Iterator[None]:
    """Say in one line that there is no space left for `path`; raises DiskFull."""
    try:
        yield
    except Exception as error:
        if is_full(error) and not isinstance(error, DiskFull):
            raise DiskFull(f"cannot write {path}: no space left") from error
        raise


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary file name beside `path`; on success it replaces `path`, on any exception it is removed.

    Raises DiskFull where there is no space left.
    """
    temporary = path.with_name(
        f".{path.name}.{uuid.uuid4().hex}{path.suffix}"
    )  # also where hosts share a name and process numbers
    try:
        with naming_full_disk(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_unfinished(path: Path) -> None:
    """Delete what a process that was killed has left of writing `path`: for who alone may write it."""
    for temporary in path.parent.glob(f".{path.name}.*{path.suffix}"):
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder beside `path`; on success it becomes `path` unless another process was faster.

    Raises DiskFull where there is no space left.
    """
    with naming_full_disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
        temporary.mkdir()
        try:
            yield temporary
            try:
                temporary.rename(path)
            except OSError:
                if not path.exists():
                    raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def locked(path: Path) -> AbstractContextManager[object]:
    """Wait for, then hold, a lock among the processes of this machine; the system releases it if this one dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path, poll_interval=0.5)


@contextmanager
def locked_where_possible(path: Path) -> Iterator[None]:
    """As `locked`, but without a lock where nothing may be written."""
    with ExitStack() as stack:
        with kept_where_possible():
            stack.enter_context(locked(path))
        yield


@contextmanager
def locked_or_refused(path: Path, what: str) -> Iterator[None]:
    """Hold a lock among the processes of this machine; raises InputError where `what` is in use.

    Waits a little: what loads batches for a process that was killed holds it until it notices.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=PATIENCE)
    except Timeout as error:
        raise InputError(f"{what} is in use by another process; wait for it, or choose another") from error
    try:
        yield
    finally:
        lock.release()
