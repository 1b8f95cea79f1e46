"""Exported folders: the weights in safetensors, all else in config.json; read as a checkpoint that is done.

Files: model.safetensors (averaged weights, and the order), config.json, tokenizer/ (the same, where it is learned).
"""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from radar.data.images import ImageData, NoImages
from radar.errors import InputError

WEIGHTS, DESCRIPTION, TOKENIZER = "model.safetensors", "config.json", "tokenizer"
ORDER = "radar.order"  # among the tensors
KIND = "radar-ablations"
WORDS = ("name", "crop", "identity", "augment")  # of a data set


def write_exported(folder: Path, weights: dict[str, Tensor], checkpoint: dict[str, Any], data: dict[str, Any]) -> None:
    """Write weights and description of a checkpoint into a folder.

    Args:
        folder: is there.
        weights: what is sampled with.
        checkpoint: what was read (`read_checkpoint`), with the seconds of training, if known, under `seconds`.
        data: of `description_of`.
    """
    told = dict(checkpoint["radar"])
    order = told.pop("order", None)
    tensors = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    save_file(tensors if order is None else tensors | {ORDER: order.contiguous()}, folder / WEIGHTS)
    told |= {"step": int(checkpoint["global_step"]), "seconds": checkpoint.get("seconds", 0.0), "data": data}
    (folder / DESCRIPTION).write_text(json.dumps({"library_name": KIND, "radar": told}, indent=1))
    (folder / WEIGHTS).chmod((folder / DESCRIPTION).stat().st_mode)  # safetensors lets nobody else read it


def read_exported(folder: Path) -> dict[str, Any]:
    """Read a folder as a checkpoint; raises InputError if it is damaged or foreign."""
    if not (folder / WEIGHTS).is_file():
        raise InputError(f"folder {folder} is damaged: {WEIGHTS} is missing")
    try:
        found = dict(json.loads((folder / DESCRIPTION).read_text())["radar"])
        tensors = load_file(folder / WEIGHTS)
        seconds, step = float(found.pop("seconds")), int(found.pop("step"))
        if (order := tensors.pop(ORDER, None)) is not None:
            found["order"] = order
        if (folder / TOKENIZER).is_dir():
            found["config"]["tokenizer"]["checkpoint"] = str(folder / TOKENIZER)
        if found.get("data"):
            described(found["data"])
        if not all(isinstance(found[name], dict) for name in ("config", "origin")):
            raise TypeError("config and origin are groups")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise InputError(f"folder {folder} is damaged or was not written by `radar export` ({reason})") from error
    found.setdefault("trained_steps", step)
    return {
        "state_dict": tensors,
        "callbacks": {"TrainingClock": {"seconds": seconds}},
        "global_step": step,
        "radar": found,
    }


def is_exported(folder: Path) -> bool:
    """Whether a folder is one of these, or was one."""
    return (folder / DESCRIPTION).is_file()


def description_of(data: ImageData, counts: Tensor) -> dict[str, Any]:
    """What sampling needs to know of a data set: its images are not needed for it."""
    shown = {name: getattr(data, name) for name in (*WORDS, "classes", "size")}
    return shown | {"counts": counts.tolist()}


def described(told: dict[str, Any]) -> ImageData:
    """A data set without its images, by its description."""
    words: dict[str, Any] = {name: told[name] for name in WORDS}
    lists: dict[str, Any] = {name: tuple(told[name]) for name in ("classes", "size", "counts")}
    return ImageData(**words, **lists, train=NoImages(), held_out=NoImages())
