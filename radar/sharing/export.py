"""A checkpoint as a folder for others: safetensors, config.json, a model card, samples."""

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from radar.config.load import stored_config, to_config, to_dict, training_options
from radar.config.options import PATHS, Config
from radar.errors import InputError
from radar.files import replacing_folder
from radar.hub import local
from radar.scoring.sample_pictures import samples_sheet
from radar.scoring.samples import class_counts, draw_samples
from radar.sharing.card import CARD, NEEDED, SAMPLES, generator_card, tokenizer_card
from radar.sheets import save_image
from radar.training.checkpoints import Generator, holds_tokenizer, load_generator, load_tokenizer, read_checkpoint
from radar.training.exported import TOKENIZER, description_of, write_exported

SCORES = "evaluation.json"
SAMPLED = "another way of sampling"
CACHE = ("data", "cache")  # which changes nothing


def export(checkpoint: str, folder: Path, licence: str | None, scores: Path | None, options: list[str]) -> None:
    """Write a checkpoint of a generator or a tokenizer into a folder that is not there yet, whole or not at all.

    Args:
        checkpoint: file, exported folder, or name on the hub.
        folder: to be made.
        licence: of the weights, for the card.
        scores: row of `radar evaluate` or of a study; by default the one beside the checkpoint, or in the study that
            it is of, if it is of this training.
        options: of how to sample, as `radar sample` takes them.

    Raises InputError for a folder that is there, for scores of another training or of other sampling, and for options
    that a tokenizer does not take.
    """
    if licence is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+-]*", licence):
        raise InputError(f"--licence {licence!r} is no short name of a licence (example: apache-2.0)")
    if folder.exists():
        raise InputError(f"{folder} is there already: give another folder, or delete it")
    if holds_tokenizer(checkpoint):
        export_tokenizer(checkpoint, folder, licence, scores, options)
        return
    generator = load_generator(checkpoint, options)
    row = scores_of(checkpoint, generator, scores)
    with replacing_folder(folder) as made:
        write_generator(generator, made)
        shown = draw_samples(generator, generator.config.sample)
        save_image(samples_sheet(generator, shown), made / SAMPLES)
        (made / CARD).write_text(generator_card(generator, read_checkpoint(checkpoint), row, licence))
        if row is not None:
            (made / SCORES).write_text(json.dumps(row | {"options": portable(row["options"])}, indent=1))


def export_tokenizer(
    checkpoint: str, folder: Path, licence: str | None, scores: Path | None, options: list[str]
) -> None:
    """Write a tokenizer; the only option that it takes is where its encoder lies."""
    if other := [text for text in options if not text.startswith("tokenizer.encoder=")]:
        raise InputError(f"'{other[0]}' has no effect on a tokenizer, which takes: tokenizer.encoder=")
    if scores is not None:
        raise InputError("--scores has no effect on a tokenizer: its card shows none")
    found = read_checkpoint(checkpoint)
    config = to_config({**found["radar"]["config"], "plugins": []}, options)
    with replacing_folder(folder) as made:
        write_tokenizer(checkpoint, config.tokenizer.encoder, made)
        (made / CARD).write_text(tokenizer_card(config, found, licence))


def write_generator(generator: Generator, folder: Path) -> None:
    """Weights and description of a generator, and of its tokenizer where that is learned."""
    found = read_checkpoint(generator.path)
    module = generator.as_trained or generator.module
    sample = {"sample": vars(generator.config.sample), "evaluate": vars(generator.config.evaluate)}
    told = found["radar"] | {"config": portable(found["radar"]["config"] | sample)}
    whole = found | {"radar": told, "seconds": generator.train_seconds}
    write_exported(folder, module.state_dict(), whole, description_of(generator.data, class_counts(generator)))
    if generator.tokenizer.learned and generator.config.tokenizer.checkpoint is not None:
        (folder / TOKENIZER).mkdir()
        own = generator.config.tokenizer
        write_tokenizer(str(own.checkpoint), own.encoder, folder / TOKENIZER)


def write_tokenizer(checkpoint: str, encoder: str | None, folder: Path) -> None:
    """Weights and description of a learned tokenizer, as it is used: averaged, and without its discriminator.

    A frozen encoder is not written: whoever opens the folder has it, and says where.
    """
    found = read_checkpoint(checkpoint)
    options = stored_config(found).tokenizer
    options.checkpoint, options.encoder = checkpoint, encoder or options.encoder
    weights = {f"tokenizer.{name}": value for name, value in load_tokenizer(options).state_dict().items()}
    told = found["radar"] | {"config": portable(found["radar"]["config"])}
    write_exported(folder, weights, found | {"radar": told}, {})


