"""The `radar` command: finds the verb, runs it, turns every expected failure into one line and an exit code.

It stands in the topmost layer because it knows all verbs. A verb's module is imported when it is called, so that
`radar --help` is quick.
"""

import argparse
import atexit
import gc
import os
import signal
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import NoReturn

from radar.errors import InputError, RunError, stop
from radar.files import check_writable, is_full

VERBS = {
    "orders": ("experiments.orders", "table and picture of the decoding orders"),
    "gap": ("experiments.gap", "what decoding in parallel costs by order, before any training"),
    "markov": ("experiments.markov", "the gap of a known discrete field, exactly and by sampling"),
    "methods": ("experiments.methods", "table of the published methods on the shared transformer"),
    "masks": ("experiments.masks", "picture of an attention mask"),
    "import": ("experiments.imports", "turn published weights into a checkpoint"),
    "tokenizer": ("experiments.tokenizer", "train a learned tokenizer"),
    "train": ("experiments.train", "train a generator"),
    "sample": ("experiments.sample", "draw images from a checkpoint"),
    "evaluate": ("experiments.evaluate", "score a checkpoint"),
    "bench": ("experiments.bench", "time sampling and training against the roofline floor of this device"),
    "ablate": ("ablations.ablate", "run a study: train, sample, score and time every arm"),
    "report": ("ablations.report", "write tables, pictures and pages of a study, also while it runs"),
    "curves": ("ablations.curves", "put reports of several numbers of steps together: quality against steps"),
    "watch": ("ablations.watch", "follow a study in the terminal"),
}
STUDIES = ("ablate", "report", "watch")
FOLDERS = ("sample", "evaluate", "curves", *STUDIES)  # verbs whose --out is a folder and not a file
ONE_THREAD = ("orders", "gap", "markov", "methods", "masks", "report", "curves", "watch")
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")  # read when numpy and torch are imported
ARMS = "raster/causal,radial/plain,radial/relay,radial/nested,radial/full"
# Verbs that take key=value anywhere.
WITH_OPTIONS = ("train", "tokenizer", "sample", "evaluate", "masks", "methods", "gap", "import", "bench", *STUDIES)


class Parser(argparse.ArgumentParser):
    """Reports a wrong command line in one line."""

    def error(self, message: str) -> NoReturn:
        """Print the message and exit with code 2."""
        fail(f"{message} (see {self.prog} --help)", 2)


