"""Every order decodes every cell exactly once, in exactly the steps that were asked for."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from radar.config.lookup import takes
from radar.config.options import OrderConfig
from radar.decoding.groups import (
    SCHEDULES,
    adjacent_share,
    decode_permutation,
    group_sizes,
    known_neighbours,
    step_sizes,
)
from radar.decoding.orders import ORDERS, decode_steps
from radar.decoding.rings import DISTANCES, ROUNDINGS
from radar.errors import InputError
from tests.arms import COMPUTED

names, sides = st.sampled_from(COMPUTED), st.integers(1, 12)
schedules = st.sampled_from([None, *SCHEDULES])


def check(step: torch.Tensor, cells: int) -> None:
    assert step.shape == (cells,)
    assert step.dtype == torch.int64
    assert step.unique().tolist() == list(range(int(step.max()) + 1))
    assert decode_permutation(step).sort().values.tolist() == list(range(cells))
    assert sum(step_sizes(step)) == cells


@settings(deadline=None)  # `optimised` searches once, then it is cached
@given(names, sides, sides)
def test_natural_grouping(name, h, w):
    step = decode_steps(OrderConfig(name=name), h, w)
    check(step, h * w)
    assert torch.equal(step, decode_steps(OrderConfig(name=name), h, w))


@settings(deadline=None)  # `optimised` searches once, then it is cached
@given(names, sides, sides, schedules, st.data())
def test_any_number_of_steps(name, h, w, schedule, data):
    steps = data.draw(st.integers(1, h * w))
    step = decode_steps(OrderConfig(name=name, steps=steps, schedule=schedule), h, w)
    check(step, h * w)
    assert int(step.max()) + 1 == steps


@settings(deadline=None)  # `optimised` searches once, then it is cached
@given(names, sides, sides, st.data())
def test_regrouping_keeps_the_ranking(name, h, w, data):
    natural = decode_steps(OrderConfig(name=name), h, w)
    steps = data.draw(st.integers(1, h * w))
    if takes(name, ORDERS, "sizes"):
        return  # such an order is made for its group sizes
    regrouped = decode_steps(OrderConfig(name=name, steps=steps, schedule="constant"), h, w)
    before, after = natural[:, None] < natural, regrouped[:, None] > regrouped
    assert not (before & after).any()


@given(sides, sides, st.sampled_from(list(DISTANCES)), st.sampled_from(list(ROUNDINGS)), st.data())
def test_radial_is_monotone_in_distance_and_one_center_of_many(h, w, metric, rounding, data):
    center = [data.draw(st.integers(0, h - 1)), data.draw(st.integers(0, w - 1))]
    radial = OrderConfig(name="radial", center=center, metric=metric, rounding=rounding)
    step = decode_steps(radial, h, w)
    many = OrderConfig(name="multi_center", centers=[center], metric=metric, rounding=rounding)
    assert torch.equal(step, decode_steps(many, h, w))
    rows, columns = np.divmod(np.arange(h * w), w)
    distance = DISTANCES[metric](abs(rows - center[0]).astype(float), abs(columns - center[1]).astype(float))
    assert (np.diff(step.numpy()[np.argsort(distance, kind="stable")]) >= 0).all()


@pytest.mark.parametrize(
    ("order", "side", "count"),
    [
        (OrderConfig(name="radial"), 16, 13),
        (OrderConfig(name="radial", metric="chebyshev"), 16, 9),
        (OrderConfig(name="radial", metric="manhattan"), 16, 17),
        (OrderConfig(name="radial", rounding="round"), 16, 12),
        (OrderConfig(name="radial", metric="chebyshev"), 24, 13),
        (OrderConfig(name="diagonal"), 16, 31),
        (OrderConfig(name="diagonal"), 24, 47),
        (OrderConfig(name="regions", regions=4), 16, 67),
        (OrderConfig(name="regions", regions=4), 24, 147),
        (OrderConfig(name="regions", regions=16), 16, 31),
        (OrderConfig(name="regions", regions=16), 24, 51),
        (OrderConfig(name="lpd"), 16, 20),
        (OrderConfig(name="raster"), 16, 256),
        (OrderConfig(name="multi_center"), 16, 7),
    ],
)
def test_known_counts(order, side, count):
    assert int(decode_steps(order, side, side).max()) + 1 == count


def test_radial_sizes():
    sizes = step_sizes(decode_steps(OrderConfig(name="radial"), 16, 16))
    assert sizes == [1, 4, 8, 16, 20, 32, 32, 36, 46, 36, 20, 4, 1]


def test_known_neighbours():
    """Cell by cell, half of all pairs; of the first two rows of 16, all to the left and half of those above."""

    def share(first, **order):
        return known_neighbours(decode_steps(OrderConfig(**order), 16, 16), 16, 16, first)

    rows = [[0] + [1 / 3] * 14 + [1 / 2], [1 / 3] + [1 / 2] * 14 + [2 / 3]]
    assert share(1 / 8, name="raster") == pytest.approx(np.mean(rows), rel=1e-5)
    assert share(1 / 8, name="raster") == pytest.approx(share(1 / 8, name="column"), rel=1e-5)
    assert share(1 / 8, name="checkerboard") == 0 < share(1 / 8, name="random") < 0.15
    assert share(1, name="radial", steps=1) == 0 and known_neighbours(torch.zeros(1, dtype=torch.long), 1, 1) == 0


def test_crops_are_squares_that_hold_each_other():
    step = decode_steps(OrderConfig(name="crops"), 16, 16).view(16, 16)
    sides = [1, 2, 3, 4, 5, 6, 8, 10, 13, 16]
    for k, side in enumerate(sides):
        rows, columns = torch.where(step <= k)
        assert len(rows) == side**2 and int(rows.max() - rows.min()) == int(columns.max() - columns.min()) == side - 1
    thirteen = decode_steps(OrderConfig(name="crops", sides=[*range(1, 10), 11, 13, 14, 16]), 16, 16)
    assert int(thirteen.max()) == 12 and step_sizes(thirteen)[-1] == 16**2 - 14**2
    assert int(decode_steps(OrderConfig(name="crops"), 8, 8).max()) == 6, "as many as rings"


def test_a_spiral_in_growing_groups_is_squares_too():
    """EAR's 16 groups of 1, 3, 5, ... cells are the crops of sides 1, 2, 3, ..., on any square grid."""
    spiral = decode_steps(OrderConfig(name="spiral_out", steps=16, schedule="linear"), 16, 16).view(16, 16)
    assert step_sizes(spiral.flatten()) == list(range(1, 32, 2))
    for k in range(16):
        rows, columns = torch.where(spiral <= k)
        assert int(rows.max() - rows.min()) == int(columns.max() - columns.min()) == k


