"""The `radar` command: finds the verb, runs it, turns every expected failure into one line and an exit code.

It stands in the topmost layer because it knows all verbs. A verb declares its own arguments; its module is imported
when it is called, so that `radar --help` is quick.
"""

import argparse
import atexit
import gc
import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import NamedTuple, NoReturn

from radar.errors import InputError, RunError, stop
from radar.files import check_writable, is_full


class Verb(NamedTuple):
    """A verb: its module, with `arguments(parser)` and `main(args)`, and what is known of it before it is imported.

    Attributes:
        takes_options: `key=value` anywhere.
        writes_folder: whether its --out is a folder and not a file.
        one_thread: whether its matrices are so small that several threads would only wait for each other.
    """

    module: str
    text: str
    takes_options: bool = False
    writes_folder: bool = False
    one_thread: bool = False


VERBS = {
    "orders": Verb("experiments.orders", "table and picture of the decoding orders", one_thread=True),
    "options": Verb("experiments.options", "all options of a configuration, with their ranges"),
    "explore": Verb("experiments.explore", "a page that plays orders and shows who sees whom", one_thread=True),
    "gap": Verb("experiments.gap", "what decoding in parallel costs by order, before any training", True, False, True),
    "markov": Verb("experiments.markov", "the gap of a known discrete field, exactly and by sampling", one_thread=True),
    "methods": Verb(
        "experiments.methods", "table of the published methods on the shared transformer", True, False, True
    ),
    "masks": Verb("experiments.masks", "picture of an attention mask", True, False, True),
    "import": Verb("experiments.imports", "turn published weights into a checkpoint", True),
    "tokenizer": Verb(
        "experiments.tokenizer", "train a learned tokenizer, by tokenizer_training where its configuration has it", True
    ),
    "encode": Verb("experiments.encode", "turn the images of a data set into tokens", True),
    "plan": Verb("ablations.forecast", "memory and time of a training or a study, before it", True),
    "train": Verb("experiments.train", "train a generator, and first its tokenizer if that is not trained", True),
    "sample": Verb("experiments.sample", "draw images from a checkpoint", True, True),
    "edit": Verb("experiments.edit", "draw parts of images anew: inpainting, outpainting, other classes", True, True),
    "evaluate": Verb("experiments.evaluate", "score a checkpoint", True, True),
    "export": Verb("experiments.export", "a checkpoint as a folder for others: safetensors, card, samples", True),
    "push": Verb("experiments.push", "send an exported folder to the Hugging Face hub"),
    "reference": Verb("experiments.reference", "statistics of the real images, as files", True, True),
    "bench": Verb("experiments.bench", "time sampling and training against the roofline floor of this device", True),
    "new": Verb("ablations.new", "write a study on your own images"),
    "ablate": Verb("ablations.ablate", "run a study: train, sample, score and time every arm", True, True),
    "report": Verb(
        "ablations.report", "write tables, pictures and pages of a study, also while it runs", True, True, True
    ),
    "curves": Verb("ablations.curves", "quality against the number of steps, from several reports", False, True, True),
    "watch": Verb("ablations.watch", "follow a study in the terminal", True, True, True),
    "doctor": Verb("experiments.doctor", "what is installed and what works here, for a report of a bug"),
    "completion": Verb("ablations.completion", "a script that completes commands in a shell"),
}
OF_LOADER = "Original Traceback"
RENAMED = {"fronts": "curves"}
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")  # read when numpy and torch are imported


class Parser(argparse.ArgumentParser):
    """Reports a wrong command line in one line."""

    def error(self, message: str) -> NoReturn:
        """Print the message and exit with code 2."""
        fail(f"{message} (see {self.prog} --help)", 2)


