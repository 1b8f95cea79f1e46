"""A full disk: one line that says what could not be written, nothing half-written, and the same command goes on."""

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from ablations.cli import explain, main
from radar.data.token_arrays import _reserved
from radar.errors import DiskFull
from radar.files import is_full, remove_unfinished, replacing, replacing_folder
from radar.training.callbacks import AtomicCheckpointIO
from tests.command_line import fails
from tests.test_studies import STUDY, quick_workers

__all__ = ["quick_workers"]  # a fixture

FULL = OSError(errno.ENOSPC, "No space left on device")


def test_what_is_a_full_disk():
    assert is_full(FULL) and is_full(OSError(errno.EDQUOT, "")) and is_full(DiskFull(""))
    assert is_full(RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 60352 vs 60240"))
    assert is_full(RuntimeError("(sqlite3.OperationalError) database or disk is full"))
    wrapped = RuntimeError("training failed")
    wrapped.__cause__ = FULL
    assert is_full(wrapped) and not is_full(OSError(errno.EACCES, "")) and not is_full(None)
    message, code = explain(FULL)
    assert message == "cannot write a file: no space left" and code == 2


@pytest.mark.parametrize("failure", [FULL, RuntimeError("PytorchStreamWriter failed writing file data/0")])
def test_nothing_is_left_behind(failure, tmp_path, monkeypatch):
    def write(checkpoint, path):
        Path(path).write_bytes(b"half")
        raise failure

    monkeypatch.setattr(torch, "save", write)
    (tmp_path / "last.ckpt").write_text("old")
    with pytest.raises(DiskFull, match=r"cannot write .*last\.ckpt: no space left"):
        AtomicCheckpointIO().save_checkpoint({}, tmp_path / "last.ckpt")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]
    with pytest.raises(DiskFull, match=r"cannot write .*tokens: no space left"), replacing_folder(tmp_path / "tokens"):
        raise failure
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "x"):
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


def test_what_a_killed_process_has_left_is_deleted(tmp_path):
    with replacing(tmp_path / "last.ckpt") as temporary:
        temporary.touch()
        (tmp_path / temporary.name.replace(".last", ".best")).touch()
        (tmp_path / f"{temporary.name}.copy").touch()
        remove_unfinished(tmp_path / "last.ckpt")
        assert not temporary.exists() and len(list(tmp_path.iterdir())) == 2
        temporary.touch()


def test_space_is_reserved_before_it_is_mapped(tmp_path, monkeypatch):
    array = _reserved(tmp_path / "x.npy", np.dtype(np.uint16), (1000, 500))
    size = (tmp_path / "x.npy").stat()
    assert size.st_blocks * 512 >= size.st_size > 2 * array.size
    array[:] = 7
    array.flush()
    assert (np.load(tmp_path / "x.npy") == 7).all() and len(_reserved(tmp_path / "y.npy", np.dtype(int), (0, 5))) == 0

    def full(*args: object) -> None:
        raise FULL

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        _reserved(tmp_path / "z.npy", np.dtype(int), (9, 9))


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A disk of its own; only root may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.getuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder]).returncode:
        pytest.skip("no small disk here: mounting one takes root")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)  # this process may have files open


def fill(folder: Path, leave: int) -> Path:
    """Take all but some bytes of a disk."""
    free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
    (folder / "ballast").write_bytes(b"\0" * (free - leave))
    return folder / "ballast"


def test_a_training_on_a_full_disk_goes_on_when_there_is_space(small_disk, capsys):
    options = [
        "train",
        "digits",
        f"run={small_disk / 'run'}",
        f"data.cache={small_disk / 'cache'}",
        "train.max_steps=4",
    ]
    options += ["train.batch_size=4", "train.checkpoint_every=2", "model.dim=64"]
    ballast = fill(small_disk, 40_000)
    error = fails(capsys, *options)
    assert error.startswith("radar: cannot write") and error.endswith("no space left"), error
    assert not list(small_disk.glob("cache/tokens-*"))
    ballast.unlink()
    ballast = fill(small_disk, 700_000)  # the tokens fit, a checkpoint does not
    assert fails(capsys, *options) == f"radar: cannot write {small_disk / 'run' / 'last.ckpt'}: no space left"
    assert not list((small_disk / "run").glob("*.ckpt*"))
    ballast.unlink()
    main([*options, "model.dim=16"])


@pytest.mark.slow
def test_a_study_on_a_full_disk_stays_open(small_disk, tmp_path, capsys):
    """Its trainings lie on the full disk, its queue in a database elsewhere."""
    text = STUDY.replace("[0, 1]", "[0]").replace("dim: 16", "dim: 128")
    (tmp_path / "tiny.yaml").write_text(text[: text.index("  radial/nested corrected")])
    command = ["ablate", str(tmp_path / "tiny.yaml"), "--out", str(small_disk / "out"), "--workers", "1"]
    command += [f"--storage=sqlite:///{tmp_path / 'queue.db'}", f"data.cache={tmp_path / 'cache'}"]
    ballast = fill(small_disk, 200_000)
    assert "last.ckpt: no space left" in fails(capsys, *command)
    ballast.unlink()
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    main(command)
    assert "report.html" in capsys.readouterr().out
    assert len(list((small_disk / "out" / "rows").glob("*.json"))) == 2
