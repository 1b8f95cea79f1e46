"""A checkpoint as a folder for others: safetensors, config.json, a model card, samples."""

import json
from pathlib import Path
from typing import Any

from radar.config.load import to_config, training_options
from radar.config.options import Config
from radar.errors import InputError
from radar.files import replacing_folder
from radar.hub import local
from radar.scoring.sample_pictures import samples_sheet
from radar.scoring.samples import class_counts, draw_samples
from radar.sharing.card import CARD, SAMPLES, generator_card, tokenizer_card
from radar.sheets import save_image
from radar.tokenizers import Learned
from radar.training.checkpoints import Generator, holds_tokenizer, load_generator, load_tokenizer, read_checkpoint
from radar.training.exported import TOKENIZER, description_of, write_exported

SCORES = "evaluation.json"


def export(checkpoint: str, folder: Path, licence: str | None, scores: Path | None, options: list[str]) -> None:
    """Write a checkpoint of a generator or a tokenizer into a folder that is not there yet, whole or not at all.

    Args:
        checkpoint: file, exported folder, or name on the hub.
        folder: to be made.
        licence: of the weights, for the card.
        scores: row of `radar evaluate`; by default the one beside the checkpoint, if it is of this training.
        options: of how to sample, as `radar sample` takes them.

    Raises InputError for a folder that is there, and for scores of another training.
    """
    if folder.exists():
        raise InputError(f"{folder} is there already: give another folder, or delete it")
    if holds_tokenizer(checkpoint):
        with replacing_folder(folder) as made:
            config = to_config(read_checkpoint(checkpoint)["radar"]["config"])
            write_tokenizer(checkpoint, config, made)
            (made / CARD).write_text(tokenizer_card(config, licence))
        return
    generator = load_generator(checkpoint, options)
    row = scores_of(checkpoint, generator.config, scores)
    with replacing_folder(folder) as made:
        write_generator(generator, made)
        shown = draw_samples(generator, generator.config.sample)
        save_image(samples_sheet(generator, shown), made / SAMPLES)
        (made / CARD).write_text(generator_card(generator, row, licence))
        if row is not None:
            (made / SCORES).write_text(json.dumps(row, indent=1))


def write_generator(generator: Generator, folder: Path) -> None:
    """Weights and description of a generator, and of its tokenizer where that is learned."""
    found = read_checkpoint(generator.path)
    module = generator.as_trained or generator.module
    sample = {"sample": vars(generator.config.sample), "evaluate": vars(generator.config.evaluate)}
    told = found["radar"] | {"config": portable(found["radar"]["config"] | sample)}
    whole = found | {"radar": told, "seconds": generator.train_seconds}
    write_exported(folder, module.state_dict(), whole, description_of(generator.data, class_counts(generator)))
    if isinstance(generator.tokenizer, Learned) and generator.config.tokenizer.checkpoint is not None:
        (folder / TOKENIZER).mkdir()
        write_tokenizer(generator.config.tokenizer.checkpoint, generator.config, folder / TOKENIZER)


def write_tokenizer(checkpoint: str, config: Config, folder: Path) -> None:
    """Weights and description of a learned tokenizer, as it is used: averaged, and without its discriminator."""
    found = read_checkpoint(checkpoint)
    options = to_config(found["radar"]["config"]).tokenizer
    options.checkpoint = checkpoint
    weights = {f"tokenizer.{name}": value for name, value in load_tokenizer(options).state_dict().items()}
    told = found["radar"] | {"config": portable(found["radar"]["config"])}
    write_exported(folder, weights, found | {"radar": told}, {})


def portable(config: dict[str, Any]) -> dict[str, Any]:
    """Options without the paths of one machine."""
    own = {
        "data": {"root": None, "cache": Config().data.cache},
        "tokenizer": {"checkpoint": None, "encoder": None},
        "order": {"covariance": None, "path": None},
    }
    changed = {group: config[group] | paths for group, paths in own.items()}
    return config | changed | {"run": f"runs/{Path(config['run']).name}", "init": None}


def scores_of(checkpoint: str, config: Config, path: Path | None) -> dict[str, Any] | None:
    """Row of scores; None where there is none of this training. Raises InputError for a given one of another."""
    there = local(checkpoint)
    found = path or (there if there.is_dir() else there.parent) / SCORES
    if path is None and not found.is_file():
        return None
    try:
        row: dict[str, Any] = json.loads(found.read_text())
        same = training_options(to_config(row["options"] | {"run": config.run})) == training_options(config)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{found} is no row of `radar evaluate` ({error})") from error
    if same:
        return row
    if path is None:
        return None
    raise InputError(f"{path} are scores of another training than {checkpoint}")
