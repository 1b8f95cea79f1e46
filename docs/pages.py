"""`make docs`: lay the pages of the site out in a folder, with what is generated from the code and by the notebooks.

Pages keep the places that they have in the repository, so that their links hold here and there.
"""

import argparse
import shutil
import sys
import typing
from pathlib import Path

import jupytext
from nbclient import NotebookClient
from nbconvert import MarkdownExporter

from ablations.cli import VERBS, load, main, parser_of
from radar.scoring.row import ResultRow

ROOT = Path(__file__).parent.parent
ALONE = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "NOTICE", "LICENSE", "radar/config/methods.py")
FOLDERS = ("docs", "results", "benchmarks")
NOTEBOOKS = sorted((ROOT / "docs" / "learn").glob("*.md"))
SECONDS = 180  # that a cell may take


def copy(pages: Path) -> None:
    """All that pages link to, in its place."""
    for name in (*ALONE, *FOLDERS):
        source, target = ROOT / name, pages / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)


def verbs() -> str:
    """Every verb with its arguments, as `radar VERB --help` says it."""
    parts = ["# Verbs", "", "Generated from the command line itself: `radar VERB --help`.", ""]
    for name, verb in VERBS.items():
        told = parser_of(name, load(verb)).format_help().rstrip()
        parts += [f"## radar {name}", "", "```text", told, "```", ""]
    return "\n".join(parts)


def columns() -> str:
    """Every column of a row of results."""
    hints = typing.get_type_hints(ResultRow, include_extras=True)
    lines = [f"| `{name}` | {hint.__metadata__[0].replace('|', ' ')} |" for name, hint in hints.items()]
    told = "What `radar evaluate` writes, and each row of a study (`results.csv`, `results.json`)."
    return "\n".join(["# Columns of a row", "", told, "", "| column | meaning |", "| --- | --- |", *lines, ""])


def run_notebook(path: Path, folder: Path, target: Path) -> None:
    """Run a page in `folder`, and write it to `target` with what it put out, its pictures beside it."""
    notebook = jupytext.read(path)
    NotebookClient(notebook, timeout=SECONDS, resources={"metadata": {"path": str(folder)}}).execute()
    text, found = MarkdownExporter().from_notebook_node(notebook, {"unique_key": target.stem})
    for name, content in found["outputs"].items():
        (target.parent / name).write_bytes(content)
    target.write_text(text)


def lay_out(pages: Path, work: Path | None) -> None:
    """Copy, generate, and run the notebooks in the folder `work`, if there is one."""
    copy(pages)
    (pages / "docs" / "verbs.md").write_text(verbs())
    (pages / "docs" / "columns.md").write_text(columns())
    main(["explore", "--out", str(pages / "docs" / "order-explorer.html")])
    for path in NOTEBOOKS if work else []:
        print(f"notebook {path.stem}", file=sys.stderr, flush=True)
        run_notebook(path, work, pages / "docs" / "learn" / path.name)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("pages", type=Path, help="folder to be made anew")
    parser.add_argument("--still", action="store_true", help="notebooks as they are written, not run")
    args = parser.parse_args()
    chosen = args.pages.resolve()
    shutil.rmtree(chosen, ignore_errors=True)
    rooms = chosen.parent / "notebooks"
    shutil.rmtree(rooms, ignore_errors=True)
    rooms.mkdir(parents=True)
    lay_out(chosen, None if args.still else rooms)
