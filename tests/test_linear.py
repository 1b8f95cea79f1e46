"""How weights are laid out changes the speed of a product, and nothing else."""

import shutil
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import radar.kernels.linear
from experiments.configs import find_config
from radar.config.load import load_config
from radar.config.sampling import SampleConfig
from radar.decoding.groups import decode_permutation
from radar.kernels.linear import Linear, fast_products, has_fast_products
from radar.sampling.passes import plan_passes
from radar.sampling.sampler import product_dtype, sample_tokens
from radar.scoring.sample_pictures import draw_film
from radar.scoring.samples import draw_samples
from radar.timing.rounds import measure_rounds
from radar.training.checkpoints import Generator, build_generator
from tests.arms import CLASSES, layout, small_model

able = pytest.mark.skipif(not has_fast_products(torch.float32), reason="neither oneDNN nor our kernels")
low = pytest.mark.skipif(not has_fast_products(torch.bfloat16), reason="no oneDNN, or a processor without bfloat16")
compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
LABELS = torch.tensor([0, 2, 1, CLASSES])
PRECISE = SampleConfig()
LOW = SampleConfig(precision="bf16-mixed")


@pytest.fixture(autouse=True, scope="module")
def small_layers_too():
    """Lay out every layer, whatever its size."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(radar.kernels.linear, "LEAST_WEIGHTS", 1)
        yield


@pytest.fixture
def products(monkeypatch):
    """Count the products that read weights that were laid out."""
    made, lay_out = [], radar.kernels.linear._product

    def counted(weight):
        product = lay_out(weight)
        return lambda x: made.append(x.dtype) or product(x)

    monkeypatch.setattr(radar.kernels.linear, "_product", counted)
    return made


def sampled(model, config, variant="plain"):
    step, slots = layout("radial", variant)
    return sample_tokens(model, plan_passes(slots, True), decode_permutation(step), LABELS, config, range(4))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=3), st.integers(1, 70), st.integers(1, 70), st.booleans())
def test_product(rows, inputs, outputs, low):
    dtype = torch.bfloat16 if low else torch.float32
    torch.manual_seed(0)
    layer = Linear(inputs, outputs)
    x = torch.randn(*rows, inputs, generator=torch.Generator().manual_seed(1)).to(dtype)
    with torch.no_grad(), fast_products(layer, dtype), torch.autocast("cpu", torch.bfloat16, low):
        assert bool(radar.kernels.linear._products) == has_fast_products(dtype)
        found = layer(x)
        exact = x.double() @ layer.weight.to(dtype).double().T
    assert found.dtype == dtype
    assert torch.allclose(found.double(), exact, rtol=2e-2 if low else 1e-5, atol=2e-2 if low else 1e-5)


@able
@pytest.mark.parametrize("config", [PRECISE, pytest.param(LOW, marks=low)], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("variant", ["plain", "nested"])
def test_samples_are_the_same(config, variant, products):
    """Every product of a pass reads weights that were laid out, and no token changes (within rounding, in bfloat16)."""
    model = small_model(layout("radial", variant)[1])
    plain = sampled(model, config, variant)
    assert not products
    with fast_products(model, product_dtype(config)):
        found = sampled(model, config, variant)
    layers = sum(isinstance(module, Linear) for module in model.modules())
    passes = int(layout("radial", variant)[1].in_pass.max()) + 1
    assert products == [product_dtype(config)] * layers * passes
    agree = (plain == found).float().mean()
    assert agree == 1 if config is PRECISE else agree > 0.9


@able
@pytest.mark.slow
@compiler
def test_compiled(products):
    model = small_model(layout("radial", "plain")[1])
    plain = sampled(model, PRECISE)
    model.compiled = True
    assert torch.equal(sampled(model, PRECISE), plain)
    assert not products
    with fast_products(model, torch.float32):
        assert torch.equal(sampled(model, PRECISE), plain)
    assert products


def test_weights_that_change_are_seen_afterwards():
    layer, x = Linear(8, 8), torch.randn(3, 8)
    with fast_products(layer, torch.float32):
        assert layer(x).requires_grad, "training goes on as ever"
    with torch.no_grad():
        layer.weight.data.mul_(2)  # as a weight average is put in place, without a trace in its version
        for _ in range(2):
            assert torch.allclose(layer(x), F.linear(x, layer.weight), atol=1e-6)
            with fast_products(layer, torch.float32):
                assert torch.allclose(layer(x), F.linear(x, layer.weight), atol=1e-6)


@able
def test_nothing_is_left_behind():
    one, two = Linear(4, 4), Linear(4, 4)
    contexts = [fast_products(layer, torch.float32) for layer in (one, two, one)]
    for count, context in zip((1, 2, 2), contexts, strict=True):
        context.__enter__()
        assert len(radar.kernels.linear._products) == count
    with pytest.raises(KeyError), fast_products(Linear(3, 3), torch.float32):
        raise KeyError
    for count, context in zip((1, 0, 0), contexts, strict=True):  # in whatever sequence they end
        context.__exit__(None, None, None)
        assert len(radar.kernels.linear._products) == count


def test_small_layers_stay_as_they_are(monkeypatch):
    monkeypatch.setattr(radar.kernels.linear, "LEAST_WEIGHTS", 17)
    with fast_products(Linear(4, 4), torch.float32):
        assert not radar.kernels.linear._products


def test_layers_that_share_memory():
    base, part = Linear(8, 8), Linear(8, 4)
    part.weight.data = base.weight.data[:4]
    with torch.no_grad(), fast_products(base, torch.float32):
        x = torch.randn(3, 8)
        assert torch.allclose(part(x), base(x)[:, :4], atol=1e-6)


def test_doubles_under_autocast():
    layer = Linear(4, 4).double()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), fast_products(layer, torch.float32):
        assert layer(torch.ones(2, 4, dtype=torch.float64)).dtype == torch.float64


def test_with_nothing_else(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    monkeypatch.setattr(radar.kernels.linear, "kernels", lambda: None)
    assert not has_fast_products(torch.float32)
    model = small_model(layout("radial", "plain")[1])
    plain = sampled(model, PRECISE)
    with fast_products(model, torch.float32):
        assert not radar.kernels.linear._products
        assert torch.equal(sampled(model, PRECISE), plain)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_who_samples_uses_them(precision, products):
    """Samples, films and timings; and images do not depend on the batch."""
    config = load_config(
        find_config("digits"), ["model.dim=16", "model.heads=1", "model.layers=1", f"sample.precision={precision}"]
    )
    module, data, tokenizer = build_generator(config)
    torch.nn.init.normal_(module.model.head.weight)
    generator = Generator(config, module.eval(), data, tokenizer, "none", 0.0)
    layers = sum(isinstance(part, Linear) for part in module.modules())
    each = layers * module.steps * has_fast_products(product_dtype(config.sample))
    few = replace(config.sample, images=6)
    tokens = draw_samples(generator, few).tokens
    assert len(products) == each
    assert torch.equal(draw_samples(generator, replace(few, batch_size=4)).tokens, tokens)
    assert len(products) == 3 * each
    draw_film(generator, few, torch.tensor([0, 1]))
    assert len(products) == 4 * each
    measure_rounds([generator, generator])
    assert len(products) == (4 + 2 * (config.evaluate.timing_repeats + 1)) * each
