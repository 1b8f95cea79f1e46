"""Time in which a process was stopped does not count."""

import os
import signal
import subprocess
import sys
import time

SCRIPT = """
import sys, time
from radar import clock
began, wall = clock.seconds(), time.monotonic()
print("ready", flush=True)
deadline = time.process_time() + 1.0
while time.process_time() < deadline:
    pass
print(clock.seconds() - began, time.monotonic() - wall)
"""


def test_a_stopped_process_has_spent_no_time():
    with subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        os.kill(process.pid, signal.SIGSTOP)
        time.sleep(3)
        os.kill(process.pid, signal.SIGCONT)
        counted, wall = map(float, process.stdout.readline().split())
    assert wall - counted > 2.5, "the stop is left out"
    assert counted > 0.9, "and the work is not"
