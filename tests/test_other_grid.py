"""Grids that a model was not trained on: what goes on, what is interpolated, what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ablations.cli import main
from radar.config.load import load_config
from radar.config.options import Config, ModelConfig, OrderConfig
from radar.config.sampling import SampleConfig
from radar.config.training import TrainConfig
from radar.errors import InputError
from radar.model.blocks import POSITIONS, rotary_table
from radar.sampling.sampler import sample_tokens
from radar.training.checkpoints import load_generator
from radar.training.generator import GeneratorModule
from radar.training.other_grid import LEARNED, cropped, interpolated, on_sampled_grid, replicated
from radar.training.runs import train_generator
from tests.command_line import fails

SMALL = ["model.dim=16", "model.heads=2", "model.layers=1", "train.batch_size=4", "train.warmup=1", "train.max_steps=2"]


def module(positions: str, order: str = "radial", attention: str = "plain", **sample: object) -> GeneratorModule:
    torch.manual_seed(0)
    model = ModelConfig(dim=16, layers=2, heads=2, positions=positions)
    config = Config(order=OrderConfig(name=order), attention=attention, model=model, sample=SampleConfig(**sample))
    made = GeneratorModule(config, 7, 3, (6, 5)).eval()
    for parameter in made.model.parameters():
        torch.nn.init.normal_(parameter, std=0.3 if parameter.ndim > 1 else 1.0)
    return made


@torch.no_grad()
def draw(made: GeneratorModule) -> torch.Tensor:
    settings, images = SampleConfig(seed=3), range(4)
    inputs = made.sampled_permutation(settings, images), torch.arange(4) % 4, settings, images
    return sample_tokens(made.model, made.passes(settings), *inputs)


@pytest.mark.parametrize("place", ["center", "left", "right", "top", "bottom"])
@pytest.mark.parametrize("attention", ["plain", "nested"])
def test_radial_goes_on_from_its_old_centre(place, attention):
    """With rotary positions alone, the rings that lie inside of the old grid are drawn as on it."""
    made = module("rotary", "radial", attention, grid=[9, 11], place=place)
    larger = on_sampled_grid(made.config, made)
    row = {"top": 0, "bottom": 3}.get(place, 1)
    column = {"left": 0, "right": 6}.get(place, 3)
    old, new = made.step.view(6, 5), larger.step.view(9, 11)
    assert torch.equal(new[row : row + 6, column : column + 5], old), "the same rings"
    whole = [k for k in range(int(old.max()) + 1) if (old == k).sum() == (new == k).sum()]
    rings = next(k for k, ring in enumerate([*whole, -1]) if ring != k)
    assert rings >= 2
    before, after = draw(made).view(4, 6, 5), draw(larger).view(4, 9, 11)
    inner = old < rings
    assert torch.equal(after[:, row : row + 6, column : column + 5][:, inner], before[:, inner])


@pytest.mark.parametrize("positions", list(POSITIONS))
@pytest.mark.parametrize("grid", [[6, 5], [9, 11], [12, 3], [4, 4]])
@pytest.mark.parametrize(("order", "attention"), [("raster", "causal"), ("radial", "plain"), ("radial", "nested")])
def test_every_grid_is_drawn(positions, grid, order, attention):
    if (positions, attention) == ("rotary", "causal") and grid != [6, 5]:
        made = module(positions, order, attention, grid=grid)
        with pytest.raises(InputError, match="does not know which cell follows"):
            on_sampled_grid(made.config, made)
        return
    for rotary, learned in (("extend", "replicate"), ("ntk", "interpolate")):
        made = module(positions, order, attention, grid=grid, rotary=rotary, learned=learned)
        other = on_sampled_grid(made.config, made)
        assert (other is made) == (grid == [6, 5])
        tokens = draw(other)
        assert tokens.shape == (4, grid[0] * grid[1]) and other.model.grid == tuple(grid)


def test_what_positions_are_made_of():
    learned, rotary, both = (module(name).model for name in ("learned", "rotary", "both"))
    assert rotary.positions is None and learned.positions is not None and both.positions is not None
    assert torch.equal(learned.angles, torch.tensor([1.0, 0.0]).expand_as(learned.angles))
    assert torch.equal(both.angles, rotary.angles) and not torch.equal(both.angles, learned.angles)


def test_rotary_angles_of_a_larger_grid():
    plain, moved = rotary_table(3, 4, 8), rotary_table(5, 7, 8, (1, 2))
    inside = moved[1:].view(5, 7, 4, 2)[1:4, 2:6]
    assert torch.equal(inside.reshape(12, 4, 2), plain[1:]) and torch.equal(moved[0], plain[0])
    slower = rotary_table(3, 4, 16, slower=(2.0, 1.0))
    angles = [torch.atan2(table[..., 1], table[..., 0])[1] for table in (rotary_table(3, 4, 16), slower)]
    assert torch.allclose(angles[0][0], angles[1][0]), "the fastest turns as before"
    assert torch.allclose(angles[0][3], 2 * angles[1][3]), "the slowest half as fast"
    assert torch.equal(angles[0][4:], angles[1][4:]), "columns as before"


def test_learned_positions_of_another_grid():
    positions = torch.stack([torch.arange(6.0), torch.arange(6.0) // 3], 1)  # of 2x3 cells
    for further in LEARNED.values():
        assert torch.equal(further(positions, (2, 3), (2, 3), (0, 0)), positions)
    larger = interpolated(positions, (2, 3), (3, 5), (0, 1)).view(3, 5, 2)
    assert larger[1, 2].tolist() == [2.5, 0.5] and larger[0, 1].tolist() == [0.5, 0]
    larger = replicated(positions, (2, 3), (4, 5), (1, 1)).view(4, 5, 2)
    assert torch.equal(larger[1:3, 1:4].reshape(6, 2), positions), "the old ones where they were"
    assert larger[0, 0].tolist() == [0, 0] and larger[3, 4].tolist() == [5, 1] and larger[0, 2].tolist() == [1, 0]
    assert replicated(positions, (2, 3), (1, 2), (0, 0)).tolist() == [[0, 0], [1, 0]]


def test_cropped():
    images = torch.arange(4 * 6).view(1, 1, 4, 6)
    assert torch.equal(cropped(images, (2, 2), "center"), images[:, :, 1:3, 2:4])
    assert torch.equal(cropped(images, (4, 2), "right"), images[:, :, :, 4:])


@pytest.mark.parametrize("positions", list(POSITIONS))
def test_commands(positions, tmp_path, capsys):
    options = [*SMALL, f"run={tmp_path / 'run'}", f"data.cache={tmp_path / 'cache'}", f"model.positions={positions}"]
    made = str(train_generator(load_config(None, options)))
    main(["sample", made, "sample.grid=[8,12]", "sample.images=3", "--out", str(tmp_path / "s")])
    assert np.load(tmp_path / "s" / "samples.npz")["arr_0"].shape == (3, 8, 12, 3)
    main(["edit", made, "--task", "extend", "--grid", "12x12", "--count", "3", "--out", str(tmp_path / "e")])
    assert Image.open(tmp_path / "e" / "edit.png").width > 30
    row = json.loads((tmp_path / "e" / "edit.json").read_text())
    assert (
        row["hidden_cells"] == 80
        and set(row["scores"]) == {"seam", "outside"}
        and row["scores"]["outside"]["mean"] == 0
    )
    few = ["evaluate.images=20", "evaluate.timing_repeats=1", "evaluate.timing_batch=2"]
    main(["evaluate", made, "sample.grid=[16,8]", *few, "--out", str(tmp_path / "v")])
    row = json.loads((tmp_path / "v" / "evaluation.json").read_text())
    trained = load_generator(made)
    assert row["nll"] is None and row["gap_data"] is None and np.isfinite(row["fid"]) and row["samples"] == 20
    assert sum(row["group_sizes"]) == 128 and row["slots"] == len(trained.module.slots)
    capsys.readouterr()
    assert "is smaller than the 8x8 cells" in fails(capsys, "evaluate", made, "sample.grid=[4,12]")
    for wrong, message in [
        (["--task", "extend"], "--task extend needs a larger grid than the 8x8 cells of the images"),
        (["--task", "extend", "--grid", "4x12"], "needs a larger grid"),
        (["--grid", "8x12"], "sample.grid=[8, 12] has no effect with --task inpaint"),
        (["--task", "extend", "--grid", "8x12", "--keep", "left"], "--keep has no effect with --task extend"),
        (["--task", "extend", "--grid", "100x100"], "--grid 100x100 is not possible"),
    ]:
        assert message in fails(capsys, "edit", made, "--out", tmp_path / "none", *wrong)
    assert not Path(tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ({"grid": [8]}, r"sample.grid=\[8\] is not possible"),
        ({"grid": [0, 8]}, r"sample.grid=\[0, 8\] is not possible"),
        ({"grid": [65, 64]}, r"sample.grid=\[65, 64\] is not possible"),
        ({"place": "left"}, "sample.place=left has no effect without sample.grid"),
    ],
)
def test_no_grid(sample, message):
    made = module("both", **sample)
    with pytest.raises(InputError, match=message):
        on_sampled_grid(made.config, made)


def test_other_orders_go_on_around_their_old_centres():
    made = module("both", "multi_center", grid=[6, 9], place="left")
    old, new = (one.step.view(one.model.grid) for one in (made, on_sampled_grid(made.config, made)))
    assert torch.equal(torch.nonzero(new == 0), torch.nonzero(old == 0))
    config = Config(order=OrderConfig(name="random"), attention="plain", train=TrainConfig(permutations="random"))
    config = replace(config, sample=SampleConfig(order="radial", grid=[6, 9], place="right"))
    anyorder = GeneratorModule(config, 7, 3, (6, 5))
    larger = on_sampled_grid(config, anyorder)
    assert torch.equal(
        larger.sampled_step(config.sample).view(6, 9)[:, 4:], anyorder.sampled_step(config.sample).view(6, 5)
    )


def test_a_grid_is_checked_before_training(tmp_path, capsys):
    options = [*SMALL, f"run={tmp_path / 'run'}", f"data.cache={tmp_path / 'cache'}", "sample.grid=[8]"]
    assert "sample.grid=[8] is not possible" in fails(capsys, "train", "digits", *options)
    assert not (tmp_path / "run").exists()


def test_rotary_alone_must_say_which_cell_a_slot_fills():
    assert module("rotary", "raster", "causal").model.positions is None
    with pytest.raises(InputError, match="does not say which cell a slot"):
        module("rotary", "radial", "relay")
