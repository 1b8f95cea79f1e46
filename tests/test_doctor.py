"""What a new user runs first: the doctor, shell completion, the version; and what a wheel holds."""

import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

import radar
from ablations.cli import VERBS, main
from experiments import doctor
from radar.attention import attend
from radar.errors import RunError

ROOT = Path(__file__).parent.parent


def test_all_is_well_here(capsys):
    main(["doctor"])
    said = capsys.readouterr().out
    for name in doctor.CHECKS:
        assert f"{name:14} " in said
    assert "FAILED" not in said and "trained 20 steps, drew 10 digits" in said


def test_what_does_not_work_is_said(capsys, monkeypatch):
    def broken():
        raise OSError("no such\nlibrary")
        yield

    monkeypatch.setitem(doctor.CHECKS, "blas", broken)
    with pytest.raises(SystemExit) as stopped:
        main(["doctor", "--quick"])
    out, err = capsys.readouterr()
    assert stopped.value.code == 1 and err == "radar: does not work here: blas\n"
    assert "blas           FAILED: OSError: no such library" in out and "disk" in out and "smoke" not in out


def test_wrong_attention_is_found(monkeypatch):
    def wrong(q, k, v, mask):
        return attend(q, k, v, mask) + 1000.0

    monkeypatch.setattr("radar.attention.backends.attend", wrong)
    with pytest.raises(RunError, match="from SDPA"):
        list(doctor.flex_attention())


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion(shell, capsys, tmp_path):
    main(["completion", shell])
    script = capsys.readouterr().out
    assert all(verb in script for verb in VERBS)
    if shell == "bash":
        (tmp_path / "script").write_text(script)
        for words, found in {
            "radar or": "orders",
            "radar train fashion_v": "fashion_vqgan",
            "radar ablate clai": "claims claims_cpu claims_orders",
            "radar train digits train.max_s": "train.max_steps=",
        }.items():
            asked = f"COMP_WORDS=({words}); COMP_CWORD={len(words.split()) - 1}; _shtab_radar; echo ${{COMPREPLY[@]}}"
            told = subprocess.run(["bash", "-c", f"source {tmp_path}/script; {asked}"], capture_output=True, text=True)
            assert told.stdout == f"{found}\n", told.stderr


def test_the_version_stands_in_one_place(capsys):
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert radar.__version__ == version("radar-ablations") == told
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0 and capsys.readouterr().out == f"radar-ablations {told}\n"
    assert f"version: {told}" in (ROOT / "CITATION.cff").read_text()
    assert f"## {told}" in (ROOT / "CHANGELOG.md").read_text()


def test_a_wheel_holds_what_it_needs(tmp_path):
    """Installed alone, far from the repository, it trains, draws, and writes its pages."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", tmp_path, ROOT], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    there = tmp_path / "installed"
    subprocess.run([*pip, "install", "--no-deps", "--target", there, wheel], check=True, capture_output=True)
    code = (
        f"import sys; sys.path.insert(0, {str(there)!r}); import radar; from ablations.cli import main; "
        f"assert radar.__file__.startswith({str(there)!r}); "
        "model = radar.train('digits', 'train.max_steps=2', run='run', model={'dim': 16, 'heads': 1, 'layers': 1}); "
        "print(len(model.sample(images=2).images)); main(['explore', '--grids', '2x2', '--steps', '2']); "
        "from ablations.study.plan import read_plan; read_plan('masks', None, [])"
    )
    run = subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    assert "2\n" in run.stdout and (tmp_path / "runs" / "explorer.html").exists()
