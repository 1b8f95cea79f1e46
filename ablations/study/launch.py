"""Starts a worker quickly. Must import nothing heavy: it is loaded before garbage collection is off."""

import gc
import pickle
from typing import Any


def launch(pickled: bytes) -> None:
    """Call what `dumped` wrote, its modules imported without collecting garbage: there is none, and that takes long."""
    gc.disable()
    target, arguments = pickle.loads(pickled)
    gc.freeze()
    gc.enable()
    target(*arguments)


def dumped(target: Any, *arguments: Any) -> bytes:
    """Write a call for `launch`."""
    return pickle.dumps((target, arguments))
