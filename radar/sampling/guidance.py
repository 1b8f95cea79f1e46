"""Classifier-free guidance: how its scale runs over the passes. The scale is s in u + s * (c - u) (arXiv 2207.12598).

To add a schedule: one function, one line in GUIDANCE_SCHEDULES. The w of Halton-MaskGIT is s - 1.
Legend: N cells, T targets of one pass.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from torch import Tensor

from radar.config.lookup import choose, takes
from radar.errors import InputError


class Progress(NamedTuple):
    """How far sampling is at one pass, as fractions from 0 to 1.

    Attributes:
        passes: passes up to and with this one.
        begun: passes before it, of all but the last.
        before: cells known before it.
        after: cells known after it.
        tokens: (T,) cells known before each of its targets, if those of a group came one after the other.
    """

    passes: float
    begun: float
    before: float
    after: float
    tokens: Tensor


Schedule = Callable[..., float | Tensor]  # (s, progress, options of its own) -> scale, of all targets or (T,)


def constant(scale: float, at: Progress) -> float:
    """Always s (LlamaGen, PAR, NAR, Halton-MaskGIT)."""
    return scale


def linear(scale: float, at: Progress) -> float:
    """From 1 + (s - 1) / K at the first of K passes to s at the last [ours]."""
    return 1 + (scale - 1) * at.passes


def from_one(scale: float, at: Progress) -> float:
    """From 1 at the first pass to s at the last (VAR, arXiv 2404.02905, whose cfg is s - 1)."""
    return 1 + (scale - 1) * at.begun


def known_before(scale: float, at: Progress) -> float:
    """By the share of cells known before the pass: 1 at the first (RandAR, arXiv 2412.01827)."""
    return 1 + (scale - 1) * at.before


def known_after(scale: float, at: Progress) -> float:
    """By the share of cells known after the pass: s at the last (ARPG, arXiv 2503.10568; MAR, arXiv 2406.11838)."""
    return 1 + (scale - 1) * at.after


def per_token(scale: float, at: Progress) -> Tensor:
    """By the share of cells known before each token, counted on inside a group (LPD, arXiv 2507.01957)."""
    return 1 + (scale - 1) * at.tokens


def power_cosine(scale: float, at: Progress, power: float = 1.0) -> float:
    """1 + (s - 1) (1 - cos(pi x^p)) / 2 of the share x of cells known before the pass (RAR, arXiv 2411.00776)."""
    return 1 + (scale - 1) * (1 - math.cos(math.pi * at.before**power)) / 2


GUIDANCE_SCHEDULES: dict[str, Schedule] = {
    "constant": constant,
    "linear": linear,
    "from_one": from_one,
    "known_before": known_before,
    "known_after": known_after,
    "per_token": per_token,
    "power_cosine": power_cosine,
}


def guidance(name: str, power: float | None = None) -> Schedule:
    """Find a schedule and set its options; raises InputError for an unknown name, or a power that it does not take."""
    schedule = choose("guidance schedule", name, GUIDANCE_SCHEDULES)
    if power is None:
        return schedule
    if not takes(name, GUIDANCE_SCHEDULES, "power"):
        raise InputError(f"sample.guidance_power={power} has no effect with sample.guidance_schedule={name}")
    return partial(schedule, power=power)
