"""The ready-made configurations, one YAML file each, and how a file is found by its path or a bare name."""

from collections.abc import Sequence
from pathlib import Path

from radar.errors import InputError


def find_config(name: str, options: Sequence[str] = ()) -> Path:
    """Find a configuration by path, or by the bare name of a ready-made one; raises InputError.

    With `method=var` among the options, of `digits` that is `digits_var` where it is there: a method that needs a
    tokenizer of its own has a configuration of its own.
    """
    ready = Path(__file__).parent
    methods = [text.partition("=")[2] for text in options if text.startswith("method=")]
    own = [path for method in methods[-1:] if (path := ready / f"{name}_{method}.yaml").is_file()]
    return own[0] if own and not Path(name).is_file() else find_yaml(name, ready, "configuration")


def find_yaml(name: str, ready: Path, what: str) -> Path:
    """Find a YAML file by path, or by its bare name in the folder `ready`; raises InputError with what there is."""
    wanted = Path(name)
    for path in (wanted, ready / f"{name}.yaml"):
        if path.is_file():
            return path
    if wanted.parent != Path() and wanted.parent.is_dir():
        beside = sorted(path.name for path in wanted.parent.glob("*.yaml"))
        offer = f"{wanted.parent} holds: {', '.join(beside) or 'no YAML file'}"
    else:
        offer = f"give a YAML file or one of: {', '.join(sorted(path.stem for path in ready.glob('*.yaml')))}"
    raise InputError(f"there is no {what} '{name}'; {offer}")
