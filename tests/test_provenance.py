"""Where a figure comes from: the commit of our own source tree, and of no other."""

import shutil
import subprocess
import sys
from pathlib import Path

from radar import provenance

ROOT = Path(provenance.__file__).parent.parent
ASK = "from radar.provenance import git_commit, source_hash; print(git_commit(), source_hash())"


def git(folder: Path, *arguments: str) -> None:
    name = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    subprocess.run(["git", *name, *arguments], cwd=folder, check=True, capture_output=True)


def ask(tree: Path) -> list[str]:
    result = subprocess.run([sys.executable, "-c", ASK], cwd=tree, capture_output=True, text=True, check=True)
    return result.stdout.split()


def test_inside_somebody_elses_repository_the_commit_is_not_theirs(tmp_path):
    """Installed below it, ignored or not; in a checkout of its own it is its own."""
    theirs = tmp_path / "theirs"
    site = theirs / "venv" / "site-packages"
    shutil.copytree(ROOT / "radar", site / "radar", ignore=shutil.ignore_patterns("__pycache__", "networks"))
    git(tmp_path, "init", "theirs")
    (theirs / "paper.tex").write_text("")
    git(theirs, "add", "paper.tex")
    git(theirs, "commit", "-m", "theirs")
    assert ask(site)[0] == "version"
    git(theirs, "add", ".")
    git(theirs, "commit", "-m", "with us in it")
    assert ask(site)[0] == "version"
    git(site, "init")
    git(site, "add", ".")
    git(site, "commit", "-m", "ours")
    commit, code = ask(site)
    assert not commit.startswith("version") and "-" not in commit
    with (site / "radar" / "sampling" / "sampler.py").open("a") as file:
        file.write("# changed")
    changed, other = ask(site)
    assert changed == f"{commit}-dirty" and other != code, "timings are made again"
