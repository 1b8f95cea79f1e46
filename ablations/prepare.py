"""What all trials of a study need once, made before the workers would race for it: tokenizers, tokens, features."""

from dataclasses import replace
from pathlib import Path

from ablations.plan import Plan, naming
from experiments.tokenizer import train_tokenizer
from radar.checkpoints import build_generator, pick_device, read_checkpoint
from radar.config import merge_options, to_config
from radar.features import load_features
from radar.files import locked
from radar.tokenizers import build_tokenizer
from radar.tokens import cached_tokens


def train_tokenizers(plan: Plan) -> None:
    """Train every learned tokenizer that is not trained yet, or not to its end, with `tokenizer_training`."""
    for arm, (options, _) in [("base", ({}, {}))] if plan.searching else plan.arms.items():
        values = merge_options(plan.base, plan.file.config, options)
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
