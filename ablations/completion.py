"""`radar completion bash`: a script that completes verbs, arguments, options, ready-made names and files in a shell.

Into a file that the shell reads: `radar completion bash > ~/.local/share/bash-completion/completions/radar`.
"""

import argparse
import sys
from collections.abc import Iterable, Sequence
from importlib.resources import files

import shtab

from ablations.cli import VERBS, Parser, load
from radar.config.load import flatten, to_dict
from radar.config.options import Config

READY_MADE = {"config": "experiments.configs", "study": "ablations.studies"}  # argument: where its names lie
FUNCTIONS = {
    "bash": '_radar_{name}() {{ compgen -W "{words}" -- "$1"; compgen -f -- "$1"; }}',
    "zsh": "_radar_{name}() {{ compadd -S '' -- {words}; _files; }}",
}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what it takes."""
    parser.add_argument("shell", choices=shtab.SUPPORTED_SHELLS)


def main(args: argparse.Namespace) -> None:
    """Run `radar completion`."""
    lists: dict[str, Sequence[str]] = {name: sorted(ready_made(room)) for name, room in READY_MADE.items()}
    lists["options"] = ["method=", *(f"{name}=" for name in flatten(to_dict(Config())))]
    written = FUNCTIONS.get(args.shell, "")
    functions = [written.format(name=name, words=" ".join(words)) for name, words in lists.items() if written]
    sys.stdout.write(shtab.complete(whole_parser(), args.shell, preamble="\n".join(functions)))


def ready_made(room: str) -> Iterable[str]:
    """Names of the configurations, or studies, that come with the package."""
    return (path.name.removesuffix(".yaml") for path in files(room).iterdir() if path.name.endswith(".yaml"))


def whole_parser() -> argparse.ArgumentParser:
    """Parser of all verbs with their arguments: files are completed as such, ready-made names and options by name."""
    parser = Parser(prog="radar")
    verbs = parser.add_subparsers(dest="verb")
    for name, verb in VERBS.items():
        own = verbs.add_parser(name, help=verb.text)
        load(verb).arguments(own)
        if verb.takes_options:
            own.add_argument("options", nargs="*")
        for action in own._actions:
            if action.dest in (*READY_MADE, "options") and not action.option_strings:
                action.complete = dict.fromkeys(FUNCTIONS, f"_radar_{action.dest}")  # type: ignore[attr-defined]
            elif action.choices is None and action.type is None and action.nargs != 0:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    return parser
