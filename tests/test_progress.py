"""Lines of progress: when they come, and what they say."""

import itertools
import sys
from types import SimpleNamespace

import pytest
import torch

from radar import progress
from radar.parts import Part
from radar.progress import Bar
from radar.training import callbacks
from radar.training.callbacks import PlainProgress


def lines(capsys, monkeypatch, total: int, seconds: float, parts: int = 1, images: tuple[int, ...] = (4,)) -> list[str]:
    """What is printed of a training whose steps take so many seconds; the loss of step n is n for every image."""
    now, printer = [0.0], PlainProgress("train")
    monkeypatch.setattr(callbacks.time, "monotonic", lambda: now[0])
    trainer = SimpleNamespace(is_global_zero=True, global_step=0, max_steps=total, accumulate_grad_batches=parts)
    printer.on_train_start(trainer, None)
    for step in range(total):
        for number, count in enumerate(images):
            last = number == len(images) - 1
            place = Part(0, count, 10, 2 * parts, last)
            now[0] += seconds / parts
            trainer.global_step = step + last
            outputs = {"loss": torch.tensor((step + 1.0) * place.weight / parts)}
            printer.on_train_batch_end(trainer, None, outputs, SimpleNamespace(place=place), 0)
    return capsys.readouterr().out.splitlines()


def test_a_line_per_tenth(capsys, monkeypatch):
    found = lines(capsys, monkeypatch, 50, 0.1)
    assert found[0] == "train: step 0/50"
    assert [line.split(",")[0] for line in found[1:]] == [f"train: step {n}/50" for n in range(5, 51, 5)]
    assert found[1].endswith(", 4 s left") and found[-1].endswith(", 0 s left")


def test_lines_where_a_tenth_takes_hours(capsys, monkeypatch):
    found = lines(capsys, monkeypatch, 3000, 10.0)
    steps = [int(line.split()[2].split("/")[0]) for line in found]
    assert steps[:5] == [0, 4, 11, 24, 49], "after more than 30, 60, 120, 240 seconds"
    assert max(b - a for a, b in itertools.pairwise(steps)) <= 300 and steps[-1] == 3000


@pytest.mark.parametrize(("parts", "images"), [(1, (5,)), (1, (4,)), (2, (3, 1)), (3, (2, 2, 1))])
def test_the_loss_is_a_mean_over_images(parts, images, capsys, monkeypatch):
    """Also where devices and parts of a step have unequal shares."""
    found = lines(capsys, monkeypatch, 20, 40.0, parts, images)[1:]
    assert found and all(
        f"step {n}/20, loss {n}.000," in line for line in found for n in [line.split()[2].split("/")[0]]
    )


def test_where_there_is_no_terminal_a_line_comes_every_minute(capsys, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    with Bar(total=1, desc="another one, that is open"):
        for _ in Bar(range(20), "encode", unit=" images"):
            now[0] += 25.0
    found = capsys.readouterr().out.splitlines()
    assert [line.split(" of ")[0] for line in found] == [f"encode: {n}" for n in (3, 6, 9, 12, 15, 18)]
    assert all(" of 20 images, 25.00s/ images, " in line and line.endswith(" left") for line in found)
    with Bar(total=8, desc="encode") as bar:
        now[0] += 59.0
        bar.update(8)
    assert not capsys.readouterr().out, "what is done within a minute says nothing"


def test_the_first_of_several_processes_prints(capsys, monkeypatch):
    monkeypatch.setattr(progress, "EVERY", 0.0)
    monkeypatch.setattr(progress.rank_zero_only, "rank", 1, raising=False)
    assert list(Bar(range(3), "encode")) == [0, 1, 2] and not capsys.readouterr().out


def test_a_terminal_has_a_bar(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert list(Bar(range(3), "encode")) == [0, 1, 2]
    found = capsys.readouterr()
    assert not found.out and "encode:" in found.err
