"""Another sequence for each image: all of one shape, repeatable, and annealed as published."""

import pytest
import torch

from radar.config.options import OrderConfig
from radar.decoding.permutations import annealed, by_seed, permuted
from radar.errors import InputError

OWN = torch.arange(64)
RANDOM = OrderConfig(name="random", steps=7, schedule="cosine")


@pytest.mark.parametrize("redraw", [by_seed, permuted, annealed])
def test_one_sequence_per_image(redraw):
    sequences = redraw(RANDOM, OWN, 8, 8, 5, 1, 0.0)
    assert sequences.shape == (5, 64)
    assert (sequences.sort(1).values == torch.arange(64)).all()
    assert len({tuple(row.tolist()) for row in sequences}) == 5
    assert torch.equal(sequences, redraw(RANDOM, OWN, 8, 8, 5, 1, 0.0))
    assert not torch.equal(sequences, redraw(RANDOM, OWN, 8, 8, 5, 2, 0.0))


def test_an_order_without_a_seed_is_refused():
    with pytest.raises(InputError, match="takes no option 'seed'"):
        by_seed(OrderConfig(name="radial"), OWN, 8, 8, 1, 0, 0.0)


def test_annealing_ends_at_the_order_itself():
    own = torch.arange(64)

    def share(progress: float) -> float:
        drawn = annealed(OrderConfig(name="raster"), own, 8, 8, 2000, 0, progress)
        return float((drawn != own).any(1).double().mean())

    assert [share(progress) for progress in (0.0, 0.5, 0.75, 1.0)] == [1.0, 1.0, 0.0, 0.0]
    assert share(0.625) == pytest.approx(0.5, abs=0.05)
