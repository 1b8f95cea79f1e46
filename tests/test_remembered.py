"""Tables that are remembered: the same as when they are computed, whatever has become of the cache."""

import os
from pathlib import Path

import pytest

from ablations.cli import main
from experiments import orders

ARGUMENTS = ["orders", "--grid", "3x3", "--out"]


@pytest.fixture
def printed(tmp_path, monkeypatch, capsys):
    """Run `radar orders` with a cache of its own; its table, its picture, and whether it was computed."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    computed, compute = [], orders.compute
    monkeypatch.setattr(orders, "compute", lambda *given: computed.append(given) or compute(*given))

    def run() -> tuple[str, bytes, bool]:
        computed.clear()
        main([*ARGUMENTS, str(tmp_path / "orders.png")])
        return capsys.readouterr().out, (tmp_path / "orders.png").read_bytes(), bool(computed)

    return run


def test_the_second_time_nothing_is_computed(printed):
    (text, picture, first), (again, same, second) = printed(), printed()
    assert first and not second and (again, same) == (text, picture)


@pytest.mark.parametrize(
    ("file", "damage"), [("text.txt", lambda path: path.write_bytes(b"")), ("orders.png", Path.unlink)]
)
def test_what_is_damaged_is_computed_again(printed, tmp_path, file, damage):
    whole = printed()
    (path,) = tmp_path.glob(f"cache/radar-ablations/orders-*/{file}")
    damage(path)
    assert printed() == whole and printed() == (*whole[:2], False), "and then it is whole"


def test_without_a_cache(printed, tmp_path, monkeypatch):
    whole = printed()
    monkeypatch.setenv("XDG_CACHE_HOME", os.devnull)
    assert printed() == whole
