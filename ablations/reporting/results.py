"""What a report is made of, and what it says about how its figures are to be read."""

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import scipy.stats

from ablations.reporting.columns import TESTED, arm_means, column_of, featured, further, titled
from ablations.reporting.figures import GAPS, correlated
from ablations.reporting.statistics import by_arm, contrast, difference, gap_correlation
from ablations.reporting.tables import compared
from ablations.study.queue import StudyQueue
from ablations.study.study_file import Range, parse_ranges
from ablations.study.trial import stored_speeds
from radar.decoding.groups import sizes_text
from radar.errors import InputError
from radar.scoring.evaluation import cautions
from radar.scoring.row import Row

SOURCES_SHOWN = (
    "fid_feature",
    "further_features",
    "feature_accuracy",
    "reference",
    "rfid_reference",
    "samples",
    "labels",
    "hardware",
    "dtype",
    "train_precision",
    "commit",
    "trained_at",
    "timed_at",
    "torch",
    "lightning",
)

REMEDY = (
    "processors of different kinds train different ones: share data.cache between the machines, or begin a new --out"
)


@dataclass(frozen=True)
class Results:
    """What a report is made of: rows (with the speed of their arm), and what is not done."""

    name: str
    rows: Sequence[Row]
    baseline: str | None
    objectives: dict[str, str]
    tuned: dict[str, Range]
    planned: int
    unfinished: int
    failures: dict[str, str]
    importances: dict[str, dict[str, float]]
    command: str
    out: Path
    contrasts: list[list[str]]

    @staticmethod
    def of(queue: StudyQueue, command: str, baseline: str | None = None) -> "Results":
        """Collect what a study has done so far, with the speeds that were timed last; raises InputError."""
        plan = queue.plan
        base = chosen_baseline(baseline, plan.arms, plan.baseline)
        index = {arm: number for number, arm in enumerate(plan.arms)}
        ordered = sorted(queue.rows(), key=lambda row: (index.get(row["arm"], 0), row["seed"]))  # as the file has them
        speeds = stored_speeds(plan.out, base)
        rows = [{**row, **speeds.get(row["arm"], {})} for row in ordered]
        if len(networks := {judges(row) for row in rows}) > 1:
            raise InputError(
                f"study '{plan.name}' holds rows that were scored by different feature networks "
                f"({'; '.join(sorted(networks))}); {REMEDY}"
            )
        return Results(
            name=plan.name,
            rows=rows,
            baseline=base,
            objectives=plan.all_objectives,
            tuned={} if plan.file.tune is None else parse_ranges(plan.file.tune.ranges),
            planned=len(plan.slots),
            unfinished=len(queue.open_keys()),
            failures=queue.failures(),
            importances=queue.importances(),
            command=command,
            out=plan.out,
            contrasts=plan.file.contrasts,
        )

    @staticmethod
    def read(folder: Path, baseline: str | None = None) -> "Results":
        """Read what a report was made of, to write it again; raises InputError."""
        try:
            found = json.loads((folder / "results.json").read_text())
            rows = found["rows"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{folder} holds no report (results.json, written by radar ablate)") from error
        arms = list(dict.fromkeys(row["arm"] for row in rows))
        base = chosen_baseline(baseline, arms, found.get("baseline", arms[0] if arms else None))
        speeds = stored_speeds(folder, base)
        if speeds or base != found.get("baseline", base):  # what is there is against another arm
            rows = [{key: value for key, value in row.items() if not key.startswith("speedup")} for row in rows]
        tuned = {
            key: Range(**{**values, "choices": tuple(values["choices"])})
            for key, values in found.get("tuned", {}).items()
        }
        return Results(
            name=found.get("name", folder.name),
            rows=[{**row, **speeds.get(row["arm"], {})} for row in rows],
            baseline=base,
            objectives=found.get("objectives", {}),
            tuned=tuned,
            planned=found.get("planned", len(rows)),
            unfinished=found.get("unfinished", 0),
            failures=found.get("failures", {}),
            importances=found.get("importances", {}),
            command=found["command"],
            out=folder,
            contrasts=found.get("contrasts", []),
        )

    def as_json(self) -> str:
        """Write all but the folder as JSON, a line per row."""
        kept = {key: value for key, value in vars(self).items() if key not in ("out", "tuned", "rows")}
        head = json.dumps({**kept, "tuned": {key: vars(values) for key, values in self.tuned.items()}}, indent=1)
        rows = ",\n".join(json.dumps(row, separators=(",", ":")) for row in self.rows)
        return f'{head[:-2]},\n "rows": [\n{rows}\n]}}\n'


def judges(row: Row) -> str:
    """Name all feature networks of a row."""
    return ", ".join([row["fid_feature"], *row.get("further_features", [])])


def chosen_baseline(asked: str | None, arms: Iterable[str], default: str | None) -> str | None:
    """Arm that the others are compared with; raises InputError if the one that is asked for is none."""
    if asked is not None and asked not in arms:
        raise InputError(f"baseline '{asked}' is not an arm; choose from: {', '.join(arms)}")
    return asked or default


def command_line(study: str, out: str | None, options: Sequence[str]) -> str:
    """The command that runs or continues a study, without its storage, which may hold a password."""
    folder = ["--out", out] if out else []
    return shlex.join(["radar", "ablate", study, *folder, *options])


def facts(rows: Sequence[Row]) -> list[str]:
    """List where the figures come from, all values that occur."""
    found = {key: sorted({_fact(row[key]) for row in rows if row.get(key) not in (None, [])}) for key in SOURCES_SHOWN}
    return [f"- {key.replace('_', ' ')}: {', '.join(values)}" for key, values in found.items() if values]


def _fact(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def size_notes(rows: Sequence[Row]) -> list[str]:
    """Warn where arms of equal K decode groups of other sizes: then not only their orders differ."""
    said = []
    for steps in sorted({row["steps"] for row in rows if row.get("group_sizes")}):
        arms: dict[str, list[str]] = {}
        for arm, group in by_arm(rows).items():
            if group[0]["steps"] == steps and group[0].get("group_sizes"):
                arms.setdefault(sizes_text(group[0]["group_sizes"]), []).append(arm)
        if len(arms) > 1:
            parts = "; ".join(f"{sizes} ({', '.join(names)})" for sizes, names in arms.items())
            said.append(
                f"WARNING: arms of {steps} steps differ in their group sizes, so that not the order alone is compared "
                f"(order.sizes_of makes them equal): {parts}."
            )
    return said


def kinds_of_tokens(rows: Sequence[Row]) -> list[list[str]]:
    """Arms that have an NLL, those together whose tokens are the same ones."""
    kinds: dict[str, list[str]] = {}
    for arm, group in by_arm(rows).items():
        if group[0].get("nll") is not None:
            kinds.setdefault(json.dumps(group[0]["options"].get("tokenizer"), sort_keys=True), []).append(arm)
    return list(kinds.values())


def token_notes(rows: Sequence[Row]) -> list[str]:
    """Warn where arms have tokens of several tokenizers."""
    if len(kinds := kinds_of_tokens(rows)) < 2:
        return []
    arms = "; ".join(", ".join(arms) for arms in kinds)
    return [f"WARNING: NLLs of different tokens cannot be compared; of the same tokens are: {arms}."]


def contrast_notes(results: "Results") -> list[str]:
    """Write the differences of pairs of arms, and of the first of them less each other."""
    arms, said = by_arm(results.rows), []
    pairs = [(one, other) for one, other in results.contrasts if one in arms and other in arms]
    for key in TESTED:
        for a, b in pairs:
            if gap := difference(arms[a], arms[b], key):
                said.append(f"{key}, {a} less {b}: {compared(gap)}")
            c, d = pairs[0]
            if (a, b) != (c, d) and (both := contrast([(arms[c], arms[d]), (arms[a], arms[b])], key)):
                said.append(f"{key}, ({c} less {d}) less ({a} less {b}): {compared(both)}")
    return said


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


def rank_notes(rows: Sequence[Row]) -> list[str]:
    """Say whether further feature networks put the arms in the same order as the first, where there are three."""
    said = []
    for label in further(rows):
        means = list(arm_means(rows, "fid", f"fid[{label}]").values())
        if len(means) > 2:
            first, second = zip(*means, strict=True)
            rho, tau = scipy.stats.spearmanr(first, second).statistic, scipy.stats.kendalltau(first, second).statistic
            said.append(
                f"{featured('fid', rows)} and fid[{label}] rank the {len(means)} arms by their means with Spearman's "
                f"rho = {rho:.2f}, Kendall's tau = {tau:.2f} (1: the same order)."
            )
    return said


def fid_note(row: Row) -> str:
    """Say of how many images fid is, and what the judge and real images are like."""
    count, accuracy = row.get("floor_images", row["held_out"]), row.get("feature_accuracy")
    said = f"fid is biased by the number of images: `fid` is of {row['samples']} samples, `fid_matched` of {count}"
    said += f"; as many held-out images read {row['fid_floor']:.3f}" if "fid_floor" in row else ""
    if accuracy is None:
        return f"{said}. The feature network is {row['fid_feature']}."
    said += f". The feature network {row['fid_feature']} was trained on the reference set"
    return f"{said}, and knows {accuracy:.1%} of the held-out images."


def caution_notes(rows: Sequence[Row]) -> list[str]:
    """What makes the rows hard to trust, each once."""
    return list(dict.fromkeys(text for row in rows for text in cautions(row)))


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


def headline(rows: Sequence[Row]) -> str:
    """Name the best arm by mean fid, NLL and speed."""
    said = []
    for key, word, best in (("fid", "lowest", min), ("nll", "lowest", min), ("images_per_s", "most", max)):
        if key == "nll" and len(kinds_of_tokens(rows)) > 1:
            continue
        if means := {arm: mean for arm, (mean,) in arm_means(rows, key).items()}:
            arm = best(means, key=means.__getitem__)
            column = column_of(key)
            said.append(f"{word} {titled(column, rows)}: {arm} ({means[arm]:.{column.digits}f})")
    seeds = max(len(group) for group in by_arm(rows).values())
    of = "One seed" if seeds == 1 else "By means over seeds" + ", two, too few for an interval" * (seeds == 2)
    return f"{of}: {'; '.join(said)}." if said else ""


def warnings(results: Results) -> list[str]:
    """Say what is to be known before any figure is read."""
    said = [f"WARNING: {text}." for text in caution_notes(results.rows)] + size_notes(results.rows)
    said += token_notes(results.rows)
    if results.unfinished:
        said.insert(0, f"Not complete: {results.unfinished} of {results.planned} trials are still to be done.")
    return said


def notes(results: Results) -> list[str]:
    """Say how the figures are to be read, and what failed."""
    first, seeds = results.rows[0], sorted({row["seed"] for row in results.rows})
    paired = (
        f"Mean ± half of the 95% interval (Student's t) over seeds {seeds}; fewer than three are listed. "
        "Differences to the baseline are paired by seed: p of a two-sided t-test, and by Holm's procedure for the arms."
    )
    searched = "A search: the best of many trials looks better than it is; compare it by a grid with several seeds."
    said = [
        paired if results.baseline else searched,
        fid_note(first),
        "NLL is in nats per held-out image: exact where nothing is revised, teacher-forced on new cells for those "
        "that revise, in the layout that is sampled; none where sampling finds the order; learning curves are of the "
        "layout of training. Accuracy is that of the "
        "feature network's classifier.",
        "Speed: median of rounds that go through all arms in turn, after warming up, nothing else running, "
        f"tokens and decoding, batch {first['timing_batch']}, one checkpoint per arm, and the slowest and fastest "
        "round; speed-up is the ratio of the two medians of one run, [range] that of the ratios of its rounds, against "
        "the baseline. Training seconds are of processes that run side by side.",
    ]
    said += contrast_notes(results)
    said += rank_notes(results.rows)
    said += tuning_notes(results.rows, results.tuned)
    said += gap_notes(results.rows)
    return said + [f"Failed: {key}: {cause}" for key, cause in results.failures.items()]
