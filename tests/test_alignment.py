"""Alignment with an encoder: same cells, every order and attention, and a training that goes on to the bit."""

import json

import pytest
import torch
from torch import nn

from ablations.cli import main
from radar.config.load import to_config
from radar.config.options import TokenizerConfig
from radar.config.training import TrainConfig
from radar.data.batches import Batch
from radar.encoders.network import FeatureNetwork
from radar.errors import InputError
from radar.tokenizers import build_tokenizer, normalise
from radar.training.alignment import Alignment, Teacher, build_alignment
from radar.training.generators import generator_builder
from tests.arms import typical
from tests.command_line import fails

GRID, TOKENIZER = (4, 4), build_tokenizer(TokenizerConfig())
TOKENS = torch.randint(17, (6, 16), generator=torch.Generator().manual_seed(0))


class Pixels(FeatureNetwork):
    """Its map is the image."""

    label, digest, num_features = "pixels", "0", 3

    def maps(self, images):
        return [nn.functional.interpolate(images, (9, 9)), images]


def test_features_are_those_of_the_cells():
    """Of the map that is nearest to the grid: pixels of the restored image, in random directions."""
    found = Teacher(Pixels(), TOKENIZER, GRID, 8)(TOKENS)
    assert found.shape == (6, 16, 8)
    pixels = normalise(TOKENIZER.decode(TOKENS, GRID))[:, 0].flatten(1)
    ratio = (found / pixels[..., None]).flatten(0, 1)
    assert torch.allclose(ratio, ratio[:1].expand(96, -1), rtol=1e-3), "of its own cell alone"


def test_the_loss_is_one_less_the_cosine_of_the_same_cell():
    made, teacher = Alignment(TrainConfig(align="x", align_weight=2.0), 8, 2), Teacher(Pixels(), TOKENIZER, GRID, 8)
    made.learn_from(teacher)
    made.head = nn.Identity()
    cells = torch.randperm(16)[None]
    hidden = torch.cat([torch.randn(6, 1, 8), teacher(TOKENS)[:, cells[0]]], 1)
    there = torch.arange(17) > 0
    padded = torch.cat([torch.zeros(1, 1, dtype=torch.long), cells], 1)
    assert float(made([3 * hidden], TOKENS, padded, there)) == pytest.approx(0, abs=1e-4)
    assert float(made([-hidden], TOKENS, padded, there)) > 3.5


@pytest.mark.parametrize(("order", "variant"), [arm for arm in typical() if arm[1] != "block_causal"])
def test_every_order_and_attention(order, variant):
    model = {"dim": 16, "layers": 4, "heads": 1}
    config = to_config({"order": {"name": order}, "attention": variant, "model": model, "train": {"align": "pixels"}})
    module = generator_builder(config)(config, TOKENIZER, 3, GRID)
    module.alignment.learn_from(Teacher(Pixels(), TOKENIZER, GRID, 16))
    with_it = module.training_step(Batch(0, TOKENS, torch.arange(6) % 3, torch.arange(6), others=TOKENS), 0)
    with_it.backward()
    assert module.alignment.head[0].weight.grad.any() and not module.model.head.weight.grad.isnan().any()
    first = next(module.model.blocks[0].parameters())
    taught, module.alignment.teacher = first.grad.clone(), None
    module.zero_grad()
    without = module.training_step(Batch(0, TOKENS, torch.arange(6) % 3, torch.arange(6), others=TOKENS), 0)
    assert 0 < (added := float((with_it - without).detach())) < 1, "half of one less a cosine, beside the same loss"
    assert float(module.aligned_value(added)["train/cosine"]) == pytest.approx(1 - 2 * added)
    without.backward()
    assert not torch.allclose(taught, first.grad), "the model learns from it, not the head alone"


@pytest.mark.parametrize(
    ("order", "variant"), [("raster", "causal"), ("radial", "nested"), ("radial", "bidirectional")]
)
def test_slots_are_aligned_with_their_own_cell(order, variant, monkeypatch):
    """Slots that hold the token of a cell, in the sequence of the order, are compared with that cell's features."""
    train, model = {"align": "pixels", "layout": "packed"}, {"dim": 16, "layers": 2, "heads": 1}
    config = to_config({"order": {"name": order}, "attention": variant, "model": model, "train": train})
    module, seen = generator_builder(config)(config, TOKENIZER, 3, GRID), []
    module.alignment.learn_from(Teacher(Pixels(), TOKENIZER, GRID, 16))
    monkeypatch.setattr(Alignment, "forward", lambda self, *given: seen.append(given) or torch.zeros(()))
    module.training_step(Batch(0, TOKENS, torch.arange(6) % 3, torch.arange(6), others=TOKENS), 0)
    _, tokens, cells, there = seen[0]
    assert torch.equal(tokens, TOKENS)
    rank = module.slots.rank
    assert there.sum() >= 15 and torch.equal(there, rank >= 0)
    step = module.step[torch.atleast_2d(cells)[0, there]]
    assert torch.equal(step, module.step.sort().values[rank[there]]), "cells in the sequence of their steps"
    assert order != "raster" or torch.equal(torch.atleast_2d(cells)[0, there], rank[there])


def test_what_is_not_possible(capsys, tmp_path):
    with pytest.raises(InputError, match=r"train.align_layer=5 is not possible: the model has 4 layers"):
        build_alignment(TrainConfig(align="cnn", align_layer=5), 8, 4)
    with pytest.raises(InputError, match="not those of scales"):
        build_alignment(TrainConfig(align="cnn"), 8, 4, flat=False)
    for options, message in {
        ("train.align=nonsense",): "nonsense",
        ("train.align_layer=1",): "have no effect without train.align",
        ("train.align=cnn", "train.align_layer=5", f"data.cache={tmp_path}"): "train.align_layer=5 is not possible",
        ("train.align=cnn", "train.strategy=fsdp"): "choose ddp",
    }.items():
        assert message in fails(capsys, "train", "digits", f"run={tmp_path / 'run'}", *options)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("method", ["llamagen", "dit"])
def test_from_images_to_a_row(method, tmp_path, capsys):
    run, small = tmp_path / "run", ["model.dim=16", "model.heads=1", "model.layers=2", "train.batch_size=8"]
    options = ["train.max_steps=4", "train.align=cnn", f"run={run}", f"data.cache={tmp_path}", "sample.passes=3"]
    options = options if method == "dit" else options[:-1]
    main(["train", "digits", f"method={method}", *small, *options])
    main(["evaluate", str(run / "last.ckpt"), "evaluate.images=60", "evaluate.timing_repeats=1"])
    assert json.loads((run / "evaluation.json").read_text())["fid"] > 0
    checkpoint = torch.load(run / "last.ckpt", weights_only=True)
    assert checkpoint["radar"]["origin"]["teacher"].startswith("digits-cnn:")
    checkpoint["radar"]["origin"]["teacher"] = "digits-cnn:another"
    torch.save(checkpoint, run / "last.ckpt")
    capsys.readouterr()
    line = fails(capsys, "train", "digits", f"method={method}", *small, *options)
    assert "was trained with other teacher (digits-cnn:another, here digits-cnn:" in line