def portable(config: dict[str, Any]) -> dict[str, Any]:
    """Options without the paths of one machine; a network that is named by a path keeps its last name."""
    own: dict[str, dict[str, Any]] = {group: dict.fromkeys(names) for group, names in PATHS.items()}
    own["data"]["cache"] = Config().data.cache
    own["tokenizer"]["encoder"] = _named(config["tokenizer"]["encoder"])
    own["train"] = {
        "align": _named(config["train"]["align"]),
        "perceptual": _all_named(config["train"]["perceptual"]),
    }
    own["evaluate"] = {"features": _all_named(config["evaluate"]["features"]), "reference": []}
    changed = {group: config[group] | paths for group, paths in own.items()}
    run = f"runs/{Path(config['run']).name or 'run'}"
    return config | changed | {"run": run, "init": None, "plugins": [], "tokenizer_training": {}}


def _named(path: str | None) -> str | None:
    return None if path is None else Path(path).name


def _all_named(paths: list[str]) -> list[str]:
    return [Path(path).name for path in paths]


def scores_of(checkpoint: str, generator: Generator, path: Path | None) -> dict[str, Any] | None:
    """Row of scores of a generator as it samples here; None where there is none.

    Raises InputError for a given one of another training, step or way of sampling, or that is no such row.
    """
    if path is not None:
        row, said = _read_scores(path, generator)
        if said is None:
            return row
        raise InputError(f"{path} are scores of {said} than {checkpoint} as it is exported")
    there = local(checkpoint).resolve()
    beside = (there if there.is_dir() else there.parent) / SCORES
    found = beside if beside.is_file() else _row_of_study(there, generator)
    if found is None:
        return None
    row, said = _read_scores(found, generator)
    if said is not None:
        print(f"radar: {found} is left out: it is of {said}", file=sys.stderr)
        return None
    return row


def _row_of_study(checkpoint: Path, generator: Generator) -> Path | None:
    """Row of a study's folder that is of this training, to the last path; None where it is not clear which one is."""
    mine, found = training_options(generator.config), list[Path]()
    for path in sorted(checkpoint.parent.parent.parent.glob("rows/*.json")) if checkpoint.is_file() else []:
        try:
            row = json.loads(path.read_text())
            same = row["order_hash"] == generator.module.order.digest and row["kept_step"] == generator.kept_step
            if same and _paths(row["options"]) == _paths(to_dict(generator.config)):
                found += [path] if training_options(to_config(row["options"] | {"run": "row"})) == mine else []
        except (InputError, OSError, ValueError, KeyError, TypeError, AttributeError):
            continue  # whatever else lies there
    return found[0] if len(found) == 1 else None


def _paths(options: Mapping[str, Any]) -> list[Any]:
    """What options name by path, and what they begin with."""
    named = [options[group][name] for group, names in PATHS.items() for name in names if (group, name) != CACHE]
    return [*named, options["init"], options.get("plugins", [])]


def _read_scores(found: Path, generator: Generator) -> tuple[dict[str, Any], str | None]:
    """A row, and in what it is another one; raises InputError where it is none."""
    try:
        row: dict[str, Any] = json.loads(found.read_text())
        scored = to_config(row["options"] | {"run": generator.config.run})
        steps = int(row["kept_step"])
        if missing := [name for name in NEEDED if name not in row]:
            raise KeyError(missing[0])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{found} is no row of `radar evaluate` ({type(error).__name__}: {error})") from error
    if _training(scored) != _training(generator.config):
        return row, "another training"
    if steps != generator.kept_step:
        return row, "another optimizer step"
    own, theirs = _drawing(generator.config), _drawing(scored)
    other = " ".join(f"sample.{name}={value}" for name, value in theirs.items() if value != own[name])
    return row, f"{SAMPLED} ({other})" if other else None


def _training(config: Config) -> dict[str, Any]:
    """Options of a training, as an exported folder keeps them."""
    return training_options(to_config(portable(to_dict(config))))


def _drawing(config: Config) -> dict[str, Any]:
    """Options of sampling on which a score depends: not how many images, nor in what batches."""
    free = {"images": 0, "batch_size": 0, "seed": 0}
    return {**vars(config.sample), **free}
