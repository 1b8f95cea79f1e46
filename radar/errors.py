"""The ways in which a run ends early on purpose; the command line prints each as one line."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn


class InputError(ValueError):
    """What the user gave cannot be used: says what is wrong, the value and the valid choices (exit code 2)."""


class DiskFull(InputError):  # noqa: N818 - named after the event
    """There is no space left for a file; nothing of it is left, and the same command goes on when there is."""


class RunError(RuntimeError):
    """Work that was started could not be finished (exit code 1)."""


class NonFiniteLoss(RunError):  # noqa: N818 - named after the event
    """Training met a loss or gradient that is NaN or infinite."""


@contextmanager
def naming(what: str) -> Iterator[None]:
    """Put what it is about in front of what is wrong with it."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{what}: {error}") from error


def stop(number: int, frame: FrameType | None) -> NoReturn:
    """Handle SIGINT or SIGTERM: end with 128 + its number, through all `finally` blocks."""
    sys.exit(128 + number)
