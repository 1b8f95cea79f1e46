"""Options of dataclasses: default, text and range beside each other, one function that checks them, and one that lists.

A field that is None means "not given": the variant's own default holds.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from radar.config.lookup import choose
from radar.errors import InputError

LARGEST = 2**32 - 1  # of whole numbers: what tensors and seeds can hold


@dataclass(frozen=True)
class Limits:
    """Numbers that an option may be."""

    at_least: float = -math.inf
    above: float = -math.inf
    at_most: float = math.inf
    below: float = math.inf

    def hold(self, value: float) -> bool:
        """Whether a number is within them."""
        return self.at_least <= value <= self.at_most and self.above < value < self.below

    def __str__(self) -> str:
        if self.at_least > -math.inf and self.at_most < math.inf:
            return f"{self.at_least:.10g}..{self.at_most:.10g}"
        limits = {"at least": self.at_least, "above": self.above, "at most": self.at_most, "below": self.below}
        return " and ".join(f"{name} {value:.10g}" for name, value in limits.items() if math.isfinite(value))


def option(
    default: Any,
    text: str,
    *,
    at_least: float = -math.inf,
    above: float = -math.inf,
    at_most: float = math.inf,
    below: float = math.inf,
    choices: Sequence[str] = (),
) -> Any:
    """Declare an option; a list or mapping as default is copied."""
    about = {"text": text, "limits": Limits(at_least, above, at_most, below), "choices": tuple(choices)}
    if isinstance(default, list | dict):
        return field(default_factory=default.copy, metadata=about)
    return field(default=default, metadata=about)


def group(kind: type) -> Any:
    """Declare a group of options."""
    return field(default_factory=kind)


def check_options(config: Any, prefix: str = "") -> None:
    """Check every option below a dataclass by what is declared with it; raises InputError."""
    for item in dataclasses.fields(config):
        value, name = getattr(config, item.name), prefix + item.name
        if dataclasses.is_dataclass(value):
            check_options(value, f"{name}.")
            continue
        for one in value if isinstance(value, list) else [value]:
            _check_number(name, one)
        if isinstance(value, list):
            _check_elements(name, value, item.type)
        if value is None or "limits" not in item.metadata:
            continue
        limits, choices = item.metadata["limits"], item.metadata["choices"]
        if isinstance(value, int | float) and not limits.hold(value):
            raise InputError(f"{name}={value} is not possible: it must be {limits}")
        for one in value if choices and isinstance(value, list) else [value] if choices else []:
            choose(item.name, one, dict.fromkeys(choices))


def _check_elements(name: str, values: list[Any], kind: Any) -> None:
    """Refuse a list whose members are of another type than the option's."""
    lists = [k for k in (get_args(kind) if isinstance(kind, types.UnionType) else [kind]) if k is not type(None)]
    member = get_args(lists[0])[0]
    wanted = typing.get_origin(member) or member
    for one in values:
        if type(one) is not wanted:
            raise InputError(f"{name}={values} is not possible: a list of {_named(member)} expected")


def _check_number(name: str, value: object) -> None:
    if type(value) is int and abs(value) > LARGEST:
        raise InputError(f"{name}={value} is not possible: it must be at most {LARGEST}")
    if type(value) is float and not math.isfinite(value):
        raise InputError(f"{name}={value} is not possible: it must be a finite number")


@dataclass(frozen=True)
class Described:
    """An option as it is listed: its dotted name, type, default, limits or choices, text."""

    name: str
    type: str
    default: str
    limits: str
    text: str


def described(kind: type, prefix: str = "") -> Iterator[Described]:
    """List all options below a dataclass."""
    hints, made = typing.get_type_hints(kind), kind()
    for item in dataclasses.fields(kind):
        hint = hints[item.name]
        if dataclasses.is_dataclass(hint):
            yield from described(typing.cast(type, hint), f"{prefix}{item.name}.")
            continue
        value = getattr(made, item.name)
        default = "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
        limits = ", ".join(item.metadata["choices"]) or str(item.metadata["limits"])
        yield Described(prefix + item.name, _named(hint), default, limits, item.metadata["text"])


def _named(hint: Any) -> str:
    """Write a type, without the None that stands for "not given"."""
    given = get_args(hint)[0] if isinstance(hint, types.UnionType) else hint
    if typing.get_origin(given) is dict:
        return "options"
    return str(given) if get_args(given) else str(given.__name__)
