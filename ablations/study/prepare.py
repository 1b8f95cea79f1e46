"""What all trials of a study need once, made before the workers would race for it.

Tokenizers, fields, tokens, feature networks.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ablations.reporting.results import REMEDY, judges
from ablations.study.plan import Plan
from radar.config.load import merge_options, parse_order, to_config, tokenizer_config, training_options
from radar.config.options import Config
from radar.data import load_data
from radar.data.tokens import cached_tokens
from radar.errors import InputError, naming
from radar.files import locked
from radar.scoring.data_field import estimate_field, field_origin, save_field
from radar.scoring.reference import build_references
from radar.scoring.restoration import restored_distances
from radar.scoring.row import Row
from radar.tokenizers import tokenizer_hash
from radar.training.checkpoints import build_generator, load_tokenizer
from radar.training.devices import pick_device
from radar.training.untrained import check_untrained, train_untrained, trained_otherwise, untrained


def prepare_inputs(plan: Plan) -> None:
    """Make what the trials cannot even be planned without."""
    check_arms(plan)
    check_idle(plan)
    train_tokenizers(plan)
    estimate_fields(plan)


def check_idle(plan: Plan) -> None:
    """Refuse to estimate fields where no arm has any; raises InputError."""
    fields = list[str]()
    for arm, values in arm_values(plan):
        with naming(f"arm '{arm}'"):
            fields += covariances(to_config(values, plan.overrides))
    if plan.file.estimator is not None and not fields:
        raise InputError(f"estimator: {plan.file.estimator} has no effect: no arm names an order.covariance")


def covariances(config: Config) -> list[str]:
    """Files of the fields that its orders are made for: of the trained one, and of the one that is sampled in."""
    orders = [config.order] + ([parse_order(config.sample.order)] if config.sample.order else [])
    return [order.covariance for order in orders if order.covariance is not None]


def check_arms(plan: Plan) -> None:
    """Build every arm whose tokenizer is still to be trained, on an untrained one; raises InputError.

    A wrong option ends the study before that training and not after. Without fields, which come later.
    """
    trainings, said = dict[Path, tuple[str, dict[str, Any]]](), dict[str, None]()
    for arm, values in arm_values(plan):
        with naming(f"arm '{arm}'"):
            config = to_config(values, plan.overrides)
            check_untrained(without_fields(config))
            if (path := untrained(config)) is None:
                said |= {text: None for text in [trained_otherwise(config)] if text}
                continue
            training = training_options(tokenizer_config(config))
            other, theirs = trainings.setdefault(path, (arm, training))
            if training != theirs:
                raise InputError(
                    f"tokenizer.checkpoint={path} is another one, or trained otherwise, for arm '{other}': give it "
                    "another folder"
                )
    for text in said:
        print(text)


def without_fields(config: Config) -> Config:
    """The same with orders that need no field of a file."""
    sampled = config.sample.order is not None and parse_order(config.sample.order).covariance is not None
    sample = replace(config.sample, order=None, order_per_image=False) if sampled else config.sample
    return replace(config, order=replace(config.order, covariance=None), sample=sample)


def train_tokenizers(plan: Plan) -> None:
    """Train every tokenizer that is not trained yet, or not to its end."""
    for arm, values in arm_values(plan):
        with naming(f"arm '{arm}'"):
            train_untrained(to_config(values, plan.overrides), f"tokenizer of '{arm}'")


def arm_values(plan: Plan) -> list[tuple[str, dict[str, Any]]]:
    """Options of every arm, merged; in a search those that all its trials have in common."""
    arms = {"base": {}} if plan.searching else {arm: options for arm, (options, _) in plan.arms.items()}
    return [(arm, merge_options(plan.base, plan.file.config, options)) for arm, options in arms.items()]


def estimate_fields(plan: Plan) -> None:
    """Estimate every field that an arm's order is made for, from the arm's own data, where `estimator` is given."""
    if plan.file.estimator is None:
        return
    for arm, values in arm_values(plan):
        with naming(f"arm '{arm}'"):
            config = to_config(values, plan.overrides)
            for path in covariances(config):
                estimate_once(config, plan.file.estimator, Path(path))


def estimate_once(config: Config, estimator: str, path: Path) -> None:
    """Estimate a field; raises InputError if one of another origin is in its place already."""
    tokenizer = tokenizer_hash(load_tokenizer(config.tokenizer))
    origin = f"{estimator} of {load_data(config.data).identity}, tokenizer {tokenizer}"
    with locked(path.parent / "lock"):
        if not path.exists():
            field, _, title = estimate_field(config, estimator)
            save_field(field, path, origin)
            print(f"{path}: {title}")
    if (found := field_origin(path)) != origin:
        raise InputError(f"{path} is a field of another origin ({found}, here {origin}); delete it, or name another")


def prepare(plan: Plan, rows: Sequence[Row]) -> None:
    """Encode the images, train the feature networks that the trials use, and extract the features of real images.

    Raises InputError if the rows that are there already were scored by others.
    """
    configs = [trial.config for trial in plan.trials] or [plan.sketch().config]
    parts = {
        repr((c.data, c.tokenizer, c.diffusion.latents, c.evaluate.features, c.evaluate.reference_images)): c
        for c in configs
    }
    for config in parts.values():
        _, data, tokenizer = build_generator(config)
        device = pick_device(config.train.device)
        references = build_references(config, data, device)
        network = ", ".join(one.network.title for one in references)
        if others := {judges(row) for row in rows} - {network}:
            raise InputError(f"rows are there that {'; '.join(sorted(others))} scored, and here is {network}; {REMEDY}")
        cached_tokens(data, tokenizer.to(device), config.data.cache, config.data.workers)
        if tokenizer.learned:
            restored_distances(tokenizer, references, device, config.evaluate.images, config.data.cache)
