"""`radar report STUDY.yaml`: tables, pictures and pages of a study, also while it runs."""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from ablations.arguments import add_study
from ablations.reporting.columns import featured, numbers
from ablations.reporting.edits import edit_tables, save_edit_sheets
from ablations.reporting.figures import draw_front, draw_gap, draw_importances, draw_learning_curves
from ablations.reporting.page import html_page
from ablations.reporting.results import Results, command_line, facts, headline, notes, warnings
from ablations.reporting.statistics import by_arm
from ablations.reporting.tables import csv_table, full_table, latex_table, main_table, text_table
from ablations.study.plan import plan_study, trial_name
from ablations.study.queue import StudyQueue
from ablations.study.storage import storage_url
from radar.errors import InputError
from radar.files import replacing
from radar.pictures import draw_steps, save_figure
from radar.progress import Bar

COSTS = (
    ("steps", "steps (forward passes)", "minimize", "fid-steps.png"),
    ("images_per_s", "images per second", "maximize", "fid-speed.png"),
)


def write_report(results: Results) -> str:
    """Write all files of the report; return the table as text."""
    write_text(results.out / "results.json", results.as_json())
    if not results.rows:
        return "no results"
    write_text(results.out / "results.csv", csv_table(results.rows))
    write_text(results.out / "results.tex", latex_table(results.name, results.rows))
    pictures = save_figures(results)
    table = text_table(main_table(results.rows, results.baseline))
    write_text(results.out / "report.md", markdown_page(results, table, pictures))
    write_text(results.out / "report.html", html_page(results, pictures))
    return table


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text)


def save_figures(results: Results) -> dict[str, str]:
    """Draw every figure for which there are values: title -> file."""
    rows, made = results.rows, dict[str, tuple[Figure | None, str]]()
    for key, label, direction, name in COSTS:
        known = any(numbers([row], key) and numbers([row], "fid") for row in rows)
        made[f"fid against {label}"] = (draw_front(rows, key, label, direction) if known else None, name)
    made["fid against the independence gap"] = (draw_gap(rows, "fid", featured("fid", rows)), "fid-gap.png")
    made["NLL against the independence gap"] = (draw_gap(rows, "nll", "held-out NLL (nats per image)"), "nll-gap.png")
    nll, fid = "held-out NLL (nats per image)", featured("fid", rows)
    made["learning curves"] = (draw_learning_curves(rows, "curve", nll), "curves.png")
    made["fid over training, of few samples"] = (draw_learning_curves(rows, "fid_curve", fid), "fid-curves.png")
    made["importance of parameters"] = (draw_importances(results.importances), "importances.png")
    maps = step_maps(rows)
    made["step at which each cell is decoded"] = (draw_steps(maps) if maps else None, "steps.png")
    saved = {}
    for title, (figure, name) in Bar(made.items(), "pictures"):
        if figure is None:
            (results.out / name).unlink(missing_ok=True)  # of an earlier report, with other rows
        else:
            save_figure(figure, results.out / name)
            saved[title] = name
    arms = {arm: results.out / "samples" / trial_name(arm, group[0]["seed"]) for arm, group in by_arm(rows).items()}
    return saved | save_edit_sheets(arms, results.out)


def step_maps(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, torch.Tensor]]:
    """The different step maps (h, w), each with the arms that decode so; none of arms that find their order."""
    arms: dict[str, list[str]] = {}
    for arm, group in by_arm(rows).items():
        if group[0]["step_map"] is not None:
            arms.setdefault(json.dumps(group[0]["step_map"]), []).append(arm)
    names = [f"{first} and {len(more)} more" if more else first for first, *more in arms.values()]
    return [(name, torch.tensor(json.loads(text))) for name, text in zip(names, arms, strict=True)]


def markdown_page(results: Results, table: str, pictures: dict[str, str]) -> str:
    """Lay out report.md."""
    rows, every = results.rows, full_table(results.rows, results.baseline)
    meanings = [f"- {title}: {text}." for title, text in zip(every.titles, every.meanings, strict=True) if text]
    lines = [f"# {results.name}", "", f"`{results.command}`", "", headline(rows), ""]
    lines += [*(f"- {text}" for text in warnings(results)), "", table, "", *(f"- {n}" for n in notes(results)), ""]
    lines += ["<details><summary>All columns</summary>", "", text_table(every), "", *meanings, "", "</details>", ""]
    for title, edits in edit_tables(rows).items():
        lines += [f"## Edits: {title}", "", text_table(edits), ""]
    lines += [*facts(rows), "", *(f"![{title}]({name})\n" for title, name in pictures.items())]
    samples: list[str] = []
    for arm, group in by_arm(rows).items():
        folder = Path("samples") / trial_name(arm, group[0]["seed"])
        if (results.out / folder / "samples.png").exists():
            samples += [f"**{arm}**", "", f"![{arm}]({folder}/samples.png)", ""]
    return "\n".join(lines + (["## Samples", "", *samples] if samples else [])) + "\n"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what it takes."""
    add_study(parser, "; or the folder of a report, to write it again")
    parser.add_argument("--baseline", metavar="ARM", help="compare the others with this arm")


def main(args: argparse.Namespace) -> None:
    """Run `radar report`: of a study, or again of the folder of a report."""
    folder = Path(args.study)
    if folder.is_dir():
        if given := args.options + [f"--{name}" for name in ("out", "storage") if getattr(args, name) is not None]:
            raise InputError(f"{given[0]} has no effect on the report in {folder}")
        results = Results.read(folder, args.baseline)
    else:
        plan = plan_study(args.study, args.out, args.options)
        queue = StudyQueue.open(plan, storage_url(args.storage, plan))
        results = Results.of(queue, command_line(args.study, args.out, args.options), args.baseline)
    print(write_report(results))
    print(results.out / "report.html")
