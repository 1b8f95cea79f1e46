"""What a verb has computed already: kept in the user's cache, by the code, the libraries and the arguments.

So a table that depends on nothing else is there at once the second time, without loading the libraries.
"""

import atexit
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from radar.errors import DiskFull
from radar.files import cache_folder, replacing, replacing_folder
from radar.provenance import source_hash, versions

TEXT = "text.txt"


def remembered(verb: str, arguments: Any, compute: Callable[[Path], str], file: str = "") -> Path:
    """Folder of what `compute` has written into one for these arguments, with the text that it returned (TEXT).

    A damaged one is computed again; where the cache cannot be used, so is everything.
    """
    key = json.dumps([verb, arguments, source_hash(), versions()], sort_keys=True)
    name = f"{verb}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    try:
        path = cache_folder() / name
        if not _is_whole(path, file):
            shutil.rmtree(path, ignore_errors=True)
            with replacing_folder(path) as temporary:
                (temporary / TEXT).write_text(compute(temporary))
        if _is_whole(path, file):
            return path
    except (OSError, RuntimeError, DiskFull):  # RuntimeError: no home
        pass
    path = Path(tempfile.mkdtemp(prefix="radar-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    (path / TEXT).write_text(compute(path))
    return path


def _is_whole(folder: Path, file: str) -> bool:
    return all((folder / name).is_file() and (folder / name).stat().st_size for name in (TEXT, file or TEXT))


def show(folder: Path, file: str = "", out: Path | None = None) -> None:
    """Print the text, and copy one of the files to `out`."""
    print((folder / TEXT).read_text(), end="")
    if out is not None:
        with replacing(out) as temporary:
            shutil.copyfile(folder / file, temporary)
        print(out)
