"""`radar plan CONFIG|STUDY [key=value ...]`: memory, operations and time of trainings, before anything is allocated."""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from ablations.study.plan import read_plan
from ablations.study.prepare import arm_values
from ablations.study.study_file import STUDIES
from experiments.arguments import parse_grid
from experiments.configs import find_config
from radar.config.load import load_config, to_config
from radar.config.options import Config
from radar.config.training import check_training
from radar.data import load_data
from radar.errors import InputError, naming
from radar.hub import is_remote
from radar.model.blocks import model_shape
from radar.timing.forecast import Forecast, forecast
from radar.timing.training_rates import TrainingRates, measure_training_rates, parse_rates
from radar.tokenizers import Tokenizer, build_tokenizer
from radar.tokenizers.tokenizer import OnlyCodes
from radar.training.checkpoints import as_drawn, load_tokenizer
from radar.training.devices import pick_device

PARTS = ("weights", "gradients", "optimizer", "average", "activations", "copies", "total")
GB = 1e9
GIVEN = ("vocabulary", "classes", "grid")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what it takes."""
    parser.add_argument("config", help="YAML file, or the name of a ready-made configuration")
    parser.add_argument("--study", action="store_true", help="it is one of a study: plan all of its arms")
    parser.add_argument(
        "--rates",
        help="rates of the device that will train, a GPU unless train.device=cpu: "
        "products=4e14,attention=3e14,bytes=2e12 (default: measured here)",
    )
    parser.add_argument("--grid", help="cells, ROWSxCOLUMNS; with --vocabulary and --classes no data is opened")
    parser.add_argument("--vocabulary", type=int, help="number of codes")
    parser.add_argument("--classes", type=int, help="number of labels")


def main(args: argparse.Namespace) -> None:
    """Run `radar plan`."""
    given = [name for name in GIVEN if getattr(args, name) is not None]
    if given and len(given) < len(GIVEN):
        raise InputError(f"--{given[0]} needs --grid, --vocabulary and --classes together, in place of the data")
    rates, lines, planned = parse_rates(args.rates) if args.rates else None, [], []
    for arm, config in configs(args.config, args.study, args.options):
        with naming(f"arm '{arm}'"):
            if given and config.diffusion.latents:
                raise InputError(
                    "diffusion.latents=true draws what a tokenizer knows, and --vocabulary stands for codes"
                )
            tokenizer, classes, cells = (
                (OnlyCodes(args.vocabulary), args.classes, parse_grid(args.grid)) if given else sizes(config)
            )
            check_training(config.train)
            device = "cuda" if rates and config.train.device != "cpu" else pick_device(config.train.device).type
            found = forecast(config, tokenizer, classes, cells, device)
            own = rates or measured(config, found)
        planned.append(config)
        lines.append(line(arm, found, found.seconds(own)))
        print(f"{arm}: {found.total / GB:.2f} GB, {found.seconds(own):.3g} s per step", flush=True)
    print(table(planned, lines, rates))


def configs(name: str, study: bool, options: list[str]) -> Iterator[tuple[str, Config]]:
    """Configurations of all arms of a study, or the one of a file."""
    if study:
        plan = read_plan(name, None, options)
        for arm, values in arm_values(plan):
            with naming(f"arm '{arm}'"):
                yield arm, to_config(values, plan.overrides)
    else:
        config = load_config(_find(name, options), options)
        yield f"{config.order.name}/{config.attention}", config


def _find(name: str, options: list[str]) -> Path:
    try:
        return find_config(name, options)
    except InputError as error:
        if (STUDIES / f"{name}.yaml").is_file():
            raise InputError(f"'{name}' is a study: --study plans all of its arms") from error
        raise


def sizes(config: Config) -> tuple[Tokenizer, int, tuple[int, int]]:
    """Tokenizer, which may be untrained, and labels and cells of the data; raises InputError."""
    data = load_data(config.data)
    path = config.tokenizer.checkpoint
    trained = path is not None and (is_remote(path) or Path(path).exists())
    tokenizer = as_drawn(load_tokenizer(config.tokenizer) if trained else build_tokenizer(config.tokenizer), config)
    return tokenizer, len(data.classes), tokenizer.grid(data.size)


def measured(config: Config, found: Forecast) -> TrainingRates:
    """Rates of this device for a model's pieces."""
    low = config.train.precision == "bf16-mixed"
    device, dtype = pick_device(config.train.device), torch.bfloat16 if low else torch.float32
    return measure_training_rates(model_shape(config.model), found.slots, found.part, device, dtype)


def line(arm: str, found: Forecast, seconds: float) -> list[str]:
    """One arm in the columns of the table."""
    memory = [f"{getattr(found, part) / GB:.2f}" for part in PARTS]
    work = f"{sum(found.flops.values()) / 1e12:.3g}"
    hours = found.steps * seconds / 3600
    parameters, speed = f"{found.parameters / 1e6:.3g}", f"{found.images / seconds:.3g}"
    return [arm, parameters, *memory, work, f"{seconds:.3g}", speed, f"{hours:.3g}"]


def table(planned: Sequence[Config], lines: list[list[str]], rates: TrainingRates | None) -> str:
    """All arms, and what the figures are of."""
    titles = ["arm", "M params", *PARTS, "TFLOP/step", "s/step", "images/s", "hours"]
    rows = [titles, *lines]
    widths = [max(len(row[i]) for row in rows) for i in range(len(titles))]
    text = "\n".join("  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows)
    spread = {f"{t.devices * t.nodes} devices; {t.precision}" for t in (config.train for config in planned)}
    how = "rates as given" if rates else "rates measured on this device"
    return (
        f"{text}\nGB of each of {' or '.join(sorted(spread))}; time by {how}, without loading and what devices tell "
        "each other"
    )
