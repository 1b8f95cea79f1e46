"""What a training has logged, from all of its parts."""

import csv
from collections.abc import Iterator
from pathlib import Path


def logged(run: Path) -> Iterator[dict[str, str]]:
    """Lines of the logs of all parts of a training, the oldest first."""
    for path in sorted((run / "csv").glob("version_*/metrics.csv"), key=lambda path: path.stat().st_mtime):
        with path.open() as file:
            yield from csv.DictReader(file)


def validations(run: Path, key: str) -> list[tuple[int, float]]:
    """A validated figure by optimizer step, from all parts of an interrupted training."""
    return sorted({int(line["step"]): float(line[key]) for line in logged(run) if line.get(key)}.items())


def learning_curve(run: Path) -> list[tuple[int, float]]:
    """Validation NLL by optimizer step."""
    return validations(run, "val/nll")