class Version(argparse.Action):
    """Prints the version, which stands in pyproject.toml alone; looked up only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object, **__: object) -> NoReturn:
        """Print and exit."""
        from importlib.metadata import version

        print(f"radar-ablations {version('radar-ablations')}")
        parser.exit()


def list_verbs() -> Parser:
    """Describe all verbs without importing any."""
    parser = Parser(prog="radar", description="Generation-order ablations of image generators.")
    parser.add_argument("--version", action=Version, nargs=0, help="show the version and exit")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, verb in VERBS.items():
        verbs.add_parser(name, help=verb.text, add_help=False)
    return parser


def read_command(argv: Sequence[str]) -> tuple[Verb, ModuleType, argparse.Namespace]:
    """Find the verb, import it, and let it read its own arguments; fails with exit code 2 for a wrong command line."""
    if argv and argv[0] in RENAMED:
        fail(f"verb '{argv[0]}' is called '{RENAMED[argv[0]]}' now", 2)
    name = list_verbs().parse_known_args(argv[:1])[0].verb
    verb = VERBS[name]
    os.environ["MPLBACKEND"] = "agg"  # pictures go into files, whatever a user's windows are drawn by
    if verb.one_thread:
        os.environ |= {variable: os.environ.get(variable, "1") for variable in THREADS}
    module = load(verb)
    parser = parser_of(name, module)
    args, options = parser.parse_known_args(argv[1:])
    args.options = options
    for text in args.options:
        if not verb.takes_options or text.startswith("-") or "=" not in text:
            parser.error(f"{name} does not take '{text}'")
    return verb, module, args


def parser_of(name: str, module: ModuleType) -> Parser:
    """Parser of a verb's own arguments."""
    verb = VERBS[name]
    parser = Parser(prog=f"radar {name}", description=verb.text)
    module.arguments(parser)
    if verb.takes_options:
        parser.usage = f"{parser.format_usage().removeprefix('usage: ').strip()} [key=value ...]"
    return parser


def fail(message: str, code: int) -> NoReturn:
    """Print one line and exit."""
    print(f"radar: {message}", file=sys.stderr)
    sys.exit(code)


def leave_if_unread() -> None:
    """Exit with code 141, as by SIGPIPE, where nobody reads the output any more, as in `radar orders | head`."""
    try:
        print(flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more when it ends
        sys.exit(141)


def load(verb: Verb) -> ModuleType:
    """Import a verb's module without collecting garbage: there is none, and looking for it took a third of the time."""
    gc.disable()
    try:
        return import_module(verb.module)
    finally:
        gc.enable()


def check_outputs(verb: Verb, args: argparse.Namespace) -> None:
    """Fail before the work and not after it, where what is asked for could not be written; raises InputError."""
    for name in () if getattr(args, "once", None) is not None or getattr(args, "compare", None) else ("out", "save"):
        if (path := getattr(args, name, None)) is not None:
            setattr(args, name, str(Path(path).expanduser()))
            check_writable(Path(path).expanduser(), verb.writes_folder)


def main(argv: Sequence[str] | None = None) -> None:
    """Run a verb; exit code 2 for bad input, 1 for a loss that is not finite, 130, 141 and 143 for signals."""
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    atexit.register(gc.freeze)  # else Python looks through all that torch has loaded once more, for seconds
    try:
        verb, module, args = read_command(sys.argv[1:] if argv is None else argv)
        check_outputs(verb, args)
        if getattr(args, "plugins", None):
            import_module("radar.config.plugins").import_plugins(args.plugins)
        module.main(args)
        sys.stdout.flush()
    except Exception as error:
        if isinstance(error, BrokenPipeError):
            leave_if_unread()
        if (known := explain(error)) is None:
            raise
        fail(*known)


def explain(error: Exception) -> tuple[str, int] | None:
    """Message and exit code of a failure that can be expected; None of any other."""
    text = str(error)
    if OF_LOADER in text:  # the process that loads images for this one has passed on its traceback
        text = text.rpartition("Error: ")[2].strip()
    if isinstance(error, RunError | InputError):
        return text, 1 if isinstance(error, RunError) else 2
    if is_full(error):
        other = "the study's database" if "disk is full" in text else "a file"
        return f"cannot write {getattr(error, 'filename', None) or other}: no space left", 2
    if isinstance(error, MemoryError):
        return f"out of memory: {text or 'choose a smaller batch size'}", 1
    # torch.OutOfMemoryError, by name, since torch is imported only where it is needed
    if type(error).__name__ == "OutOfMemoryError" or "DefaultCPUAllocator" in text:
        return text.splitlines()[0], 1
    if isinstance(error, OSError):
        return f"cannot use {error.filename}: {error.strerror}" if error.filename else text, 2
    return None
