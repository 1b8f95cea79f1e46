"""Seconds that this process could run: what it spent stopped (SIGSTOP, Ctrl-Z) does not count."""

import threading
import time
from functools import cache

TICK = 0.1  # seconds between two looks
GAP = 0.5  # a longer pause without work is a stop
BUSY = 0.2  # share of processor time from which on a pause is work that does not let other threads run


class Clock:
    """A clock that stands still while the process is stopped: a thread would notice a pause in its ticks."""

    def __init__(self) -> None:
        self.lock, self.stopped = threading.Lock(), 0.0
        self.last = time.monotonic(), time.process_time()
        threading.Thread(target=self._tick, daemon=True).start()

    def _tick(self) -> None:
        while True:
            self.seconds()
            time.sleep(TICK)

    def seconds(self) -> float:
        """Seconds since some moment, without the stops."""
        with self.lock:
            now = time.monotonic(), time.process_time()
            gap, work = now[0] - self.last[0], now[1] - self.last[1]
            if gap > GAP and work < BUSY * gap:
                self.stopped += gap
            self.last = now
            return now[0] - self.stopped


@cache
def _clock() -> Clock:
    return Clock()


def seconds() -> float:
    """Seconds that the process could run since some moment; the first call starts the clock's thread."""
    return _clock().seconds()
