"""`radar options [GROUP]`: all options of a configuration, or those of a group, with their defaults and ranges."""

import argparse
import typing
from dataclasses import is_dataclass
from textwrap import dedent

from radar.config.described import Described, described
from radar.config.lookup import choose
from radar.config.options import Config

HINTS = typing.get_type_hints(Config)
GROUPS = {name: hint for name, hint in HINTS.items() if isinstance(hint, type) and is_dataclass(hint)}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what it takes."""
    parser.add_argument("group", nargs="?", help=f"one of: {', '.join(GROUPS)} (default: all options)")
    parser.add_argument("--markdown", action="store_true", help="as in docs/options.md")


def listed(group: str | None) -> list[Described]:
    """Options of a group, or all; raises InputError for an unknown group."""
    if group is None:
        return list(described(Config))
    return list(described(choose("group of options", group, GROUPS), f"{group}."))


def as_text(options: list[Described]) -> str:
    """Lay options out for the terminal."""
    names = [f"{one.name}={one.default}" for one in options]
    width = max(map(len, names)) + 2
    lines = [f"{name:{width}}{one.type:10} {one.text}{_limits(one)}" for name, one in zip(names, options, strict=True)]
    return "\n".join(lines)


def _limits(one: Described) -> str:
    return f" ({one.limits})" if one.limits else ""


def as_markdown(group: str | None = None) -> str:
    """All options as a page, docs/options.md, or those of a group; raises InputError for an unknown group."""
    parts = ["# Options", PREFACE] if group is None else []
    chosen = {"": Config, **GROUPS} if group is None else {group: choose("group of options", group, GROUPS)}
    for name, kind in chosen.items():
        rows = [one for one in listed(name or None) if name or "." not in one.name]
        head = f"## {name}\n\n{kind.__doc__}" if name else "## Of the whole run"
        lines = [f"| `{one.name}` | {one.type} | {one.default} | {one.limits} | {one.text} |" for one in rows]
        parts.append("\n".join([head, "", "| option | type | default | range | |", "|---|---|---|---|---|", *lines]))
    return "\n\n".join(parts) + "\n"


PREFACE = dedent("""\
    Written by `radar options --markdown`; the same in the terminal: `radar options`, `radar options train`. Where no
    default stands, the variant's own holds. `method=randar` stands for the options of a published method
    ([methods](methods.md)).""")


def main(args: argparse.Namespace) -> None:
    """Run `radar options`."""
    print(as_markdown(args.group) if args.markdown else as_text(listed(args.group)), end="" if args.markdown else "\n")
