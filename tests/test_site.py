"""The site is built strictly: no dead link, no public name without its text. `make docs` runs the notebooks, too."""

import re
import subprocess
import sys
from pathlib import Path

from docs import pages

ROOT = Path(__file__).parent.parent


def test_the_site_builds(tmp_path, monkeypatch):
    explored = ["explore", "--grids", "4x4", "--steps", "3"]
    monkeypatch.setattr(pages, "main", lambda argv: main([*explored, *argv[1:]]))
    from ablations.cli import main

    pages.lay_out(tmp_path / "pages", None)
    (tmp_path / "mkdocs.yml").write_text(f"INHERIT: {ROOT / 'mkdocs.yml'}\ndocs_dir: pages\nsite_dir: site\n")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(tmp_path / "mkdocs.yml")]
    built = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert built.returncode == 0, built.stderr
    assert "independence_gap" in (tmp_path / "site" / "docs" / "api.html").read_text()
    opened = re.findall(r'href="([^"]*)">Open the explorer', (tmp_path / "site" / "docs" / "explorer.html").read_text())
    assert '<select id="grid"' in (tmp_path / "site" / "docs" / opened[0]).read_text(), "the explorer, not its page"
    assert "radar plan" in (tmp_path / "site" / "docs" / "verbs.html").read_text()
    (tmp_path / "pages" / "README.md").write_text("[nothing](docs/nowhere.md)")
    broken = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert broken.returncode != 0 and "nowhere.md" in broken.stderr
