"""Work in numbered parts, each a file, that any number of processes make together; what is there is not made again.

A part is made by whoever holds its lock, which the system releases if its holder dies: so nobody waits for the dead,
and a work that is killed loses no more than the parts in hand.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from radar.files import replacing
from radar.progress import Bar

WAIT = 0.2  # seconds between two looks at what others make


def make_together(
    paths: Sequence[Path],
    make: Callable[[int, Path], None],
    used: Callable[[], bool],
    title: str,
    each: int,
    unit: str = " images",
) -> None:
    """Make those of the files `paths`, of one folder, that are missing; return when all are there, whoever made them.

    Args:
        make: writes part `number` to a temporary path.
        used: whether another process has used all of them already, and taken them away.
        title, each, unit: for the bar, which counts `each` units per part.
    """
    if paths:
        paths[0].parent.mkdir(parents=True, exist_ok=True)
    missing = [number for number, path in enumerate(paths) if not path.exists()]
    total, there = len(paths) * each, (len(paths) - len(missing)) * each
    with Bar(total=total, initial=there, desc=title, unit=unit) as bar:
        while missing and not used():
            made = 0
            for number in missing:
                if not used() and _make_alone(paths[number], number, make):
                    made += 1
                    bar.update(each)
            if not made:
                time.sleep(WAIT)
            left = [number for number in missing if not paths[number].exists()]
            bar.update((len(missing) - len(left) - made) * each)
            missing = left


def _make_alone(path: Path, number: int, make: Callable[[int, Path], None]) -> bool:
    """Make a part if it is missing and nobody else makes it now."""
    if path.exists():
        return False
    lock = FileLock(path.with_suffix(".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    try:
        if path.exists():
            return False
        with replacing(path) as temporary:
            make(number, temporary)
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)  # who opened it before sees that the part is there
        lock.release()
        with suppress(OSError):  # a folder that holds nothing yet
            path.parent.rmdir()
    return True
