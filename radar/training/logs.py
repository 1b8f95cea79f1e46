"""What a training has logged, from all of its parts."""

import csv
from collections.abc import Iterator
from pathlib import Path

LAST = "last.ckpt"  # the newest checkpoint of a run's folder


def logged(run: Path) -> Iterator[dict[str, str]]:
    """Lines of the logs of all parts of a training, the oldest first."""
    for path in sorted((run / "csv").glob("version_*/metrics.csv"), key=lambda path: path.stat().st_mtime):
        with path.open() as file:
            yield from csv.DictReader(file)


def validations(run: Path, key: str) -> list[tuple[int, float]]:
    """A validated figure by optimizer step, from all parts of an interrupted training."""
    return sorted({int(line["step"]): float(line[key]) for line in logged(run) if line.get(key)}.items())


def validation_table(run: Path) -> dict[str, list[float | None]]:
    """All validated figures, a column each beside the optimizer step; nothing where there are none."""
    rows: dict[int, dict[str, float]] = {}
    for line in logged(run):
        found = {key: float(value) for key, value in line.items() if key.startswith("val/") and value}
        if found:
            rows.setdefault(int(line["step"]), {}).update(found)
    names = sorted({name for row in rows.values() for name in row})
    steps: list[float | None] = [float(step) for step in sorted(rows)]
    return {"step": steps} | {name: [rows[step].get(name) for step in sorted(rows)] for name in names} if rows else {}


def learning_curve(run: Path) -> list[tuple[int, float]]:
    """Validation NLL by optimizer step."""
    return validations(run, "val/nll")
