"""A study file, read strictly.

A study file holds `name`, `base` (a configuration), `config` (options for all arms), `arms` (name -> options),
`factors` (option -> values, crossed with the arms), `seeds`, `objectives` (name -> minimize or maximize),
`baseline` (an arm), `contrasts` (pairs of arms whose differences are given, and those of the first pair to the
others), `tune` (a search over sampling options on each trained checkpoint), `estimator` (of fields that
`order.covariance` names and that are not there yet), `threads` (per process), `heartbeat` (in seconds; three missed
ones are a dead worker) - or, in place of arms and factors, `search` (sampler, trials, ranges, prune).
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.configs import find_yaml
from radar.config.load import option_type, read_yaml, structured
from radar.config.lookup import choose
from radar.decoding.fields import ESTIMATORS
from radar.errors import InputError

STUDIES = Path(__file__).parents[1] / "studies"  # the ready-made ones
# What a study may optimise, and whether a trial knows it when it ends. Speed is measured after all trials of a grid,
# with nothing else running, or by the one process of a search.
OBJECTIVES = {"steps": True, "fid": True, "nll": True, "images_per_s": False, "train_seconds": True}
DIRECTIONS = ("minimize", "maximize")
SAMPLERS = ("tpe", "nsga2")
SET_BY_STUDY = ("seed", "run", "sample.seed")


@dataclass(frozen=True)
class Range:
    """Values that a search may choose for one option: `choices`, or numbers from low to high."""

    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False

    @property
    def tried(self) -> tuple[Any, ...]:
        """What a check tries: all choices, or the lowest and the highest number."""
        return self.choices or ((int(self.low), int(self.high)) if self.whole else (self.low, self.high))

    def __contains__(self, value: Any) -> bool:
        return value in self.choices if self.choices else value is not None and self.low <= value <= self.high


@dataclass
class Search:
    """A search instead of a grid."""

    ranges: dict[str, Any]
    trials: int = 20
    sampler: str = "tpe"
    prune: bool = False


@dataclass
class Tuning:
    """Sampling options that every trained arm chooses for itself, by fid of fresh samples, with the same budget."""

    ranges: dict[str, Any]
    trials: int = 8
    images: int = 500


@dataclass
class StudyFile:
    """The keys of a study file."""

    name: str
    base: str
    config: dict[str, Any] = field(default_factory=dict)
    arms: dict[str, dict[str, Any]] = field(default_factory=dict)
    factors: dict[str, list[Any]] = field(default_factory=dict)
    seeds: list[int] = field(default_factory=lambda: [0])
    objectives: dict[str, Any] = field(default_factory=dict)  # by default, fewer steps and a lower fid
    baseline: str | None = None
    contrasts: list[list[str]] = field(default_factory=list)  # pairs of arms: [a, b] is a less b
    search: Search | None = None
    tune: Tuning | None = None
    estimator: str | None = None
    threads: int = 1
    heartbeat: int = 10


def parse_ranges(ranges: Mapping[str, Any]) -> dict[str, Range]:
    """Read ranges: option -> a list of choices, or {low, high} with `log`; raises InputError."""
    if not ranges:
        raise InputError("ranges is empty: give at least one option with its values")
    return {key: _parse_range(key, value) for key, value in ranges.items()}


def _parse_range(key: str, value: Any) -> Range:
    kind = check_free(key)
    if isinstance(value, list) and any(value.index(one) < index for index, one in enumerate(value)):
        raise InputError(f"range of '{key}' has values {value}: none twice expected")
    if isinstance(value, list) and value:
        return Range(choices=tuple(value))
    numeric, whole = kind in (int, float, int | None, float | None), kind in (int, int | None)
    if numeric and isinstance(value, Mapping) and {"low", "high"} <= value.keys() <= {"low", "high", "log"}:
        low, high, log = value["low"], value["high"], value.get("log", False)
        kinds = (int,) if whole else (int, float)
        numbers = all(type(n) in kinds and math.isfinite(n) for n in (low, high))
        if numbers and low < high and isinstance(log, bool) and (low > 0 or not log):
            return Range(low=low, high=high, log=log, whole=whole)
    raise InputError(
        f"range of '{key}' is {value!r}: a list of values, or (for a number) {{low: a, high: b}} with a < b, and "
        "log: true where a > 0, expected"
    )


def check_free(key: str) -> Any:
    """Type of an option that a study may vary; raises InputError for one that it sets itself."""
    if key in SET_BY_STUDY:
        raise InputError(f"'{key}' cannot be varied: a study sets it for every trial; list seeds under `seeds`")
    if key.startswith("tokenizer_training."):
        raise InputError(f"'{key}' cannot be varied: give each arm a tokenizer.checkpoint and a training of its own")
    return option_type(key)


def read_study(path: str) -> StudyFile:
    """Read a study file, or a ready-made study by its bare name; raises InputError."""
    values = read_yaml(find_yaml(path, STUDIES, "study"))
    if "tokenizer_training" in values:
        raise InputError(f"{path}: tokenizer_training is an option of a configuration: put it under `config`")
    if isinstance(arms := values.get("arms"), dict):
        values["arms"] = {str(name): options for name, options in arms.items()}
    if not isinstance(values.get("seeds", []), list):
        raise InputError(f"{path}: seeds={values['seeds']} is not possible: a list expected, as [0, 1, 2]")
    study = structured(StudyFile, values, path)
    try:
        _check(study)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return study


def _check(study: StudyFile) -> None:
    if not study.seeds or min(study.seeds) < 0 or len(set(study.seeds)) < len(study.seeds):
        raise InputError(f"seeds={study.seeds} is not possible: different numbers of at least 0 expected")
    for name in ("threads", "heartbeat"):
        if getattr(study, name) < 1:
            raise InputError(f"{name}={getattr(study, name)} is not possible: it must be at least 1")
    if not re.fullmatch(r"[\w.-]+", study.name) or study.name.startswith("."):
        raise InputError(f"name={study.name!r} is not possible: letters, digits, dots, dashes and underscores expected")
    for key, values in study.factors.items():
        check_free(key)
        if not values or len(set(map(repr, values))) < len(values):
            raise InputError(f"factor '{key}' has values {values}: at least one, and none twice, expected")
    for name, options in {"config": study.config, **study.arms}.items():
        sample = options.get("sample", {})
        if {"seed", "run"} & options.keys() or (isinstance(sample, Mapping) and "seed" in sample):
            raise InputError(
                f"'{name}' sets a seed or run, which a study sets for every trial; list seeds under `seeds`"
            )
    for name, direction in study.objectives.items():
        choose("objective", name, OBJECTIVES)
        if direction not in DIRECTIONS:
            raise InputError(f"objective '{name}' has direction {direction}: choose from: {', '.join(DIRECTIONS)}")
    if study.objectives and not any(OBJECTIVES[name] or study.search for name in study.objectives):
        raise InputError("objectives must name at least one of steps, fid, nll, train_seconds")
    if study.estimator is not None:
        choose("estimator", study.estimator, ESTIMATORS)
    if study.tune is not None:
        _check_tuning(study.tune)
        for key in study.factors | (study.search.ranges if study.search is not None else {}):
            if key in study.tune.ranges:
                raise InputError(f"tune.ranges names '{key}', which the study varies already")
    _check_search(study) if study.search is not None else _check_grid(study)


def _check_grid(study: StudyFile) -> None:
    if not study.arms and not study.factors:
        raise InputError("the study needs at least one arm, factor or a search")
    if "" in study.arms:
        raise InputError("every arm needs a name")


def _check_tuning(tune: Tuning) -> None:
    for key in parse_ranges(tune.ranges):
        if not key.startswith("sample.") or key in ("sample.seed", "sample.images", "sample.batch_size"):
            raise InputError(f"tune.ranges names '{key}': only options of how images are drawn (sample.*) can be tuned")
    if tune.trials < 1 or tune.images < 50:
        raise InputError(f"tune: trials={tune.trials}, images={tune.images}: at least 1 and 50 expected")


def _check_search(study: StudyFile) -> None:
    search = study.search
    assert search is not None
    choose("sampler", search.sampler, dict.fromkeys(SAMPLERS))
    parse_ranges(search.ranges)
    if study.arms or study.factors or len(study.seeds) > 1:
        raise InputError("a search takes one seed, and neither arms nor factors; compare its best by a grid afterwards")
    if search.trials < 1:
        raise InputError(f"search.trials={search.trials} is not possible: it must be at least 1")
    if search.prune and list(study.objectives) not in (["nll"], ["fid"]):
        raise InputError("search.prune needs nll or fid as the only objective: trials are compared by validation NLL")
