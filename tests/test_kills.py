"""Studies whose processes are killed: nothing is lost, nothing is done twice, nothing is left behind."""

import csv
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from optuna.trial import TrialState

from ablations.cli import main
from ablations.study import workers
from ablations.study.plan import plan_study
from ablations.study.queue import StudyQueue
from ablations.study.storage import storage_url
from radar.errors import InputError
from tests.command_line import fails

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes in /proc")

STUDY = """
name: killed
base: digits
heartbeat: 1
seeds: [0, 1]
config:
  model: {dim: 16, heads: 1, layers: 1}
  train: {max_steps: STEPS, batch_size: 32, warmup: 1, val_every: 20, checkpoint_every: 10}
  evaluate: {images: 40, timing_batch: 4, timing_repeats: 1, metrics: [fid]}
  sample: {images: 12}
arms:
  radial/plain: {attention: plain}
  radial/nested: {attention: nested, sample: {correction: 0.0}}
  radial/nested corrected: {attention: nested, sample: {correction: 0.5}}
"""
STEPS = 300  # long enough that ten kills come before the end
MEASURED = ("train_seconds", "evaluate_seconds", "images_per_s", "images_per_s_min", "images_per_s_max")
MEASURED += ("speedup", "speedup_min", "speedup_max")


class Command:
    """A study run by the command line in a folder of its own; its processes are found by a mark."""

    def __init__(self, folder: Path, cache: Path, steps: int, *options: str) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "killed.yaml").write_text(STUDY.replace("STEPS", str(steps)))
        self.folder, self.mark = folder, f"RADAR_TEST={folder}"
        self.options = ["--out", "out", f"data.cache={cache}", *options]

    def start(self, workers: int) -> subprocess.Popen[str]:
        code = "from ablations.cli import main; main()"
        return subprocess.Popen(
            [sys.executable, "-c", code, "ablate", "killed.yaml", "--workers", str(workers), *self.options],
            cwd=self.folder, env=os.environ | dict([self.mark.split("=")]), text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def processes(self) -> list[int]:
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if self.mark.encode() in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
        return found

    def queue(self) -> StudyQueue:
        storage = next((o.split("=", 1)[1] for o in self.options if o.startswith("--storage=")), None)
        plan = plan_study(str(self.folder / "killed.yaml"), str(self.folder / "out"), [])
        return StudyQueue.open(plan, storage_url(storage, plan))

    def rows(self) -> list[dict[str, str]]:
        with (self.folder / "out" / "results.csv").open() as file:
            return [{k: v for k, v in row.items() if k not in MEASURED} for row in csv.DictReader(file)]


def running(queue: StudyQueue) -> list[int]:
    """Process numbers of the workers that have a trial in training."""
    trials = queue.study.get_trials(states=(TrialState.RUNNING,))
    return [int(t.user_attrs["worker"].split()[-1]) for t in trials if "progress" in t.user_attrs]


def training(command: Command, process: subprocess.Popen[str], queue: StudyQueue) -> bool:
    """Whether one of its workers trains, or all is done already."""
    return process.poll() is not None or bool({*running(queue)} & {*command.processes()})


def wait_for(condition, seconds: float = 120.0, process: subprocess.Popen[str] | None = None):
    deadline, problem = time.monotonic() + seconds, None
    while time.monotonic() < deadline:
        try:
            if found := condition():
                return found
        except InputError as error:  # not there yet
            problem = error
        assert process is None or process.poll() is None, process.communicate()[0]
        time.sleep(0.2)
    raise AssertionError(f"waited in vain: {problem}")


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def postgres(tmp_path_factory) -> Iterator[str]:
    """A real server in a folder of its own."""
    if not (shutil.which("initdb") and shutil.which("pg_ctl")):
        pytest.skip("no PostgreSQL here: initdb and pg_ctl are not on the path")
    root = os.getuid() == 0
    if root and "postgres" not in {user.pw_name for user in pwd.getpwall()}:
        pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
    folder = Path(tempfile.mkdtemp(prefix="radar-"))  # sockets need a short path
    user = {"user": "postgres", "group": "postgres"} if root else {}
    if root:
        shutil.chown(folder, "postgres", "postgres")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"

    def run(*command: str) -> None:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd="/", **user)

    run("initdb", "-D", f"{folder}/data", "-U", "radar", "-A", "trust")
    run("pg_ctl", "-D", f"{folder}/data", "-o", options, "-l", f"{folder}/log", "-w", "start")
    yield f"postgresql://radar@127.0.0.1:{port}/postgres"
    run("pg_ctl", "-D", f"{folder}/data", "-m", "immediate", "stop")
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, cache) -> list[dict[str, str]]:
    """Rows of the same study by workers that are forked, in this process."""
    command = Command(tmp_path_factory.mktemp("undisturbed") / "study", cache, STEPS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(command.folder)
        patch.setattr(workers, "METHOD", "forkserver")
        main(["ablate", "killed.yaml", "--workers", "1", *command.options])
    return command.rows()


@pytest.mark.slow  # by default a training is killed (test_resume.py), and a search stopped (test_search.py)
@pytest.mark.parametrize(("kills", "shared"), [(10, False), (1, True)], ids=["sqlite", "postgresql"])
def test_a_study_killed_at_random_moments(kills, shared, tmp_path, cache, undisturbed, request):
    """All of it is killed, some times; then of three workers one is killed in mid-trial and one is stopped.

    The same table as undisturbed, nothing that was done is done again, and each trial is done once.
    """
    storage = [f"--storage={request.getfixturevalue('postgres')}"] if shared else []
    command, seen = Command(tmp_path / "study", cache, STEPS, *storage), {}
    rows = command.folder / "out" / "rows"
    for _ in range(kills):
        process = command.start(2)
        wait_for(partial(training, command, process, wait_for(command.queue)))
        time.sleep(random.uniform(0, 2))
        if process.poll() is not None:
            assert process.returncode == 0, process.communicate()[0]
            break
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        wait_for(lambda: not command.processes())
        for path in rows.glob("*.json"):
            assert seen.setdefault(path.name, path.stat().st_mtime_ns) == path.stat().st_mtime_ns
    process = command.start(3)
    queue = wait_for(command.queue)
    open_keys = len(queue.open_keys())
    enough = min(2, open_keys)  # random moments may leave less to do than there are victims
    victims = wait_for(
        lambda: (
            process.poll() is not None
            or (len(found := [one for one in running(queue) if one in command.processes()]) >= enough and found)
        )
    )
    struck = victims[:2] if isinstance(victims, list) else []
    for victim, number in zip(struck, (signal.SIGKILL, signal.SIGTERM), strict=False):
        os.kill(victim, number)
    output = process.communicate(timeout=240)[0]
    assert process.returncode == 0, output
    trials = queue.trials()
    done = Counter(trial.user_attrs["key"] for trial in trials if trial.state == TrialState.COMPLETE)
    assert done == dict.fromkeys(queue.plan.slots, 1), "each (arm, seed) is finished exactly once"
    assert not [trial for trial in trials if not trial.state.is_finished()], "no trial is left running"
    assert sum(trial.state == TrialState.FAIL for trial in trials) >= len(struck), "they were taken up again"
    for name, stamp in seen.items():
        assert (rows / name).stat().st_mtime_ns == stamp, "nothing is done again"
    assert command.rows() == undisturbed


@pytest.mark.parametrize(
    ("number", "everywhere"),
    [
        pytest.param(signal.SIGTERM, False, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, True, marks=pytest.mark.slow),
        (signal.SIGKILL, False),
    ],
)
def test_a_stopped_study_leaves_no_process_behind(number, everywhere, tmp_path, cache):
    """By a signal to its first process, or SIGTERM to all at once and twice to the first, as `timeout` sends it."""
    command = Command(tmp_path / "study", cache, 2000, f"data.workers={int(everywhere)}")  # they get it too
    process = command.start(2)
    queue = wait_for(command.queue, process=process)
    wait_for(lambda: running(queue))
    os.kill(process.pid, number)
    if everywhere:
        os.killpg(process.pid, number)
    assert process.wait(40) == (143 if number == signal.SIGTERM else -9)
    wait_for(lambda: not command.processes(), 40)
    assert not queue.study.get_trials(states=(TrialState.RUNNING,)), "stopped workers give their trials back"


def test_ctrl_c_while_workers_load(tmp_path, cache):
    """No traceback: they cannot take it yet, and the study stops them."""
    command = Command(tmp_path / "study", cache, 2000)
    process = command.start(2)
    wait_for(lambda: len(command.processes()) == 4, process=process)  # the study, two workers, and what tracks these
    time.sleep(1)
    os.killpg(process.pid, signal.SIGINT)
    output = process.communicate(timeout=40)[0]
    assert process.returncode == 130 and "Traceback" not in output, output
    assert not wait_for(command.queue).study.get_trials(states=(TrialState.RUNNING,)) and not command.processes()


def test_storage_that_cannot_be_reached(tmp_path, cache, capsys):
    (tmp_path / "killed.yaml").write_text(STUDY.replace("STEPS", "2"))
    common = ("ablate", tmp_path / "killed.yaml", "--out", tmp_path / "out", f"data.cache={cache}")
    error = fails(capsys, *common, "--storage", "postgresql://nobody:secret@127.0.0.1:1/none")
    assert "storage 127.0.0.1:1/none cannot be used:" in error and "secret" not in error
    assert "cannot be used" in fails(capsys, *common, "--storage", "nonsense")
    assert not (tmp_path / "out").exists()
