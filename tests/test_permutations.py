"""Another sequence for each image: all of one shape, repeatable, and annealed as published."""

import pytest
import torch

from radar.config.options import OrderConfig
from radar.decoding.permutations import annealed, random, reseeded
from radar.errors import InputError
from radar.parts import Part

OWN = torch.arange(64)
RANDOM = OrderConfig(name="random", steps=7, schedule="cosine")


@pytest.mark.parametrize("permute", [reseeded, random, annealed])
def test_one_sequence_per_image(permute):
    permutations = permute(RANDOM, OWN, 8, 8, Part.all(5), 1, 0.0)
    assert permutations.shape == (5, 64)
    assert (permutations.sort(1).values == torch.arange(64)).all()
    assert len({tuple(row.tolist()) for row in permutations}) == 5
    assert torch.equal(permutations, permute(RANDOM, OWN, 8, 8, Part.all(5), 1, 0.0))
    assert not torch.equal(permutations, permute(RANDOM, OWN, 8, 8, Part.all(5), 2, 0.0))


def test_an_order_without_a_seed_is_refused():
    with pytest.raises(InputError, match="takes no option 'seed'"):
        reseeded(OrderConfig(name="radial"), OWN, 8, 8, Part.all(1), 0, 0.0)


def test_annealing_ends_at_the_order_itself():
    own = torch.arange(64)

    def share(progress: float) -> float:
        drawn = annealed(OrderConfig(name="raster"), own, 8, 8, Part.all(2000), 0, progress)
        return float((drawn != own).any(1).double().mean())

    assert [share(progress) for progress in (0.0, 0.5, 0.75, 1.0)] == [1.0, 1.0, 0.0, 0.0]
    assert share(0.625) == pytest.approx(0.5, abs=0.05)
