"""The discriminator of a tokenizer's training: its losses, its adaptive weight, exact resume, what it costs others."""

import json

import pytest
import torch
from torch import nn

from ablations.cli import main
from radar.config.load import to_config
from radar.config.options import TokenizerConfig
from radar.config.training import TrainConfig
from radar.errors import InputError
from radar.parts import Part
from radar.tokenizers import build_tokenizer
from radar.tokenizers.llamagen import Attention
from radar.training.adversary import Adversary, adaptive_weight, build_adversary, discriminator
from radar.training.checkpoints import holds_tokenizer, load_tokenizer
from radar.training.runs import train_tokenizer
from tests.command_line import fails

SMALL = ["data.name=shapes", "data.images=40", "tokenizer.name=fsq", "tokenizer.width=8", "train.batch_size=8"]
SMALL += ["train.warmup=1", "train.val_images=8", "train.adversarial_width=8", "train.device=cpu"]


@pytest.mark.parametrize(("side", "patches"), [(6, 1), (8, 2), (32, 6), (64, 6), (256, 30)])
def test_patches_of_an_image(side, patches):
    net, images = discriminator(8, side), torch.rand(3, 3, side, side) * 2 - 1
    found = net(images)
    assert found.shape == (3, 1, patches, patches)
    assert torch.allclose(net(images[1:2]), found[1:2], atol=1e-5), "an image's logits are its own"


def test_each_side_learns_its_own_loss():
    """The tokenizer's gradient is that of fooling alone, the discriminator's that of telling alone."""
    torch.manual_seed(0)
    adversary, last = Adversary(TrainConfig(adversarial_weight=0.5), 16), nn.Conv2d(3, 3, 1)
    images, seen = torch.rand(2, 3, 16, 16) * 2 - 1, torch.rand(2, 3, 16, 16)
    restored = last(seen)
    wanted = (restored - images).square().mean()
    judged = adversary(0, Part.all(2), images, restored, wanted, last.weight)
    judged.loss.backward()
    net = adversary.discriminator
    told = 0.5 * ((1 - net(images)).relu().mean() + (1 + net(restored.detach())).relu().mean())
    expected = torch.autograd.grad(told, list(net.parameters()))
    assert all(torch.allclose(p.grad, g, atol=1e-7) for p, g in zip(net.parameters(), expected, strict=True))
    fooled = -net(last(seen)).mean()
    adaptive = judged.values["adaptive_weight"]
    (expected,) = torch.autograd.grad(0.5 * adaptive * fooled, last.weight)
    assert torch.allclose(last.weight.grad, expected, rtol=1e-4)
    (near,) = torch.autograd.grad((last(seen) - images).square().mean(), last.weight)
    assert torch.allclose(last.weight.grad.norm(), 0.5 * near.norm(), rtol=1e-3), "as large as the other, by its factor"


def test_no_say_before_its_start():
    adversary, last = Adversary(TrainConfig(adversarial_weight=1.0, adversarial_start=3), 16), nn.Conv2d(3, 3, 1)
    images = torch.rand(2, 3, 16, 16)
    for step, there in ((2, False), (3, True)):
        restored = last(images)
        found = adversary(step, Part.all(2), images, restored, restored.square().mean(), last.weight)
        assert bool(found.loss != 0) == there


def test_the_adaptive_weight_is_bounded():
    weight = nn.Parameter(torch.ones(2))
    assert adaptive_weight(weight.sum(), 0 * weight.sum(), weight, Part.all(1)) == 1e4


def test_a_loaded_tokenizer_has_no_adversary(tmp_path):
    more = ["train.max_steps=2", "train.adversarial_weight=0.8", f"run={tmp_path}", f"data.cache={tmp_path}"]
    path = train_tokenizer(to_config({}, [*SMALL, *more]))
    held = torch.load(path, weights_only=True)["state_dict"]
    assert any(name.startswith("adversary.") for name in held) and holds_tokenizer(path)
    tokenizer = load_tokenizer(TokenizerConfig(name="fsq", checkpoint=str(path)))
    assert all(torch.equal(value, held[f"tokenizer.{name}"]) for name, value in tokenizer.state_dict().items())


@pytest.mark.parametrize("name", ["vq", "fsq"])
def test_attention_between_cells(name):
    torch.manual_seed(0)
    images = torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8)
    local, whole = (build_tokenizer(TokenizerConfig(name=name, width=8, attention=each)) for each in (None, True))
    assert whole.kind == local.kind + "-attention"
    assert [sum(isinstance(part, Attention) for part in each.modules()) for each in (local, whole)] == [0, 2]
    whole(images)  # a codebook begins with what it sees
    tokens = whole.eval().encode(images)
    assert torch.equal(tokens[1:2], whole.encode(images[1:2])) and torch.equal(tokens, whole(images)[1])


def test_what_has_no_effect_is_refused(tmp_path, capsys):
    with pytest.raises(InputError, match=r"train\.adversarial_start=5 has no effect"):
        build_adversary(TrainConfig(adversarial_start=5), 32)
    for wrong, side in (({"adversarial_width": 12}, 32), ({}, 5)):
        with pytest.raises(InputError, match="is not possible"):
            build_adversary(TrainConfig(adversarial_weight=1.0, **wrong), side)
    run = [f"run={tmp_path / 'run'}", f"data.cache={tmp_path}"]
    assert "only tokenizers" in fails(capsys, "train", "digits", "train.adversarial_start=5", *run)
    assert "only tokenizers restore images" in fails(capsys, "train", "digits", "train.adversarial_weight=1", *run)
    micro = ["train.adversarial_weight=1", "train.micro_batch=4", "tokenizer.checkpoint=null"]
    assert "adapts to a whole batch" in fails(capsys, "tokenizer", "shapes_fsq", *SMALL, *micro, *run)
    assert not (tmp_path / "run").exists()


def test_from_images_to_scores(tmp_path, capsys):
    run = [f"tokenizer.checkpoint={tmp_path / 'run' / 'last.ckpt'}", f"data.cache={tmp_path}", "train.log_every=1"]
    run += ["train.max_steps=3", "train.adversarial_weight=0.5", "tokenizer.attention=true"]
    main(["tokenizer", "shapes_fsq", *SMALL, *run])
    log = next((tmp_path / "run" / "csv").rglob("metrics.csv")).read_text()
    assert "train/adaptive_weight" in log and "train/discriminator" in log
    main(["evaluate", str(tmp_path / "run" / "last.ckpt"), "evaluate.images=20"])
    assert json.loads((tmp_path / "run" / "evaluation.json").read_text())["psnr"] > 0
