"""Running `radar` in this process."""

import pytest

from ablations.cli import main


def fails(capsys, *argv: str) -> str:
    """Run a command that must end with exit code 2 and one line on stderr."""
    with pytest.raises(SystemExit) as caught:
        main([str(a) for a in argv])
    lines = capsys.readouterr().err.strip().splitlines()
    assert caught.value.code == 2, lines
    assert len(lines) == 1 and lines[0].startswith("radar: "), lines
    return lines[0]
