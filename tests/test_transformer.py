"""Shapes, positions, cost-saving paths that must not change the result."""

import math
import shutil
from functools import partial

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from radar.attention.bands import cut
from radar.config.options import ModelConfig
from radar.config.sampling import SampleConfig
from radar.decoding.groups import decode_permutation
from radar.diffusion.denoiser import Denoiser
from radar.diffusion.spaces import Vectors
from radar.errors import InputError
from radar.model import transformer
from radar.model.blocks import PRESETS, compile_once, rotary_table
from radar.model.conditioning import CONDITIONING, AdaLN
from radar.model.transformer import Transformer, parameter_count
from radar.sampling.passes import plan_passes
from radar.sampling.sampler import sample_tokens
from tests.arms import CELLS, CLASSES, GRID, VIT, VOCABULARY, layout, small_model, typical


@pytest.mark.parametrize(("preset", "millions"), [("B", 111), ("L", 343), ("XL", 775), ("XXL", 1411), ("3B", 3097)])
def test_presets_have_the_published_sizes(preset, millions):
    with torch.device("meta"):
        model = Transformer(ModelConfig(preset=preset), 16384, 1000, (16, 16))
    assert parameter_count(model) / 1e6 == pytest.approx(millions, abs=0.6)


@pytest.mark.parametrize(("order", "variant"), typical())
@pytest.mark.parametrize("conditioning", CONDITIONING)
@pytest.mark.parametrize("options", [{}, VIT])
def test_a_new_model_is_uniform(order, variant, conditioning, options):
    step, slots = layout(order, variant)
    config = ModelConfig(dim=16, layers=1, heads=1, conditioning=conditioning, **options)
    model = Transformer(config, VOCABULARY, CLASSES, GRID, slots.mixes)
    content = torch.zeros(2, len(slots), dtype=torch.long)
    logits = model(slots, content, torch.tensor([0, CLASSES]), decode_permutation(step), slots.mask())
    nll = -logits.log_softmax(-1)[:, slots.predicts_new[slots.predictions.source], 0].double().sum(1)
    assert nll.tolist() == pytest.approx([CELLS * math.log(VOCABULARY)] * 2, rel=1e-6)


def test_closed_gates_let_features_through():
    """A new block with adaLN changes nothing; once its gates are open, the label reaches slots that see no other."""
    config = ModelConfig(dim=16, layers=2, heads=1, conditioning="adaln")
    models = (
        Transformer(config, VOCABULARY, CLASSES, GRID),
        Denoiser(config, Vectors(3), CLASSES, GRID, 2),
    )
    gates = [part.linear for model in models for part in model.modules() if isinstance(part, AdaLN)]
    assert len(gates) == 6 and not any(weight.any() for part in gates for weight in part.parameters())
    block = models[0].blocks[0]
    x, condition, angles = torch.randn(2, 5, 16), torch.randn(2, 16), rotary_table(2, 2, 16)[None, None]
    assert torch.equal(block(False, x, condition, angles, None), x)
    torch.nn.init.normal_(block.conditioning.linear.weight)
    first, second = block(False, x[:1].expand(2, -1, -1), condition, angles, torch.eye(5, dtype=torch.bool))
    assert ((first - second).abs().amax(-1) > 0).all()


def test_activation_checkpointing_changes_nothing():
    step, slots = layout("radial", "nested")
    gradients = []
    for recompute in (False, True):
        model = small_model().train()
        model.recompute = recompute
        content = torch.ones(2, len(slots), dtype=torch.long)
        model(slots, content, torch.tensor([0, 1]), decode_permutation(step), slots.mask()).square().sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert all(torch.allclose(a, b) for a, b in zip(*gradients, strict=True))


class Largest(TorchDispatchMode):
    """Remembers the most numbers that any operation has made at once."""

    def __init__(self) -> None:
        super().__init__()
        self.most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **kwargs or {})
        self.most = max([self.most, *(x.numel() for x in tree_leaves(made) if isinstance(x, torch.Tensor))])
        return made


