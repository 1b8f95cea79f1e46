"""Optimizers: which weights they move and how, and that their state comes back."""

import copy

import pytest
import torch

from radar.config.load import to_config
from radar.config.training import TrainConfig
from radar.tokenizers import fsq
from radar.training.generator import GeneratorModule
from radar.training.muon import Muon
from radar.training.optimizers import OPTIMIZERS, Together, sorted_weights
from radar.training.tokenizer import TokenizerModule
from radar.training.trained import learning_rate
from tests.command_line import fails
from tests.test_modules import BATCH, module


def step(made: GeneratorModule, optimizer: torch.optim.Optimizer, number: int) -> None:
    made.training_step(BATCH._replace(number=number), 0).backward()
    optimizer.step()
    optimizer.zero_grad()


def test_every_weight_is_given_to_an_optimizer_once():
    made = module()
    weights = sorted_weights(made, made.blocks())
    given = sorted(id(p) for kind in weights for p in kind)
    assert given == sorted(id(p) for p in made.parameters() if p.requires_grad)
    names = {id(p): name for name, p in made.named_parameters()}
    assert all("blocks" in names[id(p)] and p.ndim == 2 for p in weights.matrices) and weights.matrices
    assert "model.head.weight" in [names[id(p)] for p in weights.others], "a head is no matrix of a block"


def test_muon_moves_matrices_by_orthogonal_steps():
    """Without decay, the first step of a wide matrix has nearly equal singular values, of the size of its rate."""
    made = module(optimizer="muon", weight_decay=0.0, muon_lr=0.01)
    weights = sorted_weights(made, made.blocks())
    before = [p.detach().clone() for p in weights.matrices]
    step(made, made.build_optimizer(), 0)
    for old, new in zip(before, weights.matrices, strict=True):
        rows, columns = old.shape
        sizes = torch.linalg.svdvals((old - new.detach()).double()) / (0.01 * max(1, rows / columns) ** 0.5)
        assert 0.4 < sizes.median() < 1.4 and sizes.max() < 1.4


def test_muon_steps_as_torch_does():
    """But for rounding: torch's works in bfloat16. Each goes on from the state of the other."""
    torch.manual_seed(0)
    weights = [torch.nn.Parameter(torch.randn(shape)) for shape in ((6, 4), (4, 4), (6, 4), (3, 8))]
    copies = [torch.nn.Parameter(weight.detach().clone()) for weight in weights]
    ours, theirs = Muon(weights, 0.1, 0.01), torch.optim.Muon(copies, 0.1, 0.01)
    for _ in range(3):
        before = [weight.detach().clone() for weight in weights]
        for weight, copied in zip(weights[:3], copies, strict=False):  # the last has no gradient
            weight.grad = copied.grad = torch.randn(weight.shape)
        ours.step()
        theirs.step()
        for old, weight, copied in zip(before, weights, copies, strict=True):
            assert torch.dist(weight, copied) <= 0.03 * torch.dist(weight, old)
            copied.data.copy_(weight.data)
        state = copy.deepcopy(ours.state_dict())
        ours.load_state_dict(copy.deepcopy(theirs.state_dict()))
        theirs.load_state_dict(state)


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_state_comes_back(name):
    """Also the learning rate, which the schedule writes into the groups."""
    made = module(optimizer=name)
    optimizer = made.build_optimizer()
    for number in range(2):
        step(made, optimizer, number)
    for group in optimizer.param_groups:
        group["lr"] *= 0.5
    copied, state = copy.deepcopy(made), copy.deepcopy(optimizer.state_dict())
    again = copied.build_optimizer()
    again.load_state_dict(state)
    assert len(again.state) == len(optimizer.state) == sum(p.requires_grad for p in made.parameters())
    for one, other in ((made, optimizer), (copied, again)):
        step(one, other, 2)
        for group in other.param_groups:
            group["lr"] = 0.0
        step(one, other, 3)
    assert all(torch.equal(a, b) for a, b in zip(made.parameters(), copied.parameters(), strict=True))
    before = [p.detach().clone() for p in made.parameters()]
    step(made, optimizer, 4)
    assert all(torch.equal(a, b) for a, b in zip(made.parameters(), before, strict=True)), "the rates are shared"


def test_the_rate_falls_linearly_at_the_end():
    config = TrainConfig(max_steps=100, warmup=10, decay=0.2)
    rates = [learning_rate(step, config) for step in range(101)]
    assert rates[:11] == pytest.approx([*(i / 10 for i in range(1, 11)), 1.0]) and set(rates[10:81]) == {1.0}
    assert rates[81:] == pytest.approx([(100 - step) / 20 for step in range(81, 101)]) and rates[100] == 0


def test_what_fits_is_taken():
    """By default, Muon where there are blocks and AdamW where there are none."""
    assert isinstance(module().build_optimizer(), Together)
    tokenizer = TokenizerModule(to_config({}), fsq([4, 4], 8, 4))
    assert isinstance(tokenizer.build_optimizer(), torch.optim.AdamW)


def test_bad_optimizers(tmp_path, capsys):
    run = ("train.max_steps=2", f"run={tmp_path / 'run'}", f"data.cache={tmp_path}")
    line = fails(capsys, "train", "digits", "train.optimizer=sgd", *run)
    assert line == "radar: unknown optimizer 'sgd'; choose from: adamw, muon"
    small = ("tokenizer.width=8", "data.images=20", f"tokenizer.checkpoint={tmp_path / 'run' / 'last.ckpt'}")
    line = fails(capsys, "tokenizer", "shapes_fsq", "train.optimizer=muon", run[0], *small)
    assert "train.optimizer=muon is not possible: this model has no matrices" in line
    assert not (tmp_path / "run").exists()
