"""Options that had another name: who types the old one is told the new one, and old checkpoints are read."""

from collections.abc import Mapping
from typing import Any

from radar.errors import InputError

NAMES = {"train.steps": "train.max_steps", "train.redraw": "train.permutations"}
VALUES: dict[str, dict[str, str]] = {
    "train.permutations": {"none": "fixed", "seed": "reseeded", "permuted": "random"}
}  # new by old
BEFORE: dict[str, Any] = {"train.optimizer": "adamw", "train.decay": None}  # where these options are missing
GONE = {
    "train.accumulate": "is gone: train.batch_size counts the images of a whole optimizer step, train.micro_batch says "
    "how many of them go through a device at once"
}
OTHERWISE = {
    "blockwise": "attention 'blockwise' had a slot before the first scale; VAR has none, as 'block_causal' here: train "
    "it anew"
}
WEIGHTS = {"model.codes": "model.space.table", "model.places.weight": "model.positions.weight"}


def refuse_old_name(option: str) -> None:
    """Raise InputError for an option that has another name now, or is gone."""
    if option in GONE:
        raise InputError(f"option '{option}' {GONE[option]}")
    if (new := NAMES.get(option)) is not None:
        values = ", ".join(f"{value} (was {old})" for old, value in VALUES.get(new, {}).items())
        raise InputError(f"option '{option}' is called '{new}' now" + (f": {values}" if values else ""))


def refuse_old_value(option: str, value: object) -> None:
    """Raise InputError for a value of an option that has another name now."""
    if (new := VALUES.get(option, {}).get(str(value))) is not None:
        raise InputError(f"{option}={value} is called {option}={new} now")


def refuse_old_attention(name: object) -> None:
    """Raise InputError for a variant that is another one now."""
    if name in OTHERWISE:
        raise InputError(OTHERWISE[str(name)])


def refuse_old_names(values: Mapping[str, Any]) -> None:
    """Raise InputError if nested options hold one, or a value, that has another name now."""
    refuse_old_attention(values.get("attention"))
    for old in (*NAMES, *GONE):
        group, name = old.split(".")
        if isinstance(values.get(group), Mapping) and name in values[group]:
            refuse_old_name(old)
    for option in VALUES:
        group, name = option.split(".")
        if isinstance(values.get(group), Mapping):
            refuse_old_value(option, values[group].get(name))


def with_new_names(options: Mapping[str, Any]) -> dict[str, Any]:
    """Give options that were stored the names and values that they have now, to newer ones what held then."""
    renamed = {key: dict(value) if isinstance(value, Mapping) else value for key, value in options.items()}
    for old, new in NAMES.items():
        group, name = old.split(".")
        if name in renamed.get(group, {}):
            value = renamed[group].pop(name)
            renamed[group][new.split(".")[1]] = VALUES.get(new, {}).get(value, value)
    if (batches := renamed.get("train", {}).pop("accumulate", 1)) > 1:
        images = renamed["train"]["batch_size"]
        renamed["train"] |= {"batch_size": images * batches, "micro_batch": images}
    for option, value in BEFORE.items():
        group, name = option.split(".")
        if group in renamed:
            renamed[group].setdefault(name, value)
    return renamed


def upgrade(checkpoint: dict[str, Any]) -> None:
    """Give what a checkpoint of this project holds the names that it has now, in place.

    Raises InputError where it was trained under a variant that is another one now.
    """
    checkpoint["radar"]["config"] = with_new_names(checkpoint["radar"]["config"])
    if not any(name.startswith("tokenizer.") for name in checkpoint["state_dict"]):
        refuse_old_attention(checkpoint["radar"]["config"].get("attention"))
    weights = checkpoint["state_dict"]
    for old, new in WEIGHTS.items():
        if old in weights:
            weights[new] = weights.pop(old)
