"""The closed-form gap is the KL divergence from the field to what the grouped sampler really draws from."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from radar.config.options import OrderConfig
from radar.decoding.orders import decode_steps
from radar.decoding.total_correlation import exponential_covariance, independence_gap
from tests.arms import COMPUTED


def sampler_covariance(step: torch.Tensor, field: torch.Tensor) -> torch.Tensor:
    """Joint covariance of x_group = A x_past + sqrt(diag S) noise, built group by group from the conditionals."""
    joint = torch.zeros_like(field)
    past = torch.empty(0, dtype=torch.long)
    for k in range(int(step.max()) + 1):
        group = torch.nonzero(step == k).flatten()
        weights = torch.linalg.solve(field[past][:, past], field[past][:, group]).T
        schur = field[group][:, group] - weights @ field[past][:, group]
        joint[group[:, None], past] = weights @ joint[past][:, past]
        joint[past[:, None], group] = joint[group[:, None], past].T
        joint[group[:, None], group] = weights @ joint[past][:, past] @ weights.T + schur.diagonal().diag()
        past = torch.cat([past, group])
    return joint


def gaussian_kl(p: torch.Tensor, q: torch.Tensor) -> float:
    return float(0.5 * (torch.linalg.solve(q, p).trace() - len(p) + torch.logdet(q) - torch.logdet(p)))


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(COMPUTED), st.integers(1, 6), st.integers(1, 6), st.sampled_from([1.5, 4.0, 10.0]), st.data())
def test_gap_is_the_kl_divergence(name, h, w, length, data):
    steps = data.draw(st.none() | st.integers(1, h * w))
    step = decode_steps(OrderConfig(name=name, steps=steps), h, w)
    field = exponential_covariance(h, w, length, nugget=1e-2)
    assert float(independence_gap(step, field).sum()) == pytest.approx(
        gaussian_kl(field, sampler_covariance(step, field)), abs=1e-9
    )


def test_published_values():
    """method.md, section 3: 16x16, exp(-r/4) + 1e-4 I."""
    field = exponential_covariance(16, 16)
    orders = {
        "raster": (OrderConfig(name="raster"), 0.0),
        "rows": (OrderConfig(name="raster", steps=16), 33.4),
        "diagonal": (OrderConfig(name="diagonal"), 7.0),
        "chebyshev": (OrderConfig(name="radial", metric="chebyshev"), 32.4),
        "euclidean": (OrderConfig(name="radial"), 20.7),
        "manhattan": (OrderConfig(name="radial", metric="manhattan"), 7.2),
        "multi_center": (OrderConfig(name="multi_center"), 16.8),
        "halton": (OrderConfig(name="halton", steps=13, schedule="cosine"), 1.2),
    }
    for name, (order, value) in orders.items():
        gap = float(independence_gap(decode_steps(order, 16, 16), field).sum())
        assert gap == pytest.approx(value, abs=0.05), name


def test_independent_cells_cost_nothing():
    assert independence_gap(torch.zeros(9, dtype=torch.long), torch.eye(9)).abs().sum() < 1e-12
