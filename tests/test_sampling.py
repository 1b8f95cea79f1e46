"""The sampler is the trained model, pass by pass; images do not depend on their company."""

import multiprocessing

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import chisquare

from radar.config.sampling import SampleConfig
from radar.decoding.groups import decode_permutation
from radar.errors import InputError
from radar.model.conditioning import CONDITIONING
from radar.sampling.draw import draw, filter_probabilities, image_noise
from radar.sampling.passes import plan_passes
from radar.sampling.sampler import Trace, sample_tokens
from radar.training.generator import by_rank
from tests.arms import CELLS, CLASSES, VIT, VOCABULARY, arms, layout, small_model, typical

LABELS = torch.tensor([0, 2, 1, CLASSES])


@pytest.mark.parametrize(("order", "variant"), arms())
def test_training_equals_sampling(order, variant):
    """Teacher-forced logits of the packed layout equal those of the step-by-step passes with the cache."""
    for query_layers in (0, 2) if variant == "plain" else (0,):
        for conditioning in CONDITIONING:
            check_training_equals_sampling(*layout(order, variant), query_layers, conditioning)


@pytest.mark.parametrize(("order", "variant"), typical())
@pytest.mark.parametrize("conditioning", CONDITIONING)
def test_training_equals_sampling_with_other_blocks(order, variant, conditioning):
    for query_layers in (0, 2) if variant == "plain" else (0,):
        check_training_equals_sampling(*layout(order, variant), query_layers, conditioning, **VIT)


def check_training_equals_sampling(step, slots, query_layers, conditioning="token", **options):
    model, permutation = small_model(slots, query_layers, conditioning, **options), decode_permutation(step)
    tokens = torch.randint(VOCABULARY, (4, CELLS), generator=torch.Generator().manual_seed(1))
    known = by_rank(tokens, permutation)
    with torch.inference_mode():
        content, hints = known[:, slots.rank.clamp(min=0)], model.hints_of(slots, known)
        packed = model(slots, content, LABELS, permutation, slots.mask(), hints=hints)
    target, _, _, source = slots.predictions
    keys = zip(slots.in_pass[source].tolist(), target.tolist(), slots.is_token[source].tolist(), strict=True)
    expected = dict(zip(keys, packed.unbind(1), strict=True))
    seen = []

    def forced(each, logits, current, noise):
        seen.append((each, logits.clone()))
        return known[:, each.targets], torch.ones_like(current, dtype=torch.bool)

    passes = plan_passes(slots, True, candidates=True)
    found = sample_tokens(model, passes, permutation, LABELS, SampleConfig(), range(4), rule=forced)
    assert torch.equal(found, tokens)
    checked = 0
    for number, (each, logits) in enumerate(seen):
        target, _, _, source = each.slots.predictions
        for j, (cell, slot) in enumerate(zip(target.tolist(), source.tolist(), strict=True)):
            difference = logits[:, j] - expected[number, cell, bool(each.slots.is_token[slot])]
            assert difference.abs().max() < 1e-4, (number, cell)
            checked += 1
    assert checked == len(expected), "every prediction of the packed layout is made once"


@pytest.mark.parametrize(("order", "variant"), arms())
def test_passes_and_cells(order, variant, monkeypatch):
    step, slots = layout(order, variant)
    model, run, trace = small_model(slots), [], Trace()
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda *args, **more: run.append(1) or forward(*args, **more))
    settings = SampleConfig(correction=0.5)
    sample_tokens(model, plan_passes(slots, True), decode_permutation(step), LABELS, settings, range(4), trace)
    assert len(run) == int(step.max()) + 1
    written = torch.stack(trace.written)
    assert (written.sum(0) == 1).all(), "every cell is written exactly once"
    assert torch.equal(written.int().argmax(0), step.expand(4, -1)), "in the step that the order says"
    revised = torch.stack(trace.revised)
    assert revised.any() == slots.revises.any(), "only variants that revise do"
    before = written.cumsum(0) - written.int()
    assert not (revised & (before == 0)).any(), "only known cells are revised"


def draw_images(images: list[int], batch: int, order: str = "radial", variant: str = "nested") -> torch.Tensor:
    torch.set_num_threads(1)
    step, slots = layout(order, variant)
    settings = SampleConfig(guidance=1.5, correction=0.3, seed=5)
    parts = [images[i : i + batch] for i in range(0, len(images), batch)]
    model, passes, permutation = small_model(slots), plan_passes(slots, True), decode_permutation(step)
    labels = [torch.tensor(part) % CLASSES for part in parts]
    return torch.cat(
        [sample_tokens(model, passes, permutation, y, settings, part) for part, y in zip(parts, labels, strict=True)]
    )


@pytest.mark.parametrize(("order", "variant"), [("raster", "causal"), ("radial", "plain"), ("radial", "nested")])
def test_image_does_not_depend_on_batch(order, variant):
    whole = draw_images(list(range(8)), 8, order, variant)
    assert torch.equal(whole, draw_images(list(range(8)), 1, order, variant))
    assert len({tuple(row) for row in whole.tolist()}) == 8, "and no two are the same"


def test_image_does_not_depend_on_processes():
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        halves = pool.starmap(draw_images, [(list(range(4)), 4), (list(range(4, 8)), 4)])
    assert torch.equal(torch.cat(halves), draw_images(list(range(8)), 8))


def test_noise_is_a_function_of_seed_and_image():
    noise = image_noise(3, [0, 1, 2], 50)
    assert torch.equal(noise[1:2], image_noise(3, [1], 50))
    assert not torch.equal(noise, image_noise(4, [0, 1, 2], 50))


