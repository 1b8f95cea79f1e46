"""What Optuna chooses: parameters of a search, sampling options of a trained arm; when a training is pruned.

Every choice has a seed of its own, so that one worker, however often it is stopped, chooses the same (of NSGA-II this
holds only without a stop: it counts its generations by all trials that were begun).
"""

import math
from collections.abc import Callable, Iterable, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import optuna
from lightning.pytorch import Callback, LightningModule, Trainer
from optuna.trial import TrialState

from ablations.study.plan import Params, Plan, Trial, encode
from ablations.study.study_file import Range, parse_ranges
from radar.config.sampling import SampleConfig
from radar.errors import RunError
from radar.seeding import Stream, derive
from radar.training.logs import validations
from radar.training.trained import TrainedModule

Score = Callable[[SampleConfig], float]
Tuner = Callable[[Trial, Score], SampleConfig]


def decode(value: Any, values: Range) -> Any:
    """Turn what Optuna keeps back into the option's value."""
    return {encode({"": choice})[""]: choice for choice in values.choices}.get(value, value)


def suggest(trial: optuna.Trial, key: str, values: Range) -> Any:
    """Let the study choose the value of one option."""
    if values.choices:
        shown = [encode({"": choice})[""] for choice in values.choices]
        return decode(trial.suggest_categorical(key, shown), values)
    if values.whole:
        return trial.suggest_int(key, int(values.low), int(values.high), log=values.log)
    return trial.suggest_float(key, values.low, values.high, log=values.log)


def make_sampler(plan: Plan, slot: int) -> optuna.samplers.BaseSampler:
    """Build the sampler of one slot, with a seed of its own."""
    search = plan.file.search
    if search is None:
        return optuna.samplers.RandomSampler(seed=0)  # never asked: a grid's trials are enqueued with their parameters
    seed = derive(Stream.TUNE, plan.file.seeds[0], slot, 1) % 2**32
    made: dict[str, Callable[[], optuna.samplers.BaseSampler]] = {
        "tpe": lambda: optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=max(3, min(10, search.trials // 3)), constant_liar=True
        ),
        "nsga2": lambda: optuna.samplers.NSGAIISampler(seed=seed, population_size=max(4, search.trials // 4)),
    }
    return made[search.sampler]()


class Reporter(Callback):
    """Tells the study at every validation how far a training is; prunes it where the study says so."""

    def __init__(self, trial: optuna.Trial, plan: Plan, planned: Trial) -> None:
        self.trial, self.prune = trial, plan.file.search is not None and plan.file.search.prune
        self.run = Path(planned.config.run)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report what was validated before a stop."""
        for step, value in validations(self.run, judged_by(pl_module)) if self.prune else ():
            self.trial.report(value, step)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report the figure that its kind is judged by, at this optimizer step."""
        name = judged_by(pl_module)
        value = float(trainer.callback_metrics[name])
        progress = {"step": trainer.global_step, "of": trainer.max_steps, name.removeprefix("val/"): value}
        self.trial.set_user_attr("progress", progress)
        if self.prune:
            self.trial.report(value, trainer.global_step)
            if self.trial.should_prune():
                raise optuna.TrialPruned


def judged_by(module: LightningModule) -> str:
    """Name of the figure by which a training is better than another of its kind."""
    assert isinstance(module, TrainedModule)
    return module.judged_by


def tune(plan: Plan, storage: optuna.storages.RDBStorage, trial: Trial, score: Score) -> SampleConfig:
    """Choose the sampling options of one trained arm: the best of `tune.trials` by `score`, its own ones first.

    Where there are no more combinations than that, every one is scored once: all arms choose from the same ones.
    What was scored before a stop is kept in the storage, and the same options follow as without the stop.
    """
    tuning = plan.file.tune
    if tuning is None:
        return trial.config.sample
    ranges = parse_ranges(tuning.ranges)
    name = f"{plan.name} / tuning of {trial.key} {trial.digest}"
    inner = optuna.create_study(study_name=name, storage=storage, load_if_exists=True)
    for stopped in inner.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        inner.tell(stopped.number, state=TrialState.FAIL)  # of a stop: this arm is nobody else's

    def tried(attempt: optuna.Trial) -> float:
        value = score(trial.sampled({key: suggest(attempt, key, values) for key, values in ranges.items()}))
        if not math.isfinite(value):
            raise RunError(f"tuning: the score of {attempt.params} is not finite")
        return value

    own = {key: getattr(trial.config.sample, key.split(".")[1]) for key in ranges}
    every = sorted(combinations(ranges, tuning.trials), key=lambda params: params != own)
    wanted = [encode(params) for params in every or [{key: own[key] for key in ranges if own[key] in ranges[key]}]]
    while len(complete := inner.get_trials(states=(TrialState.COMPLETE,))) < (len(every) or tuning.trials):
        seed = derive(Stream.TUNE, trial.seed, len(complete)) % 2**32
        inner.sampler = optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=max(3, tuning.trials // 3), constant_liar=False
        )
        if len(complete) < len(wanted) and not inner.get_trials(states=(TrialState.WAITING,)):
            scored = [done.params for done in complete]
            inner.enqueue_trial(next(params for params in wanted if params not in scored))
        inner.optimize(tried, n_trials=1)
    return trial.sampled({key: decode(inner.best_params[key], values) for key, values in ranges.items()})


def combinations(ranges: Mapping[str, Range], most: int) -> list[Params]:
    """Every combination of lists of values, if there are `most` at most; otherwise none."""
    if not all(values.choices for values in ranges.values()):
        return []
    every = [dict(zip(ranges, values, strict=True)) for values in product(*(r.choices for r in ranges.values()))]
    return every if len(every) <= most else []


def importances(study: optuna.Study, objectives: Iterable[str]) -> dict[str, dict[str, float]]:
    """Share of each parameter in the variance of each objective (fANOVA), of two parameters or more and enough trials.

    Arms and seeds are no parameters: what they change is not told apart from noise.
    """
    found = dict[str, dict[str, float]]()
    for index, name in enumerate(objectives):

        def value(trial: optuna.trial.FrozenTrial, index: int = index) -> float:
            return float(trial.values[index])

        try:
            found[name] = optuna.importance.get_param_importances(
                study,
                evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0),
                target=value,
                normalize=False,
            )
        except (ValueError, RuntimeError):  # fewer than two trials, or all alike
            continue
    return {name: values for name, values in found.items() if len(values) > 1}
