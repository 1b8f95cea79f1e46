"""The ready-made configurations, one YAML file each."""

from pathlib import Path

from radar.errors import InputError


def find_config(name: str) -> Path:
    """Find a configuration by path, or by the bare name of a ready-made one; raises InputError."""
    ready = Path(__file__).parent / f"{name}.yaml"
    for path in (Path(name), ready):
        if path.is_file():
            return path
    raise InputError(f"there is no configuration '{name}'; {offer(Path(name), ready.parent)}")


def offer(wanted: Path, ready: Path) -> str:
    """List the YAML files beside the one that was wanted, if its folder is there, or else the ready-made ones."""
    beside = sorted(path.name for path in wanted.parent.glob("*.yaml"))
    if wanted.parent != Path() and wanted.parent.is_dir():
        return f"{wanted.parent} holds: {', '.join(beside) or 'no YAML file'}"
    names = sorted(path.stem for path in ready.glob("*.yaml"))
    return f"give a YAML file or one of: {', '.join(names)}"