def test_draw_follows_the_probabilities():
    p = torch.tensor([0.5, 0.0, 0.2, 0.3])
    tokens = draw(p.expand(20_000, 4), image_noise(0, [0], 20_000)[0])
    counts = torch.bincount(tokens, minlength=4)
    assert counts[1] == 0
    assert chisquare(counts[[0, 2, 3]].numpy(), [10_000, 4_000, 6_000]).pvalue > 1e-4
    assert draw(p, torch.tensor(0.0)) == 0 and draw(p, torch.tensor(1 - 1e-7)) == 3


@pytest.mark.parametrize("vocabulary", [1, 2, 17, 64, 4096])
def test_two_levels_invert_as_one_and_never_draw_a_zero(vocabulary):
    torch.manual_seed(vocabulary)
    p = torch.rand(200, vocabulary) ** 4 * (torch.rand(200, vocabulary) < 0.3)
    p[:, vocabulary // 2] += 1e-3
    noise = image_noise(0, [0], 200)[0]
    noise[0], noise[1] = 0, 1 - 2**-24
    tokens = draw(p, noise)
    assert (p.gather(1, tokens[:, None]) > 0).all()
    sums = p.double().cumsum(1)
    level = noise.double() * sums[:, -1]
    below = (sums - p.double()).gather(1, tokens[:, None])[:, 0]
    assert (below <= level + 1e-5 * sums[:, -1]).all()
    assert (sums.gather(1, tokens[:, None])[:, 0] >= level - 1e-5 * sums[:, -1]).all()


def test_filters():
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0])
    p = logits.softmax(-1)
    assert torch.allclose(filter_probabilities(logits, 1.0, 0, 1.0), p)
    assert torch.allclose(filter_probabilities(logits, 0.5, 0, 1.0), (2 * logits).softmax(-1))
    two = filter_probabilities(logits, 1.0, 2, 1.0)
    assert torch.allclose(two, torch.tensor([p[0], p[1], 0, 0]) / (p[0] + p[1]))
    assert torch.equal(filter_probabilities(logits, 1.0, 0, float(p[0]) + 1e-3) > 0, two > 0)
    assert (filter_probabilities(logits, 1.0, 0, 1e-6) > 0).tolist() == [True, False, False, False]


def logits_of_passes(settings: SampleConfig, labels: torch.Tensor) -> list[torch.Tensor]:
    step, slots = layout("radial", "plain")
    passes = []

    def rule(each, logits, current, noise):
        passes.append(logits)
        return torch.zeros_like(current), torch.ones_like(current, dtype=torch.bool)

    permutation = decode_permutation(step)
    sample_tokens(small_model(), plan_passes(slots, True), permutation, labels, settings, range(len(labels)), rule=rule)
    return passes


@pytest.mark.parametrize("schedule", ["constant", "linear"])
def test_guidance_formula(schedule):
    """u + s (c - u), at every pass."""
    labels = torch.tensor([0, 1])
    conditional = logits_of_passes(SampleConfig(), labels)
    unconditional = logits_of_passes(SampleConfig(), torch.full_like(labels, CLASSES))
    guided = logits_of_passes(SampleConfig(guidance=2.5, guidance_schedule=schedule), labels)
    for k, (g, c, u) in enumerate(zip(guided, conditional, unconditional, strict=True)):
        scale = 2.5 if schedule == "constant" else 1 + 1.5 * (k + 1) / len(guided)
        assert torch.allclose(g, u + scale * (c - u), atol=1e-4)


def test_bfloat16_is_close():
    labels = torch.tensor([0, 1])
    exact, low = (logits_of_passes(SampleConfig(precision=p), labels) for p in ("32-true", "bf16-mixed"))
    for a, b in zip(exact, low, strict=True):
        assert b.dtype == torch.float32 and not torch.equal(a, b)
        assert (a - b).std() < 0.05 * a.std()


def test_unknown_guidance_schedule():
    with pytest.raises(InputError, match="unknown guidance schedule 'cosine'; choose from: constant, linear"):
        logits_of_passes(SampleConfig(guidance_schedule="cosine"), torch.tensor([0]))


def test_correction_replaces_only_unlikely_tokens():
    step, slots = layout("radial", "nested")
    permutation, model = decode_permutation(step), small_model()

    def revised(threshold: float) -> int:
        trace, settings = Trace(), SampleConfig(correction=threshold)
        sample_tokens(model, plan_passes(slots, True), permutation, LABELS, settings, range(4), trace)
        return int(torch.stack(trace.revised).sum())

    most = 4 * int(slots.revises.sum())
    assert revised(0.0) == 0 < revised(0.1) < revised(0.99) <= most


@pytest.mark.parametrize("variant", ["plain", "nested", "full", "nested_memory"])
def test_without_correction_nothing_is_predicted_twice(variant):
    """The passes shrink to the new cells, and draw the very tokens that a threshold of zero leaves in place."""
    step, slots = layout("radial", variant)
    short, long = plan_passes(slots, False), plan_passes(slots, True)
    assert sum(len(each.targets) for each in short) == CELLS
    args = (decode_permutation(step), LABELS, SampleConfig(), range(4))
    assert torch.equal(sample_tokens(small_model(), short, *args), sample_tokens(small_model(), long, *args))


def test_uniform_model_samples_uniformly():
    model = small_model()
    torch.nn.init.zeros_(model.head.weight)
    step, slots = layout("halton in 5", "plain")
    labels = torch.zeros(1000, dtype=torch.long)
    tokens = sample_tokens(
        model, plan_passes(slots, True), decode_permutation(step), labels, SampleConfig(), range(1000)
    )
    assert chisquare(F.one_hot(tokens, VOCABULARY).sum((0, 1)).numpy()).pvalue > 1e-4
