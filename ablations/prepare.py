"""What all trials of a study need once, made before the workers would race for it.

Tokenizers, fields, tokens, feature networks.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ablations.plan import Plan, naming
from experiments.gap import estimate_field, save_field
from experiments.tokenizer import train_tokenizer
from radar.checkpoints import build_generator, pick_device, read_checkpoint
from radar.config import merge_options, parse_order, to_config
from radar.errors import InputError
from radar.features import load_features
from radar.files import locked
from radar.optimised import read_field
from radar.options import Config
from radar.tokenizers import build_tokenizer
from radar.tokens import cached_tokens


def prepare_inputs(plan: Plan) -> None:
    """Make what the trials cannot even be planned without."""
    train_tokenizers(plan)
    estimate_fields(plan)


def train_tokenizers(plan: Plan) -> None:
    """Train every learned tokenizer that is not trained yet, or not to its end, with `tokenizer_training`."""
    for arm, values in arm_values(plan):
        with naming(arm):
            config = to_config(values, plan.overrides)
            path, learned = config.tokenizer.checkpoint, build_tokenizer(config.tokenizer).learned
        if path is None or not learned:
            continue
        with locked(Path(path).parent / "lock"):
            if not is_trained(Path(path)):
                kept = [text for text in plan.overrides if not text.startswith("train.")]  # those are the generator's
                trained = to_config(merge_options(values, plan.file.tokenizer_training), kept)
                train_tokenizer(replace(trained, run=str(Path(path).parent)), f"tokenizer of '{arm}'")


def arm_values(plan: Plan) -> list[tuple[str, dict[str, Any]]]:
    """Options of every arm, merged; in a search those that all its trials have in common."""
    arms = {"base": {}} if plan.searching else {arm: options for arm, (options, _) in plan.arms.items()}
    return [(arm, merge_options(plan.base, plan.file.config, options)) for arm, options in arms.items()]


def estimate_fields(plan: Plan) -> None:
    """Estimate every field that an arm's order is made for, from the arm's own data, where `estimator` is given."""
    for arm, values in arm_values(plan) if plan.file.estimator else ():
        with naming(arm):
            config = to_config(values, plan.overrides)
            sampled = config.order if config.sample.order is None else parse_order(config.sample.order)
            for path in {config.order.covariance, sampled.covariance} - {None}:
                estimate_once(config, str(plan.file.estimator), Path(str(path)))


def estimate_once(config: Config, estimator: str, path: Path) -> None:
    """Estimate a field; raises InputError if there is another in its place already."""
    field, grid, title = estimate_field(config, estimator)
    with locked(path.parent / "lock"):
        if not path.exists():
            save_field(field, path)
            print(f"{path}: {title}")
    if not np.allclose(read_field(str(path), *grid), field, atol=1e-4):
        raise InputError(f"{path} holds another field than {title}; delete it, or name another file")


def is_trained(path: Path) -> bool:
    """Whether a checkpoint is there and has made all of its steps; raises InputError for a damaged one."""
    if not path.exists():
        return False
    checkpoint = read_checkpoint(path)
    return bool(checkpoint["global_step"] >= checkpoint["radar"]["config"]["train"]["steps"])


def prepare(plan: Plan) -> None:
    """Encode the images and train the feature networks that the trials use."""
    configs = [trial.config for trial in plan.trials] or [plan.sketch().config]
    parts = {repr((c.data, c.tokenizer, c.evaluate.features)): c for c in configs}
    for config in parts.values():
        _, data, tokenizer = build_generator(config)
        load_features(config.evaluate.features, data, config.data.cache)
        tokenizer.to(pick_device(config.train.device))
        cached_tokens(data, tokenizer, config.data.cache, config.data.workers)
