"""Files by `hf://user/name`: fetched once through huggingface_hub, into its own cache; and folders sent there."""

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from radar.errors import InputError

PREFIX = "hf://"
FILES = ("README.md", "config.json", "model.safetensors", "evaluation.json", "samples.png")  # of an exported folder
NAME = re.compile(r"[\w.-]+/[\w.-]+")


def is_remote(path: str | Path) -> bool:
    """Whether a path names something on the hub."""
    return str(path).startswith((PREFIX, "hf:/"))  # a Path has lost one stroke


def local(path: str | Path) -> Path:
    """Path of a file or folder here: of `hf://user/name[/file]` what was fetched from there.

    Raises InputError for a malformed name, without the package, and where it cannot be fetched.
    """
    return _fetched(str(path)) if is_remote(path) else Path(path)


@cache
def _fetched(path: str) -> Path:
    """Fetch once per process, so that a command sees one state of what may change there."""
    name, file = _split(path)
    hub = _package()
    try:
        if file:
            return Path(hub.hf_hub_download(name, file))
        hub.hf_hub_download(name, "config.json")  # before the weights of what is none of ours
        return Path(hub.snapshot_download(name, allow_patterns=[*FILES, "tokenizer/*"]))
    except Exception as error:  # its own kinds, and those of the network
        raise InputError(f"{path} cannot be fetched: {_reason(error)}") from error


def push(folder: Path, name: str, private: bool = False) -> str:
    """Send what `radar export` has written into a folder, and no more, to the repository `user/name`.

    It is made if it is not there. Returns its address.

    Raises InputError for a malformed name, without the package, and where it cannot be sent.
    """
    if not NAME.fullmatch(name):
        raise InputError(f"'{name}' is no name of a repository: user/name expected")
    api = _package().HfApi()
    try:
        api.create_repo(name, exist_ok=True, private=private)
        sent = [*FILES, *(f"tokenizer/{name}" for name in FILES)]
        return str(
            api.upload_folder(folder_path=folder, repo_id=name, commit_message="radar push", allow_patterns=sent)
        )
    except Exception as error:
        raise InputError(f"{folder} cannot be sent to {name}: {_reason(error)}") from error


def _split(path: str) -> tuple[str, str]:
    parts = path.removeprefix("hf:").strip("/").split("/")
    name = "/".join(parts[:2])
    if not NAME.fullmatch(name):
        raise InputError(f"'{path}' is no name on the hub: hf://user/name or hf://user/name/file expected")
    return name, "/".join(parts[2:])


def _package() -> Any:
    if find_spec("huggingface_hub") is None:
        raise InputError("hf:// names need huggingface_hub: pip install 'radar-ablations[hub]'")
    import huggingface_hub

    return huggingface_hub


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
