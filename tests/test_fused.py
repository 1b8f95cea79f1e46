"""Our kernels of training against PyTorch's operations: results and gradients."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from radar.config.options import ModelConfig
from radar.kernels import fused
from radar.kernels.build import kernels
from radar.kernels.fused import RMSNorm, cross_entropy, swiglu
from radar.model.blocks import Block, Shape, rotary_table

pytestmark = pytest.mark.skipif(kernels() is None, reason="no kernels for this processor")


def both(function, inputs, monkeypatch):
    """What a function gives, and the gradients of its inputs: by our kernels, and by PyTorch in float64."""
    found = []
    for least in (0, 2**60):
        monkeypatch.setattr(fused, "LEAST", least)
        kind = torch.float32 if not least else torch.float64
        leaves = [value.detach().to(kind).requires_grad_() for value in inputs]
        out = function(*leaves)
        direction = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(kind)
        found.append([out.detach(), *torch.autograd.grad(out, leaves, direction)])
    return zip(*found, strict=True)


def close(pairs):
    for one, other in pairs:
        assert float((one - other).abs().max() / other.abs().max()) < 2e-6


@pytest.mark.parametrize("shape", [(3, 5), (700, 64), (2, 3, 250, 33)])
def test_norm(shape, monkeypatch):
    x, weight = torch.randn(shape), torch.rand(shape[-1]) + 0.5
    norm = RMSNorm(shape[-1], 1e-5)
    close(both(lambda x, w: torch.func.functional_call(norm, {"weight": w}, (x,)), [x, weight], monkeypatch))
    transposed = [x.transpose(0, -2).contiguous(), weight]
    close(
        both(
            lambda x, w: torch.func.functional_call(norm, {"weight": w}, (x.transpose(0, -2),)), transposed, monkeypatch
        )
    )


THREADS = """
import torch
from torch import nn
from radar.kernels.fused import RMSNorm
x, (own, other) = torch.randn(3000, 64), (kind(64, 1e-5) for kind in (RMSNorm, nn.RMSNorm))
found = []
for threads in (1, 2, 2):
    torch.set_num_threads(threads)
    found.append(torch.autograd.grad(own(x.requires_grad_()).square().sum(), [x, own.weight]))
expected = torch.autograd.grad(other(x).square().sum(), [x, other.weight])
assert all(torch.equal(a, b) for a, b in zip(found[1], found[2])), "the same bits every time"
assert all(torch.allclose(a, b, 1e-4, 1e-5) for got in found for a, b in zip(got, expected))
"""


def test_two_threads():
    """In a process of its own: threads of OpenMP do not survive a fork, which other tests make."""
    subprocess.run([sys.executable, "-c", THREADS], check=True)


@pytest.mark.parametrize("shape", [(3, 10), (500, 2 * 96), (4, 11, 2 * 33)])
def test_gate(shape, monkeypatch):
    close(both(swiglu, [3 * torch.randn(shape)], monkeypatch))


@pytest.mark.parametrize("rows, vocabulary", [(50, 2), (7, 333), (300, 1000)])
def test_loss(rows, vocabulary, monkeypatch):
    truth = torch.randint(vocabulary, (rows,))
    logits = 3 * torch.randn(rows, vocabulary)
    close(both(lambda x: cross_entropy(1.0 * x, truth), [logits], monkeypatch))


def test_logits_that_others_need_are_missed(monkeypatch):
    monkeypatch.setattr(fused, "LEAST", 0)
    x, truth = torch.randn(4, 5, requires_grad=True), torch.arange(4)
    loss = cross_entropy(1.0 * x, truth).sum()
    loss.backward(retain_graph=True)
    for other in (loss, cross_entropy(torch.tanh(x), truth).sum()):
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            other.backward()
    before = x.detach().clone()
    cross_entropy(x, truth).sum().backward()
    assert torch.equal(x, before), "a leaf is nobody's to overwrite"


def test_codes_that_are_not_there_are_refused_as_by_pytorch(monkeypatch):
    monkeypatch.setattr(fused, "LEAST", 0)
    x = torch.randn(3, 5, requires_grad=True)
    for truth in ([0, 5, 1], [0, -1, 1]):
        with pytest.raises(IndexError, match="out of bounds"):
            cross_entropy(1.0 * x, torch.tensor(truth))
    with pytest.raises(RuntimeError, match="Long"):
        cross_entropy(1.0 * x, torch.tensor([0, 1, 2], dtype=torch.int32))


@pytest.mark.parametrize("options", [{"qk_norm": True}, {"qk_norm": False}, {"cosine_attention": True}])
@pytest.mark.parametrize("own_angles", [True, False])
def test_block(options, own_angles, monkeypatch):
    """Heads that are normalised, turned and laid out at once, and all the rest."""
    block = Block(Shape(48, 1, 3), ModelConfig(**options))
    angles = rotary_table(5, 4, 16)[None, None]
    if own_angles:
        angles = torch.cat([angles, angles.flip(2), angles.roll(1, 2)])
    names, weights = zip(*block.named_parameters(), strict=True)
    mask = torch.ones(21, 21, dtype=torch.bool).tril()

    def run(x, *weights):
        turn = angles.to(x.dtype)
        monkeypatch.setattr("radar.model.blocks.rotate", lambda x, angles: turned(x, angles))
        return torch.func.functional_call(
            block, dict(zip(names, weights, strict=True)), (False, x, x[:, 0], turn, mask)
        )

    close(both(run, [torch.randn(3, 21, 48), *(w + 0.1 * torch.randn(w.shape) for w in weights)], monkeypatch))


def turned(x, angles):
    """Pairs of features turned, in the type that they have."""
    (a, b), (cos, sin) = x.unflatten(-1, (-1, 2)).unbind(-1), angles.unbind(-1)
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)


def test_others_are_left_to_pytorch(monkeypatch):
    """Types that the kernels do not know, and what needs no gradient: sampling stays as it was."""
    monkeypatch.setattr(fused, "_RMSNorm", None)
    norm = RMSNorm(64, 1e-5)
    with torch.no_grad():
        assert torch.equal(norm(x := torch.randn(999, 64)), nn.RMSNorm(64, 1e-5)(x))
    assert norm(torch.randn(999, 64, dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert norm.to("meta")(torch.randn(999, 64, device="meta")).is_meta