def test_checkerboard_fills_every_level_evenly():
    """The first 4^l cells are one in each square of the grid cut into 2^l by 2^l, also its second such lot."""
    step = decode_steps(OrderConfig(name="checkerboard"), 16, 16).view(16, 16)
    for level in range(1, 5):
        side, count = 16 >> level, 4**level
        for lot in range(256 // count):
            chosen = ((step >= lot * count) & (step < (lot + 1) * count)).view(16 // side, side, 16 // side, side)
            assert (chosen.sum((1, 3)) == 1).all(), (level, lot)
    assert step[0, 0] == 0 and step[8, 8] == 1 and step[0, 8] == 2 and step[8, 0] == 3


def test_adjacent_share():
    shares = {metric: OrderConfig(name="radial", metric=metric) for metric in DISTANCES}
    found = {metric: round(adjacent_share(decode_steps(o, 16, 16), 16, 16), 2) for metric, o in shares.items()}
    assert found == {"euclidean": 0.30, "chebyshev": 0.53, "manhattan": 0.0}
    assert adjacent_share(torch.zeros(1, dtype=torch.long), 1, 1) == 0


@given(st.integers(1, 300), st.sampled_from(list(SCHEDULES)), st.data())
def test_group_sizes(cells, schedule, data):
    steps = data.draw(st.integers(1, cells))
    sizes = group_sizes(cells, steps, schedule)
    assert len(sizes) == steps and sum(sizes) == cells and min(sizes) >= 1
    if schedule == "constant":
        assert max(sizes) - min(sizes) <= 1


def test_paths_move_to_neighbours():
    for name in ("snake", "spiral_in", "spiral_out"):
        permutation = decode_permutation(decode_steps(OrderConfig(name=name), 7, 5))
        rows, columns = permutation // 5, permutation % 5
        assert ((rows.diff().abs() + columns.diff().abs()) == 1).all(), name


def test_seeds():
    def steps(seed: int) -> torch.Tensor:
        return decode_steps(OrderConfig(name="random", seed=seed), 8, 8)

    assert torch.equal(steps(3), steps(3)) and not torch.equal(steps(3), steps(4))


def test_regions_decode_one_cell_of_each():
    step = decode_steps(OrderConfig(name="regions", regions=4), 6, 8).view(6, 8)
    assert step[0, 0] == 0 and step[0, 4] == 1 and step[3, 0] == 2 and step[3, 4] == 3
    quarters = [step[r : r + 3, c : c + 4] for r in (0, 3) for c in (0, 4)]
    for quarter in quarters[1:]:
        assert torch.equal(quarter.flatten()[1:], quarters[0].flatten()[1:]), "the same place in the same step"
    with pytest.raises(InputError, match="regions=5 is not possible: it must be a square number"):
        decode_steps(OrderConfig(name="regions", regions=5), 8, 8)


def test_lpd_is_near_the_context_and_spread_out():
    step = decode_steps(OrderConfig(name="lpd"), 16, 16)
    assert step_sizes(step) == group_sizes(256, 20, "cosine")
    assert adjacent_share(step, 16, 16) < 0.1
    grid = torch.nn.functional.pad(step.view(1, 1, 16, 16).double(), (1, 1, 1, 1), value=99)
    earliest = -torch.nn.functional.max_pool2d(-grid, 3, 1).flatten()
    touching = (earliest < step)[step > 0].double().mean()
    assert touching > 0.9, "beside something that is known already"


@pytest.mark.parametrize(
    ("order", "message"),
    [
        (OrderConfig(name="radal"), "unknown order 'radal'; choose from: raster"),
        (OrderConfig(name="raster", metric="chebyshev"), "order 'raster' takes no option 'metric'; it takes: none"),
        (OrderConfig(name="radial", metric="cosine"), "unknown distance metric 'cosine'"),
        (OrderConfig(name="radial", center=[8, 0]), r"start cell \[8, 0\] is outside the 8x8 grid"),
        (OrderConfig(name="multi_center", centers=[[0, 0], [0, -1]]), "outside the 8x8 grid"),
        (OrderConfig(name="multi_center", centers=[[1, 2, 3]]), "not a .row, column. pair"),
        (OrderConfig(name="multi_center", centers=[]), "order.centers is empty"),
        (OrderConfig(name="crops", sides=[1, 4, 7]), r"order.sides=\[1, 4, 7\] is not possible: they must grow"),
        (OrderConfig(name="crops", sides=[2, 2, 8]), "at least 1 to 8"),
        (OrderConfig(name="crops", sides=[0, 8]), "at least 1 to 8"),
        (OrderConfig(name="random", steps=65), "order.steps=65 is not possible: a grid of 64 cells takes 1..64"),
        (OrderConfig(name="random", steps=0), "order.steps=0 is not possible"),
        (OrderConfig(name="random", steps=7, schedule="cubic"), "unknown schedule 'cubic'"),
    ],
)
def test_bad_orders(order, message):
    with pytest.raises(InputError, match=message):
        decode_steps(order, 8, 8)
