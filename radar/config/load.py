"""Configuration: dataclasses <- YAML file <- key=value, all strict. The only file that imports omegaconf."""

import dataclasses
import difflib
import functools
import hashlib
import json
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from radar.config.methods import method_options
from radar.config.options import Config, OrderConfig
from radar.config.renamed import refuse_old_name, refuse_old_names, refuse_old_value
from radar.config.training import OF_GENERATORS
from radar.errors import InputError, naming

T = TypeVar("T")

WHERE = ("device", "devices", "nodes", "loggers")  # options of a generator's training that hold for its tokenizer's too
DEVICE = "train.device"  # a training may go on elsewhere
OF_TOKENIZER = ("data", "train")  # groups of options that `tokenizer_training` may hold

# Building one takes 30 ms, most of the time of reading a configuration; whoever merges it gets a copy.
_schema: Callable[[Any], Any] = functools.cache(OmegaConf.structured)


def load_config(path: str | Path | None, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file over the defaults, then apply `key=value` overrides.

    Raises InputError for a missing or malformed file, an unknown key, a wrong type, or a value out of range.
    """
    values = read_yaml(path) if path else {}
    if "arms" in values:
        raise InputError(
            f"{path} is a study, not one configuration: `radar ablate` runs it, `radar plan --study` plans it"
        )
    config = to_config(values, overrides)
    tokenizer_config(config)  # fails here, not when a tokenizer is to be trained
    return config


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML mapping as plain dicts and lists; raises InputError."""
    try:
        content = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except (YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid YAML: {_one_line(error)}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} does not hold a mapping of options")
    return typing.cast(dict[str, Any], content)


def structured(kind: type[T], values: Mapping[str, Any], where: str) -> T:
    """Build any dataclass from plain values, strictly; raises InputError that begins with `where`."""
    try:
        return typing.cast(T, OmegaConf.to_object(OmegaConf.merge(_schema(kind), dict(values))))
    except OmegaConfBaseException as error:
        raise InputError(f"{where}: {_one_line(error)}") from error
    except TypeError as error:  # a list where a mapping belongs, or the reverse; OmegaConf does not say where
        shapes = ", ".join(f"{key}: {type(value).__name__}" for key, value in values.items())
        raise InputError(f"{where}: a list stands where a mapping belongs, or the reverse ({shapes})") from error


def merge_options(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Merge nested plain options; later layers win, and in a layer its options win over those of its `method`.

    Raises InputError for an unknown method, and for layers of different shapes.
    """
    try:
        merged = OmegaConf.to_container(OmegaConf.merge(*(part for layer in layers for part in _parts(layer))))
    except TypeError as error:  # OmegaConf does not say where
        raise InputError("a list stands where a group of options belongs, or the reverse") from error
    return typing.cast(dict[str, Any], merged)


def _parts(layer: Mapping[str, Any]) -> list[dict[str, Any]]:
    rest = {key: value for key, value in layer.items() if key != "method"}
    return [method_options(layer["method"]), rest] if "method" in layer else [rest]


def to_config(values: Mapping[str, Any], overrides: Sequence[str] = ()) -> Config:
    """Build a Config from nested plain values and `key=value` overrides; raises InputError.

    `method` among either stands for its options (radar/config/methods.py), which the others override.
    """
    named = [{"method": text.partition("=")[2]} for text in overrides if text.startswith("method=")]
    overrides = [text for text in overrides if not text.startswith("method=")]
    try:
        values = merge_options(values, *named)
        refuse_old_names(values)
        for group, kind in typing.get_type_hints(Config).items():
            if (dataclasses.is_dataclass(kind) or kind == dict[str, Any]) and not isinstance(
                values.get(group, {}), Mapping
            ):
                raise InputError(f"option '{group}' is a group of options, but its value is {values[group]!r}")
        merged = OmegaConf.merge(_schema(Config), _with_lists(values))
        for text in overrides:
            key, value = _split(text)
            _update(merged, key, value)
        if others := [name for name in merged.tokenizer_training if name not in OF_TOKENIZER]:
            raise InputError(f"tokenizer_training.{others[0]} is not possible: {' and '.join(OF_TOKENIZER)} expected")
        return typing.cast(Config, OmegaConf.to_object(merged))
    except OmegaConfBaseException as error:
        raise InputError(_one_line(error)) from error


def tokenizer_config(config: Config, overrides: Sequence[str] = ()) -> Config:
    """Options that a tokenizer is trained with: its own, those of `tokenizer_training`, and defaults.

    How a generator is trained does not pass to its tokenizer, so that all who share one train it alike; on which
    devices and who watches do. Without `tokenizer_training` all options are the tokenizer's. Raises InputError.
    """
    given, own = to_dict(config), config.tokenizer_training
    if not own:
        return config
    for name in own.get("train") or ():
        if name in OF_GENERATORS:
            raise InputError(f"tokenizer_training.train.{name} has no effect: it is an option of generators")
    values = {name: given[name] for name in ("data", "tokenizer", "run")}
    values["train"] = {name: given["train"][name] for name in WHERE}
    with naming("tokenizer_training"):
        return to_config(merge_options(values, own), overrides)


def _with_lists(values: Mapping[str, Any]) -> dict[str, Any]:
    """Let a word stand for a list of one, where an option is a list of words."""
    found = dict(values)
    if isinstance(word := found.get("plugins"), str):
        found["plugins"] = [word]
    for group, name in _lists_of_words():
        if isinstance(word := found.get(group, {}).get(name), str):
            found[group] = {**found[group], name: [word]}
    return found


@functools.cache
def _lists_of_words() -> list[tuple[str, str]]:
    groups = {key: kind for key, kind in typing.get_type_hints(Config).items() if dataclasses.is_dataclass(kind)}
    hints = [(key, name, hint) for key, kind in groups.items() for name, hint in typing.get_type_hints(kind).items()]
    return [(key, name) for key, name, hint in hints if hint == list[str]]


def _update(merged: Any, key: str, value: Any) -> None:
    try:
        OmegaConf.update(merged, key, value, merge=False)
    except OmegaConfBaseException as error:
        raise InputError(f"{key}={value} is not possible: {_one_line(error)}") from error


def parse_order(text: str, base: OrderConfig | None = None) -> OrderConfig:
    """Read `halton:steps=13:schedule=cosine`, with the group sizes of `base` where it gives none.

    Raises InputError for an unknown option or a wrong type.
    """
    order = dataclasses.replace(_parse_order(text))
    if base is None or order.sizes or order.sizes_of:
        return order
    if order.steps is None and order.schedule is None:
        order = dataclasses.replace(order, sizes=base.sizes, sizes_of=base.sizes_of)
    elif base.sizes or base.sizes_of:
        return order
    steps = base.steps if order.steps is None else order.steps
    return dataclasses.replace(order, steps=steps, schedule=order.schedule or base.schedule)


@functools.cache  # a batch asks again for what took the last one 40 ms
def _parse_order(text: str) -> OrderConfig:
    name, *details = text.split(":")
    try:
        return to_config({"order": {"name": name}}, [f"order.{detail}" for detail in details]).order
    except InputError as error:
        raise InputError(f"order '{text}': {error}") from error


def to_dict(config: Any) -> dict[str, Any]:
    """Turn a dataclass into nested plain values, safe in a checkpoint that loads with weights_only."""
    return dataclasses.asdict(config)


def result_options(config: Config) -> dict[str, Any]:
    """Options that can change a result: all but where files lie and how many processes load them.

    How a tokenizer is trained is none: it is known by its weights.
    """
    options = to_dict(config)
    options.pop("tokenizer_training")
    return options | {"run": "", "data": {**options["data"], "cache": "", "workers": 0}}


# How a training is spread over devices and their memory, and watched, which does not change what is trained.
SPREAD = (
    "train.devices", "train.nodes", "train.strategy", "train.micro_batch", "train.profile", "train.loggers",
    "model.checkpoint_activations",
)  # fmt: skip


def stored_config(checkpoint: Mapping[str, Any]) -> Config:
    """Options of a checkpoint that are only looked at: nothing of its own is imported."""
    return to_config({**checkpoint["radar"]["config"], "plugins": []})


def training_options(config: Config) -> dict[str, Any]:
    """Options that can change the trained weights; what options name by path is known by what it holds."""
    options = {key: value for key, value in result_options(config).items() if key not in ("sample", "evaluate")}
    options.pop("plugins")
    for name in ("train", "model"):
        options[name] = {key: value for key, value in options[name].items() if f"{name}.{key}" not in SPREAD}
    options["data"] = {**options["data"], "root": None}
    options["tokenizer"] = {**options["tokenizer"], "checkpoint": None, "encoder": None}
    options["order"] = {**options["order"], "covariance": None, "path": None}
    return options


def judged_options(config: Config) -> dict[str, Any]:
    """Options of how a trained generator is sampled and scored; an order of sampling is known by what it is."""
    options = result_options(config)
    return {"sample": {**options["sample"], "order": None}, "evaluate": options["evaluate"]}


def config_hash(values: Mapping[str, Any]) -> str:
    """Name nested plain values by 12 hex digits."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested options to dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def nest(params: Mapping[str, Any]) -> dict[str, Any]:
    """Turn dotted options into nested ones."""
    nested: dict[str, Any] = {}
    for key, value in params.items():
        *groups, last = key.split(".")
        turn_of = nested
        for group in groups:
            turn_of = turn_of.setdefault(group, {})
        turn_of[last] = value
    return nested


def _one_line(error: Exception) -> str:
    text = " ".join(
        line.strip() for line in str(error).splitlines() if "full_key:" not in line and "_type=" not in line
    )
    key = getattr(error, "full_key", None)
    return f"{key}: {text}" if key else text


def _split(text: str) -> tuple[str, Any]:
    """Read `key=value` by the type of the field, so that name=yes or dim=010 mean what they say."""
    key, equals, value = text.partition("=")
    if not equals or not key or key.startswith("-"):
        raise InputError(f"'{text}' is not of the form key=value (example: train.max_steps=500)")
    kind = option_type(key)
    refuse_old_value(key, value)
    return key, _parse(key, value, kind)


def option_type(key: str) -> Any:
    """Type of a dotted option; raises InputError for an unknown one or a group."""
    refuse_old_name(key)
    if key.startswith("tokenizer_training."):
        return _type_for_tokenizer(key.partition(".")[2])
    kind: Any = Config
    for part in key.split("."):
        hints = typing.get_type_hints(kind) if dataclasses.is_dataclass(kind) else {}
        if part not in hints:
            raise InputError(f"unknown option '{key}'; {_offered(part, list(hints))}")
        kind = hints[part]
    if kind == dict[str, Any]:
        raise InputError(f"option '{key}' is a group; set one of its members: {', '.join(OF_TOKENIZER)}")
    if dataclasses.is_dataclass(kind):
        raise InputError(f"option '{key}' is a group; set one of its members: {', '.join(typing.get_type_hints(kind))}")
    return kind


def _offered(wrong: str, names: list[str]) -> str:
    """Names that come near a wrong one, or all."""
    near = difflib.get_close_matches(wrong, names, cutoff=0.75)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"'{wrong}' is not one of: {', '.join(names) or 'none'}"


def _type_for_tokenizer(key: str) -> Any:
    if (group := key.partition(".")[0]) not in OF_TOKENIZER:
        raise InputError(f"tokenizer_training.{group} is not possible: {' and '.join(OF_TOKENIZER)} expected")
    with naming("tokenizer_training"):
        return option_type(key)


def _parse(key: str, value: str, kind: Any) -> Any:
    members = get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if type(None) in members and value in ("null", "none"):
        return None
    target = members[0]
    try:
        if target is bool:
            return {"true": True, "false": False}[value.lower()]
        if target in (int, float, str):
            return target(value)
        found = OmegaConf.create(f"value: {value}").value
        return [found] if target == list[str] and isinstance(found, str) else found
    except (ValueError, KeyError, OmegaConfBaseException, YAMLError) as error:
        name = getattr(target, "__name__", str(target))
        raise InputError(f"{key}={value} is not possible: {name} expected") from error
