"""What a verb has computed already: kept in the user's cache, by the code, the libraries and the arguments.

So a table that depends on nothing else is there at once the second time, without loading the libraries.
"""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from radar.files import cache_folder, check_writable, replacing, replacing_folder
from radar.provenance import source_hash, versions

TEXT = "text.txt"


def remembered(verb: str, arguments: Any, compute: Callable[[Path], str]) -> Path:
    """Folder of what `compute` has written into one for these arguments, with the text that it returned (TEXT).

    Raises InputError where the cache cannot be written.
    """
    key = json.dumps([verb, arguments, source_hash(), versions()], sort_keys=True)
    path = cache_folder() / f"{verb}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    if not (path / TEXT).exists():
        check_writable(path, folder=True)
        with replacing_folder(path) as temporary:
            (temporary / TEXT).write_text(compute(temporary))
    return path


def show(folder: Path, file: str = "", out: Path | None = None) -> None:
    """Print the text, and copy one of the files to `out`."""
    print((folder / TEXT).read_text(), end="")
    if out is not None:
        with replacing(out) as temporary:
            shutil.copyfile(folder / file, temporary)
        print(out)
