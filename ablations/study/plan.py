"""Every trial of a study as a complete configuration, checked before any work: arms x factors x seeds, or a search."""

import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ablations.study.study_file import OBJECTIVES, SET_BY_STUDY, Range, StudyFile, parse_ranges, read_study
from experiments.configs import find_config
from radar.config.load import (
    config_hash,
    flatten,
    judged_options,
    merge_options,
    nest,
    read_yaml,
    to_config,
    to_dict,
    training_options,
)
from radar.config.options import Config
from radar.config.sampling import SampleConfig
from radar.config.training import check_training
from radar.editing.protocol import check_protocol
from radar.errors import InputError, naming
from radar.scoring.evaluation import check_scoring
from radar.scoring.probe import check_probe
from radar.training.checkpoints import build_generator
from radar.training.devices import must_start
from radar.training.other_grid import check_scored, on_sampled_grid

Params = dict[str, Any]  # dotted option -> value


@dataclass(frozen=True)
class Trial:
    """One arm with one seed: a complete configuration."""

    arm: str
    seed: int
    config: Config
    params: Params
    digest: str  # of all that decides the result, also of the orders themselves, whatever code made them
    cost: int  # slots that its training goes through

    @property
    def key(self) -> str:
        """Names the trial in the storage and its files."""
        return trial_name(self.arm, self.seed)

    def sampled(self, params: Params) -> SampleConfig:
        """Its sampling options with some `sample.*` options replaced; raises InputError for a value out of range."""
        return to_config(merge_options(to_dict(self.config), nest(params))).sample


@dataclass(frozen=True)
class Plan:
    """A study file with the command line's options, resolved."""

    file: StudyFile
    base: dict[str, Any]
    overrides: tuple[str, ...]
    out: Path

    @property
    def name(self) -> str:
        """Name of the study."""
        return self.file.name

    @property
    def searching(self) -> bool:
        """Whether this is a search and not a grid."""
        return self.file.search is not None

    @property
    def objectives(self) -> dict[str, str]:
        """Objectives that a trial knows when it ends, with their directions; a search is timed in its trials."""
        return {k: v for k, v in self.all_objectives.items() if OBJECTIVES[k] or self.searching}

    @property
    def all_objectives(self) -> dict[str, str]:
        """Objectives with their directions."""
        return self.file.objectives or {"fid": "minimize", "steps": "minimize"}

    @cached_property
    def ranges(self) -> dict[str, Range]:
        """What the search explores, or the factors of the grid."""
        if self.file.search is not None:
            return parse_ranges(self.file.search.ranges)
        return {key: Range(choices=tuple(values)) for key, values in self.file.factors.items()}

    @cached_property
    def arms(self) -> dict[str, tuple[dict[str, Any], Params]]:
        """Arms crossed with the factors: name -> (options, factor values)."""
        arms, factors = self.file.arms or {"": {}}, self.file.factors
        crossed = {}
        for arm, options in arms.items():
            for values in itertools.product(*factors.values()):
                params = dict(zip(factors, values, strict=True))
                parts = [arm] * bool(arm) + [f"{key.split('.')[-1]}={show(value)}" for key, value in params.items()]
                crossed[", ".join(parts)] = (merge_options(options, nest(params)), params)
        return crossed

    @property
    def baseline(self) -> str | None:
        """The arm that the others are tested against."""
        return None if self.searching else self.file.baseline or next(iter(self.arms))

    @cached_property
    def trials(self) -> list[Trial]:
        """Every (arm, seed) of a grid, in the sequence that they run in (`spread_out`); none of a search."""
        made = [self.trial(arm, seed, *self.arms[arm]) for seed in self.file.seeds for arm in self.arms]
        return spread_out([] if self.searching else made)

    @cached_property
    def slots(self) -> list[str]:
        """Keys of all that is to be done."""
        if self.file.search is not None:
            return [trial_name(f"search-{i:03d}", self.file.seeds[0]) for i in range(self.file.search.trials)]
        return [trial.key for trial in self.trials]

    @property
    def timeless(self) -> bool:
        """Whether no objective is a time."""
        return not {"images_per_s", "train_seconds"} & self.all_objectives.keys()

    def sketch(self) -> Trial:
        """A trial with the options that all of a search have in common."""
        return self.trial("base", self.file.seeds[0], {}, {})

    def trial(self, arm: str, seed: int, options: Mapping[str, Any], params: Params) -> Trial:
        """Build and check one trial; raises InputError if it is not possible."""
        with naming(f"arm '{arm}'"):
            seeds = {"seed": seed, "sample": {"seed": seed}}
            config = to_config(merge_options(self.base, self.file.config, seeds, options), self.overrides)
            check_training(config.train)
            if must_start(config.train) and self.file.search is not None and self.file.search.prune:
                raise InputError(f"search.prune is not possible with train.devices={config.train.devices}")
            check_scoring(config.evaluate)
            module = build_generator(config, planned=True)[0]
            sampled = module.order.sampled_digest(config.sample)
            check_scored(config, module.grid)
            on_sampled_grid(config, module)
            check_protocol(config, module)
            check_probe(config, module)
        trained = {**training_options(config), **module.origin, "order_hash": module.order.digest}
        tune = {} if self.file.tune is None else {"tune": to_dict(self.file.tune)}
        run = self.out / "runs" / config_hash(trained)
        digest = config_hash({**judged_options(config), **trained, "sampled_order_hash": sampled, **tune})
        cost = module.slots_per_image * config.train.max_steps * config.train.batch_size
        return Trial(arm, seed, replace(config, run=str(run)), params, digest, cost)

    def find(self, key: str, params: Params) -> Trial:
        """Build the trial of a slot; in a search from the values that were chosen for it."""
        if self.searching:
            return self.trial(key.rsplit("-seed", 1)[0], self.file.seeds[0], nest(params), params)
        return self.by_key[key]

    @cached_property
    def by_key(self) -> dict[str, Trial]:
        """Trials of a grid by their keys."""
        return {trial.key: trial for trial in self.trials}

    @property
    def identity(self) -> dict[str, Any]:
        """What must be the same wherever this study is known by its name."""
        values: dict[str, Any] = {"objectives": list(self.objectives.items()), "factors": self.file.factors}
        values["threads"] = self.file.threads
        if self.file.search is not None:
            search = to_dict(self.file.search) | {"trials": None}
            values |= {"search": search, "config": self.file.config, "base": self.base, "seeds": self.file.seeds}
            values["overrides"] = [text for text in self.overrides if not text.startswith("data.cache=")]
        return dict(json.loads(json.dumps(values)))


