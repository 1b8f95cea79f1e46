"""Products of training by oneDNN against those of F.linear: results, gradients, and when they are taken."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from radar.kernels import products
from radar.kernels.linear import Linear
from radar.kernels.products import trained_linear

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch without oneDNN")
LARGE = (512, 256)  # outputs, inputs


@pytest.fixture
def calls(monkeypatch):
    """Collect the shapes of products by oneDNN."""
    made, product = [], products._product
    monkeypatch.setattr(products, "_product", lambda x, w: made.append(tuple(w.shape)) or product(x, w))
    return made


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.tuples(st.integers(1, 4), st.integers(1, 40)),
    inputs=st.integers(1, 70),
    outputs=st.integers(1, 70),
    bias=st.booleans(),
)
def test_products_equal_those_of_pytorch(sizes, inputs, outputs, bias):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products, "LEAST_WEIGHTS", 1)
        patch.setattr(products, "LEAST_ROWS", 1)
        torch.manual_seed(0)
        leaves = [torch.randn(*sizes, inputs), torch.randn(outputs, inputs)] + [torch.randn(outputs)] * bias
        direction, found = torch.randn(*sizes, outputs), []
        for linear, kind in ((trained_linear, torch.float32), (F.linear, torch.float64)):
            own = [leaf.to(kind).requires_grad_() for leaf in leaves]
            out = linear(*own, *[None] * (not bias))
            found.append([out.detach(), *torch.autograd.grad(out, own, direction.to(kind))])
        for one, other in zip(*found, strict=True):
            assert float((one - other).abs().max() / other.abs().max()) < 2e-6


def test_one_product_each_way(calls):
    x = torch.randn(8, 32, LARGE[1], requires_grad=True)
    trained_linear(x, nn.Parameter(torch.randn(LARGE)), None).sum().backward()
    assert calls == [LARGE, LARGE[::-1]]
    trained_linear(x.detach(), nn.Parameter(torch.randn(LARGE)), None).sum().backward()
    assert calls == [LARGE, LARGE[::-1], LARGE], "of inputs that are not learned no gradient is made"


def test_operations_are_counted(calls):
    found = []
    for linear in (trained_linear, F.linear):
        x, weight = torch.randn(4, 32, LARGE[1], requires_grad=True), nn.Parameter(torch.randn(LARGE))
        with FlopCounterMode(display=False) as counter:
            linear(x, weight, None).add_(1).sum().backward()
        found.append(counter.get_total_flops())
    assert len(calls) == 2 and found[0] == found[1] == 3 * 2 * 128 * LARGE[0] * LARGE[1]


def test_other_products_are_left_to_pytorch(calls):
    layer, x = Linear(LARGE[1], LARGE[0]), torch.randn(8, 32, LARGE[1])
    Linear(64, 64)(torch.randn(100, 64))
    layer(x[:1])  # few rows
    layer.double()(x.double())
    layer.float()
    with torch.no_grad():
        layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        layer(x)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        layer(mode.from_tensor(x))
    torch.compile(layer, backend="eager")(x)
    assert not calls
    layer(x)
    assert calls == [LARGE]
