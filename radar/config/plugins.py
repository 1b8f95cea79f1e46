"""Python files of a user's own, imported before anything is looked up: they add orders, attentions and the like.

Each is imported once per process, by commands, by the workers of a study and by the processes of several devices alike.
"""

import hashlib
import sys
from collections.abc import Sequence
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from radar.config.lookup import OWN
from radar.errors import InputError

_digests: dict[Path, str] = {}  # of those that are imported, in their sequence


def import_plugins(paths: Sequence[str]) -> None:
    """Import those that are not yet; raises InputError for a file that is not there, or fails."""
    for text in paths:
        path = Path(text).expanduser().resolve()
        if path not in _digests:
            _import(path, text)


def _import(path: Path, text: str) -> None:
    if path.suffix != ".py" or not path.is_file():
        raise InputError(f"plugins={text} is not possible: no such Python file")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    spec = spec_from_file_location(f"{OWN}{path.stem}_{digest}", path)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # whatever a user's own code raises
        del sys.modules[spec.name]
        said = " ".join(str(error).split())
        raise InputError(f"plugins={text} cannot be imported: {type(error).__name__}: {said}") from error
    _digests[path] = digest


def plugins_digest(paths: Sequence[str]) -> str:
    """Name files that are imported by what they held."""
    return ", ".join(_digests[Path(text).expanduser().resolve()] for text in paths)