def trial_name(arm: str, seed: int) -> str:
    """Name files of one arm and seed: letters, digits, dots and dashes only."""
    return f"{re.sub('[^A-Za-z0-9.]+', '-', arm)}-seed{seed}"


def show(value: Any) -> str:
    """Write a factor's value without blanks."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def encode(params: Params) -> Params:
    """Write parameters as Optuna keeps them: lists become text."""
    return {key: show(value) if isinstance(value, list | dict) else value for key, value in params.items()}


def spread_out(trials: list[Trial]) -> list[Trial]:
    """Order the trials: those that share a training apart, so that workers train in parallel.

    Then seed by seed, so that a study that is stopped early has compared all arms but those that only sample otherwise,
    which come last; of a seed, the longest first.
    """
    rank: dict[str, int] = {}
    turn_of = {}
    for trial in trials:
        turn_of[trial.key] = rank[trial.config.run] = rank.get(trial.config.run, -1) + 1
    return sorted(trials, key=lambda trial: (turn_of[trial.key], trial.seed, -trial.cost))


def read_plan(path: str, out: str | None, overrides: Sequence[str]) -> Plan:
    """Read a study file and check all but its trials; raises InputError."""
    for text in overrides:
        if text.split("=")[0] in SET_BY_STUDY:
            raise InputError(f"'{text}' is not possible: a study sets it for every trial")
    study = read_study(path)
    folder = Path(out or f"runs/ablations/{study.name}")
    plan = Plan(study, read_yaml(find_config(study.base)), tuple(overrides), folder)
    _check_names(plan)
    _check_overrides(plan)
    return plan


def plan_study(path: str, out: str | None, overrides: Sequence[str]) -> Plan:
    """Read a study file and check every trial; raises InputError for the first that is not possible."""
    plan = read_plan(path, out, overrides)
    trials = plan.trials or [plan.sketch()]
    check_ranges(plan, trials[0])
    check_tuning(plan, {trial.arm: trial for trial in trials}.values())
    if "fid" in plan.all_objectives and any("fid" not in trial.config.evaluate.metrics for trial in trials):
        raise InputError("fid is an objective, but evaluate.metrics does not hold it")
    if "nll" in plan.all_objectives and any(t.config.sample.choice_temperature is not None for t in trials):
        raise InputError(
            "nll is an objective, but with sample.choice_temperature sampling finds the order: there is none"
        )
    _check_judged_alike(plan, trials)
    return plan


def _check_judged_alike(plan: Plan, trials: Sequence[Trial]) -> None:
    """Refuse arms whose figures could not stand in one table: of other images, or scored or timed in another way."""
    searched = [key for key in plan.ranges if key.startswith(("data.", "evaluate.")) and plan.searching]
    judged = [flatten({"data": {**to_dict(t.config.data), "cache": "", "workers": 0, "augment": ""}}) for t in trials]
    judged = [one | flatten({"evaluate": to_dict(t.config.evaluate)}) for one, t in zip(judged, trials, strict=True)]
    if differ := searched + [key for key in judged[0] if any(one[key] != judged[0][key] for one in judged)]:
        raise InputError(f"{differ[0]} differs between the arms: all of a study are scored alike, on the same images")


def _check_overrides(plan: Plan) -> None:
    """Refuse an option that would make a factor, a range or an arm something else than its name says."""
    tuned = {} if plan.file.tune is None else plan.file.tune.ranges
    varied = dict.fromkeys([*plan.ranges, *tuned], "the study varies it")
    for arm, options in plan.file.arms.items():
        with naming(f"arm '{arm}'"):
            own = flatten(options)
            if twice := [key for key in own if key in plan.file.factors]:
                raise InputError(f"'{twice[0]}' is a factor of the study already")
            own |= flatten(merge_options(options))  # what its method stands for
        varied |= dict.fromkeys(own, f"arm '{arm}' sets it")
    for text in plan.overrides:
        key, _, value = text.partition("=")
        for changed in flatten(merge_options({key: value})) if key == "method" else [key]:
            if changed in varied:
                raise InputError(f"'{text}' is not possible: {varied[changed]}; change the study file instead")


def _check_names(plan: Plan) -> None:
    files: dict[str, str] = {}
    for arm in plan.arms if not plan.searching else ():
        if (other := files.setdefault(trial_name(arm, 0), arm)) != arm:
            raise InputError(f"arms '{other}' and '{arm}' would share their files; name them apart")
    if plan.file.baseline is not None and plan.file.baseline not in plan.arms:
        raise InputError(f"baseline '{plan.file.baseline}' is not an arm; choose from: {', '.join(plan.arms)}")
    for pair in plan.file.contrasts:
        if len(pair) != 2 or not set(pair) <= set(plan.arms):
            raise InputError(f"contrast {pair} is not possible: two arms expected, of: {', '.join(plan.arms)}")


def check_ranges(plan: Plan, trial: Trial) -> None:
    """Build the configuration at every end and choice of every range; raises InputError for the first that fails."""
    searched = plan.ranges if plan.searching else {}
    for key, values in searched.items():
        with naming(f"range of '{key}'"):
            for value in values.tried:
                to_config(merge_options(to_dict(trial.config), nest({key: value})))


def check_tuning(plan: Plan, trials: Iterable[Trial]) -> None:
    """Plan the sampling at every end and choice of what is tuned, for every arm; raises InputError."""
    ranges = {} if plan.file.tune is None else parse_ranges(plan.file.tune.ranges)
    for trial in trials if ranges else ():
        module = build_generator(trial.config, planned=True)[0]
        for key, values in ranges.items():
            with naming(f"arm '{trial.arm}'"), naming(f"range of '{key}'"):
                for value in values.tried:
                    module.check_sampling(trial.sampled({key: value}))