def build_parser() -> argparse.ArgumentParser:
    """Describe all verbs without importing them."""
    parser = Parser(prog="radar", description="Generation-order ablations of image generators.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    made = {verb: verbs.add_parser(verb, help=text, description=text) for verb, (_, text) in VERBS.items()}
    for verb in ("train", "tokenizer"):
        made[verb].add_argument("config", help="YAML file, or the name of a ready-made configuration")
    for verb in ("sample", "evaluate"):
        made[verb].add_argument("checkpoint", help="written by `radar train`")
        made[verb].add_argument("--out", help="folder for the results (default: beside the checkpoint)")
    made["gap"].add_argument("--orders", help="with commas and options: radial,halton:steps=13:schedule=cosine")
    made["gap"].add_argument(
        "--steps", type=int, help="of orders that give none; sizes: cosine (default: natural groups)"
    )
    made["gap"].add_argument("--grid", help="rows x columns (default 16x16)")
    made["gap"].add_argument("--kernel", help="exponential, matern32 or matern52 (default exponential)")
    made["gap"].add_argument("--length", type=float, help="length scale of the kernel, in cells (default 4)")
    made["gap"].add_argument("--from-data", metavar="CONFIG", help="estimate the field from the tokens of its data")
    made["gap"].add_argument("--estimate", help="embeddings or information (default embeddings)")
    made["gap"].add_argument("--pooled", action="store_const", const=True, help="over all classes, not given the class")
    made["gap"].add_argument("--images", type=int, help="that the field is estimated from, at most (default 20000)")
    made["gap"].add_argument("--save", metavar="NPZ", help="write the field, for order.covariance")
    made["gap"].add_argument("--out", default="runs/gap.png", help="PNG")
    made["markov"].add_argument("--grid", default="3x3", help="rows x columns, at most 16 cells (default 3x3)")
    made["markov"].add_argument("--coupling", type=float, default=0.8, help="nats per pair of equal neighbours")
    made["markov"].add_argument("--images", type=int, default=100000, help="to draw per order (default 100000)")
    made["markov"].add_argument("--out", default="runs/markov.png", help="PNG; the rows are written beside it as JSON")
    made["import"].add_argument("kind", help="llamagen-gpt or llamagen-vq")
    made["import"].add_argument("file", help="published weights: a state dict, by itself or under model or state_dict")
    made["import"].add_argument("--out", help="checkpoint to write (default runs/KIND/NAME.ckpt)")
    made["orders"].add_argument("--grid", default="16x16", help="rows x columns (default 16x16)")
    made["orders"].add_argument(
        "--length", type=float, default=4.0, help="length scale of the Gaussian field, in cells"
    )
    made["orders"].add_argument("--steps", type=int, help="steps of the last rows (default: as radial)")
    made["orders"].add_argument("--out", default="runs/orders.png", help="PNG with all step maps")
    made["masks"].add_argument("--order", default="radial", help="radial:metric=chebyshev (default radial)")
    made["masks"].add_argument("--variant", default="nested")
    made["masks"].add_argument("--grid", default="8x8")
    made["masks"].add_argument("--out", help="PNG (default runs/mask-ORDER-VARIANT.png)")
    made["bench"].add_argument("--arms", default=ARMS, help=f"order/variant, with commas (default {ARMS})")
    made["bench"].add_argument("--what", default="sample", help="sample,decode,train,load,metrics (default sample)")
    made["bench"].add_argument("--batch", default="1,16", help="batch sizes, also `max`: what fits (default 1,16)")
    made["bench"].add_argument("--guidance", default="1", help="guidance scales (default 1: off)")
    made["bench"].add_argument("--grid", default="16x16", help="rows x columns, with commas (default 16x16)")
    made["bench"].add_argument("--vocabulary", type=int, default=4096)
    made["bench"].add_argument("--classes", type=int, default=1000)
    made["bench"].add_argument("--repeats", type=int, default=5, help="rounds, after those of warming up (default 5)")
    made["bench"].add_argument("--threads", type=int, default=1)
    made["bench"].add_argument("--out", default="runs/bench.json", help="JSON; a PNG is written beside it")
    made["bench"].add_argument("--compare", nargs=2, metavar="JSON", help="compare two results and measure nothing")
    made["bench"].set_defaults(unchanged=vars(made["bench"].parse_args([])))  # --compare takes none of the others
    made["curves"].add_argument("folders", nargs="+", help="folders of reports, with results.json")
    made["curves"].add_argument("--baseline", help="arm that the others are compared with (default: the first)")
    made["curves"].add_argument("--out", default="runs/curves", help="folder for curves.md and curves.png")
    for verb in STUDIES:
        again = "; or the folder of a report, to write it again" if verb == "report" else ""
        made[verb].add_argument("study", help=f"YAML file, or the name of a ready-made study{again}")
        made[verb].add_argument("--out", help="folder for the results (default runs/ablations/NAME)")
        made[verb].add_argument("--storage", help="database URL that several machines share (default: SQLite in --out)")
    made["ablate"].add_argument("--workers", type=int, help="processes (default: cores / threads of the study)")
    made["ablate"].add_argument("--retry-failed", action="store_true", help="run trials that failed once more")
    made["report"].add_argument("--baseline", metavar="ARM", help="compare the others with this arm")
    made["watch"].add_argument("--once", action="store_true", help="print the table once")
    for verb in WITH_OPTIONS:
        made[verb].usage = f"{made[verb].format_usage().removeprefix('usage: ').strip()} [key=value ...]"
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


def load(verb: str) -> ModuleType:
    """Import a verb's module without collecting garbage: there is none, and looking for it took a third of the time."""
    gc.disable()
    try:
        return import_module(VERBS[verb][0])
    finally:
        gc.enable()


def main(argv: list[str] | None = None) -> None:
    """Run a verb; exit code 2 for bad input, 1 for a loss that is not finite, 130, 141 and 143 for signals."""
    parser = build_parser()
    args, args.options = parser.parse_known_args(argv)
    for text in args.options:
        if args.verb not in WITH_OPTIONS or text.startswith("-") or "=" not in text:
            parser.error(f"{args.verb} does not take '{text}'")
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    if args.verb in ONE_THREAD:  # for small matrices several only wait for each other
        os.environ |= {name: os.environ.get(name, "1") for name in THREADS}
    atexit.register(gc.freeze)  # else Python looks through all that torch has loaded once more, for seconds
    try:
        written = [] if args.verb == "watch" or getattr(args, "compare", None) else ["out", "save"]
        for name in written:
            if (path := getattr(args, name, None)) is not None:
                setattr(args, name, str(Path(path).expanduser()))
                check_writable(Path(path).expanduser(), args.verb in FOLDERS)
        load(args.verb).main(args)
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