@pytest.mark.parametrize(("order", "variant"), [("radial", "nested"), ("diagonal", "neighbours")])
def test_a_loss_in_parts_is_the_same_and_holds_fewer_logits(order, variant, monkeypatch):
    step, slots = layout(order, variant)
    torch.manual_seed(0)
    model, images = Transformer(ModelConfig(dim=16, layers=1, heads=1), 999, CLASSES, GRID, slots.mixes).train(), 6
    content = torch.randint(999, (images, len(slots)))
    truth = torch.randint(999, (images, len(slots.predictions.target)))
    torch.nn.init.normal_(model.head.weight)
    given = (slots, content, torch.zeros(images, dtype=torch.long), decode_permutation(step), slots.mask())
    found, all_logits = [], truth.numel() * 999
    for most in (all_logits, 2 * all_logits // images, 1):
        monkeypatch.setattr(transformer, "MOST_LOGITS", most)
        model.zero_grad()
        with Largest() as largest:
            losses = model(*given, truth=truth)
            (losses * torch.arange(1.0, images + 1)[:, None]).sum().backward()
        found.append([losses.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)])
        assert largest.most == max(all_logits // images, min(most, all_logits))
    logits = model(*given).detach()
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), truth.flatten(), reduction="none")
    assert torch.allclose(found[0][0], expected.view(truth.shape))
    for parts in found[1:]:
        assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-4) for a, b in zip(found[0], parts, strict=True))


NEEDS_COMPILER = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")


@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=[pytest.mark.slow, NEEDS_COMPILER])])
@pytest.mark.parametrize(("recompute", "in_bands"), [(False, False), (True, False), (False, True)])
def test_compiling_changes_nothing(recompute, in_bands, backend, monkeypatch):
    """Traced in all three; made into C++ too where a test may take a minute."""
    monkeypatch.setattr("torch.compile", partial(torch.compile, backend=backend))
    compile_once.cache_clear()
    step, slots = layout("radial", "plain")
    mask = cut(slots.mask(), 8) if in_bands else slots.mask()
    content, labels = torch.ones(2, len(slots), dtype=torch.long), torch.tensor([0, 1])
    results = []
    for compiled in (False, True):
        model = small_model()
        model.compiled, model.recompute = compiled, recompute
        model.train()
        logits = model(slots, content, labels, decode_permutation(step), mask)
        logits.square().mean().backward()
        tokens = sample_tokens(
            model.eval(), plan_passes(slots, False), decode_permutation(step), labels, SampleConfig(), range(2)
        )
        results.append([logits.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None), tokens])
    assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-4) for a, b in zip(*results, strict=True))
    assert compile_once.cache_info().currsize, "it was compiled"
    compile_once.cache_clear()


def test_one_order_per_image_equals_each_alone():
    _, slots = layout("random in 5", "plain")
    model = small_model()
    permutations = torch.stack([torch.randperm(CELLS) for _ in range(3)])
    content, labels = torch.randint(VOCABULARY, (3, len(slots))), torch.tensor([0, 1, 2])
    with torch.inference_mode():
        together = model(slots, content, labels, permutations, slots.mask())
        for i in range(3):
            alone = model(slots, content[i : i + 1], labels[i : i + 1], permutations[i], slots.mask())
            assert torch.allclose(together[i], alone[0], atol=1e-5)


def test_attention_depends_on_the_distance_of_cells():
    """Rotary positions: q.k of two cells is unchanged when both move by the same rows and columns."""
    model = small_model()
    angles = torch.view_as_complex(model.angles)
    q, k = torch.randn(2, angles.shape[1], dtype=torch.complex64)

    def product(a: int, b: int) -> float:
        return float(((q * angles[a + 1]) * (k * angles[b + 1]).conj()).sum().real)

    w = GRID[1]
    assert product(0, w + 1) == pytest.approx(product(w, 2 * w + 1), abs=1e-4)
    assert product(0, w + 1) == pytest.approx(product(1, w + 2), abs=1e-4)
    assert product(0, w + 1) != pytest.approx(product(0, 2), abs=1e-3)


def test_unfit_width():
    with pytest.raises(InputError, match=r"model.dim=30 with model.heads=2 is not possible"):
        Transformer(ModelConfig(dim=30), VOCABULARY, CLASSES, GRID)
    with pytest.raises(InputError, match="unknown model preset 'XXXL'"):
        Transformer(ModelConfig(preset="XXXL"), VOCABULARY, CLASSES, GRID)
    assert all(shape.dim % (4 * shape.heads) == 0 for shape in PRESETS.values())
