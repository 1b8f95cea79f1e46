"""The kernels in C++ compute what PyTorch computes, on as many threads, and can be done without."""

import ctypes
import shutil
import warnings

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import radar.kernels.build
import radar.kernels.linear
import radar.model.kv_cache
from radar.config.sampling import SampleConfig
from radar.decoding.groups import decode_permutation
from radar.kernels.build import FLAGS, Kernels, kernels
from radar.kernels.linear import Linear, fast_products
from radar.sampling.passes import plan_passes
from radar.sampling.sampler import sample_tokens
from tests.arms import CLASSES, layout, small_model

EXACT = SampleConfig()
LABELS = torch.tensor([0, 2, 1, CLASSES])
able = pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() not in FLAGS or shutil.which("c++") is None,
    reason="no C++ compiler, or a processor without AVX2",
)


@pytest.fixture(scope="module", params=FLAGS)
def built(request, tmp_path_factory) -> Kernels:
    """Tiles of either kind, in instructions that this processor has."""
    sizes = [flag for flag in FLAGS[request.param] if flag.startswith("-D")]
    own = [flag for flag in FLAGS[torch.backends.cpu.get_cpu_capability()] if flag.startswith("-m")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        return Kernels(ctypes.CDLL(str(radar.kernels.build._build([*own, *sizes]))))


@pytest.fixture(params=[1, 2])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def cold(monkeypatch, tmp_path):
    """Kernels that this machine has not compiled yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kernels.cache_clear()
    yield tmp_path / "radar-ablations"
    kernels.cache_clear()


def sampled(config=EXACT, compiled=False):
    step, slots = layout("raster", "causal")
    model, passes = small_model(slots), plan_passes(slots, True)
    model.compiled = compiled
    with fast_products(model, torch.float32):
        return sample_tokens(model, passes, decode_permutation(step), LABELS, config, range(4))


@pytest.fixture
def calls(monkeypatch) -> list[str]:
    """Names of the kernels, as they are called."""
    made = []

    def counted(name, method):
        return lambda *args, **options: made.append(name) or method(*args, **options)

    for name in ("product", "attention"):
        monkeypatch.setattr(Kernels, name, counted(name, getattr(Kernels, name)))
    return made


@able
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_product(built, data):
    """Also of sizes that fill no panel and no tile, and of rows that are not contiguous."""
    leading = data.draw(st.lists(st.integers(0, 30), min_size=1, max_size=2))
    inputs, outputs = data.draw(st.integers(1, 70)), data.draw(st.integers(1, 70))
    random = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    weight = torch.randn(outputs, inputs, generator=random)
    x = torch.randn(inputs, *leading, generator=random).movedim(0, -1)
    found = built.product(x, built.panels(weight), outputs)
    assert found.shape == (*leading, outputs)
    assert torch.allclose(found.double(), x.double() @ weight.double().T, rtol=1e-5, atol=1e-5)


@able
def test_a_row_does_not_depend_on_the_others(built):
    """To the last bit, so that an image does not depend on its batch; also over several blocks of rows."""
    x, weight = torch.randn(1000, 99), torch.randn(50, 99)
    panels = built.panels(weight)
    together = built.product(x, panels, 50)
    assert torch.allclose(together, F.linear(x, weight), rtol=1e-5, atol=1e-4)
    for rows in (*range(1, 40), 400, 999):
        assert torch.equal(built.product(x[:rows], panels, 50), together[:rows])


@able
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_attention(built, data):
    """Over the used part of a cache, also with scores whose exponential is no float32."""
    batch, heads, width = (data.draw(st.integers(1, most)) for most in (4, 3, 70))
    slots = data.draw(st.integers(1, 40))
    size = data.draw(st.sampled_from([1.0, 30.0]))
    random = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    buffer = torch.randn(2, batch, heads, 40, width, generator=random)
    q = size * torch.randn(batch, 2, heads, width, generator=random)[:, :1].transpose(1, 2)
    k, v = buffer[:, :, :, :slots]
    exact = F.scaled_dot_product_attention(q.double(), k.double(), v.double()).transpose(1, 2).flatten(2)
    assert torch.allclose(built.attention(q, k, v).double(), exact, rtol=1e-4, atol=1e-4)


class Recorded:
    """A library that notes the last argument of its calls: the threads."""

    def __init__(self, library):
        self.library, self.threads, self.panel = library, [], library.panel

    def __getattr__(self, name):
        function = getattr(self.library, name)
        return lambda *args: self.threads.append(args[-1]) or function(*args)


@able
def test_threads(built, threads):
    """As many as PyTorch uses, with the same results."""
    own = Kernels(Recorded(built.library))
    x, weight = torch.randn(40, 33), torch.randn(50, 33)
    assert torch.allclose(own.product(x, own.panels(weight), 50), F.linear(x, weight), atol=1e-4)
    q, k, v = torch.randn(4, 2, 1, 8), torch.randn(4, 2, 9, 8), torch.randn(4, 2, 9, 8)
    exact = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    assert torch.allclose(own.attention(q, k, v), exact, atol=1e-5)
    assert own.library.threads == [torch.get_num_threads()] * 2


@able
@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["eager", "compiled"])
def test_sampling_uses_them(compiled, calls, monkeypatch):
    """In every product and, where one slot runs per pass, every attention; no token changes."""
    monkeypatch.setattr(radar.kernels.linear, "LEAST_WEIGHTS", 1)
    found = sampled(compiled=compiled)
    model, passes = small_model(), len(decode_permutation(layout("raster", "causal")[0]))
    layers = sum(isinstance(part, Linear) for part in model.modules())
    assert calls.count("product") == layers * passes
    assert calls.count("attention") == len(model.blocks) * passes
    for module in (radar.model.kv_cache, radar.kernels.linear):
        monkeypatch.setattr(module, "kernels", lambda: None)
    assert torch.equal(sampled(), found)
    assert len(calls) == (layers + len(model.blocks)) * passes


@able
def test_what_is_left_to_pytorch(calls, monkeypatch):
    """Attention of several queries, under a mask, in bfloat16, with gradients; products in bfloat16."""
    monkeypatch.setattr(radar.kernels.linear, "LEAST_WEIGHTS", 1)
    sampled(SampleConfig(precision="bf16-mixed"))
    one, two, start = torch.randn(1, 2, 1, 4), torch.randn(1, 2, 2, 4), torch.tensor(0)
    seen = torch.ones(1, 1, dtype=torch.bool)
    for x, mask, grad in ((two, None, False), (one, seen, False), (one, None, True), (one, None, False)):
        assert not calls
        with torch.set_grad_enabled(grad):
            radar.model.kv_cache._attend(x, x, x, mask, torch.empty(1, 2, 1, 2, 2, 4), start, 0)
    assert calls == ["attention"]


@able
def test_compiled_once(cold):
    assert kernels() is not None
    (library,) = cold.iterdir()
    assert torch.tensor(1e-40) * 1 > 0, "denormals are flushed to zero"
    changed = library.stat().st_mtime_ns
    kernels.cache_clear()
    assert kernels() is not None
    assert library.stat().st_mtime_ns == changed


@pytest.mark.parametrize("compiler", ["no-such-compiler", "false"])
def test_without_a_compiler(compiler, cold, monkeypatch):
    """One warning, nothing half-written, the same tokens."""
    monkeypatch.setattr(radar.kernels.linear, "LEAST_WEIGHTS", 1)
    with monkeypatch.context() as patch:
        patch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
        patch.setenv("CXX", compiler)
        with pytest.warns(UserWarning, match="this will be slower: kernels.cpp could not be compiled"):
            found = sampled()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert torch.equal(sampled(), found)
    assert not (cold.exists() and list(cold.iterdir()))
    kernels.cache_clear()
    assert torch.equal(sampled(), found)


def test_without_a_home(cold, monkeypatch):
    def nowhere():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(radar.kernels.build.Path, "home", nowhere)
    with pytest.warns(UserWarning, match="could not be compiled or loaded .*home"):
        assert kernels() is None


@able
def test_a_compiler_with_options(cold, monkeypatch):
    monkeypatch.setenv("CXX", "c++ -g0")
    assert kernels() is not None


def test_other_processors(cold, monkeypatch):
    """They are not tried, and nobody is warned."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert kernels() is None
    assert not cold.exists()
