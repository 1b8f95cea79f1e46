"""Files that are whole or absent: written under a temporary name beside the target, flushed, then renamed."""

import fcntl
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from radar.errors import InputError


def check_writable(path: Path, folder: bool) -> None:
    """Fail before the work and not after it, where a file or folder could not be made; raises InputError."""
    there = next(parent for parent in [path, *path.absolute().parents] if parent.exists())
    if (folder or there != path) and not there.is_dir():
        raise InputError(f"{path} cannot be written: {there} is no folder")
    if not folder and path.is_dir():
        raise InputError(f"{path} cannot be written: it is a folder, and a file is to be there")
    if not os.access(there if there.is_dir() else there.parent, os.W_OK):
        raise InputError(f"{path} cannot be written: no permission for {there}")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary file name beside `path`; on success it replaces `path`, on any exception it is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder beside `path`; on success it becomes `path` unless another process was faster."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield temporary
        try:
            temporary.rename(path)
        except OSError:
            if not path.exists():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait for, then hold, a lock among the processes of this machine; the system releases it if this one dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
