"""What a report is made of, and what it says about how its figures are to be read."""

import argparse
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablations.figures import GAPS, correlated
from ablations.statistics import gap_correlation
from ablations.study import StudyQueue
from ablations.study_file import Range, parse_ranges
from radar.errors import InputError

Row = dict[str, Any]
SHARED = ("fid_feature", "reference", "samples", "hardware", "dtype", "train_precision", "commit", "torch", "lightning")

REMEDY = (
    "processors of different kinds train different ones: share data.cache between the machines, or begin a new --out"
)


@dataclass(frozen=True)
class Results:
    """What a report is made of: rows (with the speed of their arm), and what is not done."""

    name: str
    rows: list[Row]
    baseline: str | None
    objectives: dict[str, str]
    tuned: dict[str, Range]
    planned: int
    unfinished: int
    failures: dict[str, str]
    importances: dict[str, dict[str, float]]
    command: str
    out: Path

    @staticmethod
    def of(queue: StudyQueue, speeds: dict[str, dict[str, float]], command: str) -> "Results":
        """Collect what a study has done so far."""
        plan = queue.plan
        place = {arm: number for number, arm in enumerate(plan.arms)}
        ordered = sorted(queue.rows(), key=lambda row: (place.get(row["arm"], 0), row["seed"]))  # as the file has them
        rows = [{**row, **speeds.get(row["arm"], {})} for row in ordered]
        if len(networks := {row["fid_feature"] for row in rows}) > 1:
            raise InputError(
                f"study '{plan.name}' holds rows that were scored by different feature networks "
                f"({', '.join(sorted(networks))}); {REMEDY}"
            )
        return Results(
            plan.name, rows, plan.baseline, plan.all_objectives,
            {} if plan.file.tune is None else parse_ranges(plan.file.tune.ranges), len(plan.slots),
            len(queue.open_keys()), queue.failures(), queue.importances(), command, plan.out,
        )  # fmt: skip


def command_line(args: argparse.Namespace) -> str:
    """The command that runs or continues a study, without its storage, which may hold a password."""
    out = ["--out", args.out] if args.out else []
    return shlex.join(["radar", "ablate", args.study, *out, *args.options])


def facts(rows: Sequence[Row]) -> list[str]:
    """List where the figures come from, all values that occur."""
    return [f"- {key.replace('_', ' ')}: {', '.join(sorted({str(row.get(key)) for row in rows}))}" for key in SHARED]


def gap_notes(rows: Sequence[Row]) -> list[str]:
    """Say how quality follows the independence gap of the orders, where there are arms enough."""
    said = []
    for gap, field in GAPS.items():
        for key, name in (("fid", "fid"), ("nll", "NLL")):
            if (found := gap_correlation(rows, gap, key)) is not None:
                said.append(
                    f"{name} against the independence gap in {field}: {correlated(*found)}; means of arms, "
                    "bootstrap over arms."
                )
    return said


def tuning_notes(rows: Sequence[Row], tuned: Mapping[str, Range]) -> list[str]:
    """Say how many rows chose the lowest or highest of listed numbers: a wider range might have served them better."""
    said = []
    for key, values in tuned.items():
        offer = values.choices
        if len(offer) < 2 or any(type(value) not in (int, float) for value in offer):
            continue
        chosen = [row["options"]["sample"][key.removeprefix("sample.")] for row in rows]
        counts = {f"the lowest ({min(offer):g})": chosen.count(min(offer))}
        counts[f"the highest ({max(offer):g})"] = chosen.count(max(offer))
        if at_ends := [f"{count} chose {end}" for end, count in counts.items() if count]:
            said.append(f"{key}, tuned: of {len(rows)} rows {' and '.join(at_ends)} of the values on offer.")
    return said


def notes(results: Results) -> list[str]:
    """Say how the figures are to be read, and what is missing."""
    first, seeds = results.rows[0], sorted({row["seed"] for row in results.rows})
    compared = (
        f"Mean ± half of the 95% interval (Student's t) over seeds {seeds}; one seed has no interval. Differences to "
        "the baseline are paired by seed, with a two-sided t-test that is not corrected for the number of arms."
    )
    searched = "A search: the best of many trials looks better than it is; compare it by a grid with several seeds."
    said = [
        compared if results.baseline else searched,
        f"fid is biased by the number of images: `fid` is of {first['samples']} samples, `fid_matched` of as many as "
        f"there are held-out images ({first['held_out']}), to be compared with the real-versus-real floor. The feature "
        f"network {first['fid_feature']} was trained on the reference set.",
        "NLL is in nats per held-out image: exact where nothing is revised, teacher-forced on new cells for those "
        "that revise, in the layout that is sampled; none where sampling finds the order; learning curves are of the "
        "layout of training. Accuracy is that of the "
        "feature network's classifier.",
        "Speed: median of rounds that go through all arms in turn, after warming up, nothing else running, "
        f"tokens and decoding, batch {first['timing_batch']}, one checkpoint per arm; speed-up is against the "
        "baseline. Training seconds are of processes that run side by side.",
    ]
    said += tuning_notes(results.rows, results.tuned)
    said += gap_notes(results.rows)
    if results.unfinished:
        said.insert(0, f"Not complete: {results.unfinished} of {results.planned} trials are still to be done.")
    return said + [f"Failed: {key}: {cause}" for key, cause in results.failures.items()]
