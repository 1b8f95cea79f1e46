"""The ready-made configurations, one YAML file each."""

from pathlib import Path

from radar.errors import InputError


def find_config(name: str) -> Path:
    """Find a configuration by path, or by the bare name of a ready-made one; raises InputError."""
    ready = Path(__file__).parent / f"{name}.yaml"
    for path in (Path(name), ready):
        if path.is_file():
            return path
    names = sorted(path.stem for path in ready.parent.glob("*.yaml"))
    raise InputError(f"there is no configuration '{name}'; give a YAML file or one of: {', '.join(names)}")
