"""Looking variants up by name, and handing them their options: the one way from a configuration to a function."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from radar.errors import InputError

T = TypeVar("T")
OWN = "radar_plugin_"  # with which the modules of plugins begin


def choose(what: str, name: str, table: Mapping[str, T]) -> T:
    """Look a variant up by name; raises InputError that lists the valid ones."""
    if name not in table:
        raise InputError(f"unknown {what} '{name}'; choose from: {', '.join(table)}")
    return table[name]


def call(what: str, name: str, table: Mapping[str, Callable[..., T]], *args: Any, **options: Any) -> T:
    """Call the variant `name` with those options that were given (are not None).

    Raises InputError for an unknown name, or an option that this variant does not take.
    """
    function = choose(what, name, table)
    given = {key: value for key, value in options.items() if value is not None}
    taken = list(inspect.signature(function).parameters)[len(args) :]
    for key in given:
        if key not in taken:
            raise InputError(
                f"{what} '{name}' takes no option '{key}'; it takes: {', '.join(taken) or 'none'}; null leaves it out"
            )
    try:
        return function(*args, **given)
    except InputError:
        raise
    except Exception as error:
        if not str(function.__module__).startswith(OWN):
            raise
        raise InputError(f"{what} '{name}', of a plugin, fails: {type(error).__name__}: {error}") from error


def takes(name: str, table: Mapping[str, Callable[..., Any]], option: str) -> bool:
    """Whether the variant `name`, if there is one, takes an option."""
    return name in table and option in inspect.signature(table[name]).parameters
