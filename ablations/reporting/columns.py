"""The columns of a study's tables: how the figures of an arm are written, by mean and 95% interval over seeds.

To add one: a line in COLUMNS, and what it means in radar/scoring/row.py.
"""

from collections.abc import Sequence
from math import inf
from typing import NamedTuple

from ablations.reporting.statistics import by_arm, interval
from radar.decoding.groups import sizes_text
from radar.scoring.row import Row


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        key, title, digits: name in the rows, and how it is shown.
        featured: whether its figure depends on the feature network.
        low, high: what it cannot be below or above.
        listed: whether its values are a choice, which is listed and not averaged.
    """

    key: str
    title: str
    digits: int
    featured: bool = False
    low: float = -inf
    high: float = inf
    listed: bool = False


def _share(key: str, title: str = "") -> Column:
    return Column(key, title or key, 3, low=0, high=1)


COLUMNS = (
    Column("steps", "steps", 0), Column("group_sizes", "group sizes", 0, listed=True), Column("gap", "gap (nats)", 2),
    Column("gap_per_step", "gap per step", 3), Column("gap_data", "gap per channel in the data's field", 2),
    Column("fid", "fid", 3, True, low=0),
    Column("fid_matched", "fid_matched", 3, True, low=0), Column("sfid", "sfid", 3, True, low=0),
    Column("inception_score", "IS", 2, True, low=1), Column("kid", "kid", 4, True), _share("precision"),
    _share("recall"), _share("accuracy"), _share("validity"), _share("probe", "linear probe"),
    Column("nll", "NLL (nats)", 2, low=0), Column("rfid", "rfid", 3, True, low=0),
    Column("fid_restored", "fid_restored", 3, True, low=0),
    Column("images_per_s", "images/s", 0),
    Column("speedup", "speed-up", 2), Column("train_seconds", "train s", 0), Column("train_tflops", "train TFLOP", 1),
    Column("images_seen", "images seen", 0), Column("slots", "slots", 0), Column("sampled_slots", "slots sampled", 0),
    Column("sample_gflop", "sampling GFLOP per image", 3), Column("params", "params", 0),
    _share("duplicates"), _share("memorised"),
)  # fmt: skip
TUNED = (
    Column("guidance", "guidance", 2, listed=True),
    Column("temperature", "temperature", 2, listed=True),
    Column("correction", "correction", 2, listed=True),
)
OF_SAMPLE = "sample."  # columns of other options of sampling
NOT_TUNED = ("images", "batch_size", "seed", "order", "steps", "order_per_image")  # which arms say themselves
BY_NETWORK = ("fid", "fid_matched", "sfid", "inception_score", "kid", "precision", "recall", "rfid", "fid_restored")
TESTED = ("fid", "nll")


def arm_means(rows: Sequence[Row], *keys: str) -> dict[str, tuple[float, ...]]:
    """Means over seeds of several columns, for the arms that have all of them."""
    arms = {arm: [numbers(group, key) for key in keys] for arm, group in by_arm(rows).items()}
    return {arm: tuple(sum(v) / len(v) for v in values) for arm, values in arms.items() if all(values)}


def further(rows: Sequence[Row]) -> list[str]:
    """Labels of the feature networks beside the first, whose columns name them: fid[label]."""
    return list(dict.fromkeys(title.rpartition(":")[0] for row in rows for title in row.get("further_features", [])))


def by_network(column: Column, rows: Sequence[Row]) -> list[Column]:
    """A column, and the same of every further feature network."""
    others = [f"{column.key}[{label}]" for label in further(rows)] if column.key in BY_NETWORK else []
    return [column, *(column._replace(key=key, title=key, featured=False) for key in others)]


def present(rows: Sequence[Row]) -> list[Column]:
    """Columns that any row has; how images were sampled only where that differs."""
    varied = [column for column in TUNED if len({row.get(column.key) for row in rows}) > 1]
    options = {key: value for row in rows for key, value in row["options"].get("sample", {}).items()}
    own = [key for key in options if key not in (*NOT_TUNED, *(column.key for column in TUNED))]
    others = [key for key in own if len({str(row["options"]["sample"].get(key)) for row in rows}) > 1]
    varied += [Column(f"{OF_SAMPLE}{key}", key.replace("_", " "), 2, listed=True) for key in others]
    columns = [one for column in COLUMNS for one in by_network(column, rows)]
    return [column for column in columns if any(column.key in row for row in rows)] + varied


def titled(column: Column, rows: Sequence[Row]) -> str:
    """Title with the feature network where the figure depends on it: fid[digits-cnn]."""
    return featured(column.title, rows) if column.featured else column.title


def featured(title: str, rows: Sequence[Row]) -> str:
    """Name a figure with the feature network that it depends on: fid[digits-cnn]."""
    return f"{title}[{rows[0]['fid_feature'].partition(':')[0]}]"


def numbers(rows: Sequence[Row], key: str) -> list[float]:
    """Values of one column."""
    return [row[key] for row in rows if row.get(key) is not None]


def column_of(key: str) -> Column:
    """Find a column by its key."""
    return next(column for column in (*COLUMNS, *TUNED) if column.key == key)


def shown(values: Sequence[float], digits: int, low: float = -inf, high: float = inf) -> str:
    """Write mean ± half of the interval; fewer values than an interval needs one by one.

    An interval that would reach beyond what is possible is written by its ends, which are cut there.
    """
    if not values:
        return ""
    center, half = interval(values)
    if half is None:
        return ", ".join(dict.fromkeys(f"{value:.{digits}f}" for value in values))
    if low <= center - half and center + half <= high:
        return f"{center:.{digits}f} ± {half:.{digits}f}" if half else f"{center:.{digits}f}"
    return f"{center:.{digits}f} [{max(low, center - half):.{digits}f}, {min(high, center + half):.{digits}f}]"


def cell(rows: Sequence[Row], column: Column) -> str:
    """Write one column of an arm's rows: a choice listed, a timing with its range, the rest by mean and interval."""
    if column.key == "group_sizes":
        return "; ".join(dict.fromkeys(sizes_text(row["group_sizes"]) for row in rows if row.get("group_sizes")))
    if column.key.startswith(OF_SAMPLE):
        found = [row["options"]["sample"].get(column.key.removeprefix(OF_SAMPLE)) for row in rows]
        return ", ".join(dict.fromkeys("" if value is None else str(value) for value in found))
    values = numbers(rows, column.key)
    if column.listed:
        return ", ".join(f"{value:.{column.digits}f}" for value in sorted(set(values)))
    if values and f"{column.key}_min" in rows[0]:
        low, high = (f"{rows[0][f'{column.key}_{end}']:.{column.digits}f}" for end in ("min", "max"))
        return f"{values[0]:.{column.digits}f}" + (f" [{low}, {high}]" if low != high else "")
    return shown(values, column.digits, column.low, column.high)
