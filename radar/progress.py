"""Bars of progress: tqdm's on a terminal, a line a minute in logs and pipes."""

import sys
from typing import Any

from lightning_utilities.core.rank_zero import rank_zero_only  # the same, without all of Lightning
from tqdm import tqdm

EVERY = 60.0  # seconds between two lines


class Bar(tqdm):  # type: ignore[type-arg]
    """tqdm, which shows nothing where there is no terminal: lines there, of the first of several processes."""

    def __init__(self, *args: Any, **options: Any) -> None:
        if not sys.stderr.isatty():
            lines = {"file": _Lines(), "mininterval": EVERY, "maxinterval": EVERY, "delay": EVERY, "position": 0}
            form = "{desc}: {n_fmt} of {total_fmt}{unit}, {rate_fmt}, {remaining} left"
            options |= {**lines, "bar_format": form, "disable": getattr(rank_zero_only, "rank", 0) != 0}
        super().__init__(*args, leave=False, **options)  # type: ignore[call-overload]


class _Lines:
    """A file for tqdm: prints what it would draw over and over as lines."""

    encoding = "utf-8"

    def write(self, text: str) -> None:
        """Print a line, but no blanks that clear one."""
        if line := text.strip("\r\n "):
            print(line, flush=True)

    def flush(self) -> None:
        """Nothing is held back."""
