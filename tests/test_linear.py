"""Blocked weights change the speed of a product, and nothing else."""

import shutil

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import radar.linear
from radar.linear import Linear, blocked_weights
from radar.options import SampleConfig
from radar.orders import decode_sequence
from radar.sampling import plan_turns, product_dtype, sample_tokens
from tests.arms import CLASSES, layout, small_model

blocked = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch without oneDNN")
compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
LABELS = torch.tensor([0, 2, 1, CLASSES])
PRECISE = SampleConfig()
LOW = SampleConfig(precision="bf16-mixed")


@pytest.fixture
def products(monkeypatch):
    """Count the products that read blocked weights."""
    made, product = [], radar.linear._product
    monkeypatch.setattr(radar.linear, "_product", lambda x, weight: made.append(x.dtype) or product(x, weight))
    return made


def sampled(model, config, variant="plain"):
    step, slots = layout("radial", variant)
    return sample_tokens(model, plan_turns(slots, True), decode_sequence(step), LABELS, config, range(4))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=3), st.integers(1, 70), st.integers(1, 70), st.booleans())
def test_product(rows, inputs, outputs, low):
    dtype = torch.bfloat16 if low else torch.float32
    layer = Linear(inputs, outputs)
    x = torch.randn(*rows, inputs, generator=torch.Generator().manual_seed(1)).to(dtype)
    with torch.no_grad(), blocked_weights(layer, dtype), torch.autocast("cpu", torch.bfloat16, low):
        found = layer(x)
        exact = x.double() @ layer.weight.to(dtype).double().T
    assert found.dtype == dtype
    assert torch.allclose(found.double(), exact, rtol=2e-2 if low else 1e-5, atol=2e-2 if low else 1e-5)


@blocked
@pytest.mark.parametrize("config", [PRECISE, LOW], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("variant", ["plain", "nested"])
def test_samples_are_the_same(config, variant, products):
    """Every product of a pass reads blocked weights, and no token changes (within rounding, in bfloat16)."""
    model = small_model(layout("radial", variant)[1])
    plain = sampled(model, config, variant)
    assert not products
    with blocked_weights(model, product_dtype(config)):
        found = sampled(model, config, variant)
    layers = sum(isinstance(module, Linear) for module in model.modules())
    passes = int(layout("radial", variant)[1].turn.max()) + 1
    assert products == [product_dtype(config)] * layers * passes
    agree = (plain == found).float().mean()
    assert agree == 1 if config is PRECISE else agree > 0.9


@blocked
@compiler
def test_compiled(products):
    model = small_model(layout("radial", "plain")[1])
    plain = sampled(model, PRECISE)
    model.compiled = True
    assert torch.equal(sampled(model, PRECISE), plain)
    assert not products
    with blocked_weights(model, torch.float32):
        assert torch.equal(sampled(model, PRECISE), plain)
    assert products


def test_weights_that_change_are_seen_afterwards():
    layer, x = Linear(8, 8), torch.randn(3, 8)
    with blocked_weights(layer, torch.float32):
        assert layer(x).requires_grad, "training goes on as ever"
    with torch.no_grad():
        layer.weight.data.mul_(2)  # as a weight average is put in place, without a trace in its version
        for _ in range(2):
            assert torch.allclose(layer(x), F.linear(x, layer.weight), atol=1e-6)
            with blocked_weights(layer, torch.float32):
                assert torch.allclose(layer(x), F.linear(x, layer.weight), atol=1e-6)


@blocked
def test_nothing_is_left_behind():
    one, two = Linear(4, 4), Linear(4, 4)
    with blocked_weights(one, torch.float32):
        with pytest.raises(KeyError), blocked_weights(two, torch.float32):
            assert len(radar.linear._blocked) == 2
            raise KeyError
        assert len(radar.linear._blocked) == 1
    assert not radar.linear._blocked


def test_without_onednn(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    model = small_model(layout("radial", "plain")[1])
    plain = sampled(model, PRECISE)
    with blocked_weights(model, torch.float32):
        assert not radar.linear._blocked
        assert torch.equal(sampled(model, PRECISE), plain)
