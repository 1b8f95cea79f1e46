"""Guidance schedules against the formulas that were published, and each method takes its own."""

import math

import pytest
import torch

from radar.attention import VARIANTS
from radar.config.load import to_config
from radar.config.options import OrderConfig
from radar.decoding.groups import step_sizes
from radar.decoding.orders import decode_steps
from radar.errors import InputError
from radar.sampling.guidance import guidance
from radar.sampling.passes import plan_passes

K, N, S = 20, 256, 4.0
STEP = decode_steps(OrderConfig(name="halton", steps=K, schedule="cosine"), 16, 16)
SIZES = step_sizes(STEP)
KNOWN = [sum(SIZES[:k]) for k in range(K + 1)]


def scales(schedule: str, variant: str = "plain", revise: bool = True, power: float | None = None) -> list:
    passes = plan_passes(VARIANTS[variant](SIZES), revise)
    return [guidance(schedule, power)(S, each.progress) for each in passes]


@pytest.mark.parametrize("variant", ["plain", "nested", "relay", "bidirectional"])
@pytest.mark.parametrize("revise", [True, False])
def test_formulas(variant, revise):
    """K = 20 cosine groups; ARPG and MAR, RandAR, RAR, VAR, ours, LlamaGen."""
    assert scales("constant", variant, revise) == [S] * K
    assert scales("linear", variant, revise) == pytest.approx([1 + (S - 1) * (k + 1) / K for k in range(K)])
    assert scales("known_before", variant, revise) == pytest.approx([1 + (S - 1) * KNOWN[k] / N for k in range(K)])
    assert scales("known_after", variant, revise) == pytest.approx([1 + (S - 1) * KNOWN[k + 1] / N for k in range(K)])
    assert scales("from_one", variant, revise) == pytest.approx([1 + (S - 1) * k / (K - 1) for k in range(K)])
    cosine = [1 + (S - 1) * (1 - math.cos(math.pi * (KNOWN[k] / N) ** 2.5)) / 2 for k in range(K)]
    assert scales("power_cosine", variant, revise, 2.5) == pytest.approx(cosine)


def test_after_half_of_the_passes_29_percent_are_known():
    assert (scales("known_before")[K // 2] - 1) / (S - 1) == pytest.approx(0.29, abs=0.005)
    assert (scales("linear")[K // 2 - 1] - 1) / (S - 1) == 0.5


def test_lpd_counts_inside_a_group():
    """Token j of a group that begins at n known cells: 1 + (s - 1) (n + j) / N; the first 1, the last not s."""
    found = scales("per_token")
    for k, scale in enumerate(found):
        assert torch.allclose(scale, 1 + (S - 1) * torch.arange(KNOWN[k], KNOWN[k + 1]) / N)
    assert float(found[0][0]) == 1 and float(found[-1][-1]) == pytest.approx(1 + (S - 1) * (N - 1) / N)


def test_revised_tokens_are_guided_as_the_first_of_their_pass():
    passes = plan_passes(VARIANTS["nested"](SIZES), True)
    for k, each in enumerate(passes):
        scale = guidance("per_token")(S, each.progress)
        assert torch.allclose(scale[each.revises], torch.tensor(1 + (S - 1) * KNOWN[k] / N))


@pytest.mark.parametrize(
    ("method", "schedule"),
    [
        ("llamagen", "constant"), ("par_4x", "constant"), ("nar", "constant"), ("randar", "known_before"),
        ("rar", "power_cosine"), ("arpg", "known_after"), ("lpd", "per_token"), ("halton_maskgit", "constant"),
        ("var", "from_one"),
    ],
)  # fmt: skip
def test_methods_take_their_own(method, schedule):
    assert to_config({"method": method}).sample.guidance_schedule == schedule


def test_powers_that_mean_nothing():
    with pytest.raises(InputError, match=r"sample\.guidance_power=2.0 has no effect with .*guidance_schedule=linear"):
        guidance("linear", 2.0)
    with pytest.raises(InputError, match=r"sample\.guidance_power=-1.0 is not possible: it must be above 0"):
        to_config({"sample": {"guidance_power": -1.0}})
