"""The pages of docs/learn run as written, each in under a minute."""

import time
from pathlib import Path

import pytest

jupytext = pytest.importorskip("jupytext")
nbclient = pytest.importorskip("nbclient")
PAGES = sorted((Path(__file__).parent.parent / "docs" / "learn").glob("*.md"))


QUICK = "own_transformer"  # the others are slow; `make docs` runs all


@pytest.mark.parametrize(
    "page", [pytest.param(p, marks=[pytest.mark.slow] * (p.stem != QUICK)) for p in PAGES], ids=lambda page: page.stem
)
def test_a_tutorial_runs(page, tmp_path):
    began = time.process_time()
    notebook = jupytext.read(page)
    nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert any(cell.cell_type == "code" and cell.outputs for cell in notebook.cells)
    assert time.process_time() - began < 60
