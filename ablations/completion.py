"""`radar completion bash`: a script that completes verbs, arguments, options and files in a shell.

Into a file that the shell reads: `radar completion bash > ~/.local/share/bash-completion/completions/radar`.
"""

import argparse
import sys

import shtab

from ablations.cli import VERBS, Parser, load


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what it takes."""
    parser.add_argument("shell", choices=shtab.SUPPORTED_SHELLS)


def main(args: argparse.Namespace) -> None:
    """Run `radar completion`."""
    sys.stdout.write(shtab.complete(whole_parser(), args.shell))


def whole_parser() -> argparse.ArgumentParser:
    """Parser of all verbs with their arguments, of which files are completed as such."""
    parser = Parser(prog="radar")
    verbs = parser.add_subparsers(dest="verb")
    for name, verb in VERBS.items():
        own = verbs.add_parser(name, help=verb.text)
        load(verb).arguments(own)
        for action in own._actions:
            if action.choices is None and action.type is None and action.nargs != 0:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    return parser
