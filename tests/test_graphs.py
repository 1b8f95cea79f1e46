"""Recording a batch of sampling changes its speed and nothing else; on a GPU everything is what it is on a CPU."""

from dataclasses import replace

import pytest
import torch

from ablations.cli import main
from radar.attention import VARIANTS
from radar.config.options import ModelConfig
from radar.config.sampling import SampleConfig
from radar.decoding.groups import decode_permutation
from radar.kernels import cuda_graphs
from radar.kernels.cuda_graphs import recorded, replay, unrecorded
from radar.model.blocks import Block, Shape
from radar.sampling import sampler
from radar.sampling.passes import plan_passes
from radar.sampling.sampler import Trace, ready_to_sample, sample_tokens
from tests.arms import CLASSES, VOCABULARY, arms, layout, small_model, typical
from tests.test_editing import restricted

LABELS = torch.tensor([0, 2, 1, CLASSES])
PLAIN = SampleConfig(correction=0.3)
SETTINGS = {
    "float32": PLAIN,
    "guided": SampleConfig(guidance=2.0, guidance_schedule="linear", top_k=5, top_p=0.9, temperature=0.8),
    "bfloat16": SampleConfig(precision="bf16-mixed"),
}


@pytest.fixture
def recordings(monkeypatch):
    """Records without a GPU: the works that were recorded."""
    made = []

    class Fake(cuda_graphs.Recording):
        def __init__(self, work, inputs):
            self.work = work
            made.append(work)

        def __call__(self, *inputs):
            return self.work(*inputs)

    monkeypatch.setattr(cuda_graphs, "Recording", Fake)
    monkeypatch.setattr(cuda_graphs, "_on_gpu", lambda model: True)
    return made


def drawer(order, variant, config, device="cpu", model=None):
    """Return the model, and a function that draws with a seed and labels."""
    step, slots = layout(order, variant)
    model = (model or small_model(slots)).to(device)
    passes = plan_passes(slots, config.correction > 0, device, config.choice_temperature is not None)
    permutation = decode_permutation(step).to(device)

    def draw(seed=0, labels=LABELS, first=0, config=config, **more):
        images = range(first, first + len(labels))
        return sample_tokens(
            model, passes, permutation, labels.to(device), replace(config, seed=seed), images, **more
        ).cpu()

    return model, draw


def test_what_is_recorded(recordings):
    model, draw = drawer("radial", "nested", PLAIN)
    plain = draw()
    with recorded(model):
        for count in (0, 1, 1, 1):  # the first as it is, the second recorded
            assert torch.equal(draw(), plain) and len(recordings) == count
        for seed, first in ((1, 0), (0, 4), (1, 4)):
            draw(seed, first=first)
        assert len(recordings) == 1, "seeds and images are inputs"
        draw(labels=LABELS[:2])
        assert len(recordings) == 1, "another size is another work"
        draw(labels=LABELS[:2])
        assert len(recordings) == 2
        with unrecorded():
            draw(), draw(2), draw(2)
        assert len(recordings) == 2
        with recorded(model):
            draw()
        assert len(recordings) == 2, "other copies of the weights may be in use"
        draw()
        assert len(recordings) == 2, "what was recorded before is still there"
    draw(), draw()
    assert len(recordings) == 2 and not cuda_graphs._works


def test_what_a_recording_is_for(recordings):
    """One order, one set of options; and never where each pass is watched, or another rule writes."""
    guided, step = SETTINGS["guided"], layout("radial", "plain")[0]
    model, radial = drawer("radial", "plain", PLAIN)
    _, halton = drawer("halton in 5", "plain", PLAIN, model=model)
    works = [radial, halton, lambda: radial(config=guided)]
    plain = [work() for work in works]
    assert not any(torch.equal(a, b) for a, b in zip(plain, [*plain[1:], plain[0]], strict=True))
    with recorded(model):
        for _ in range(3):
            assert all(torch.equal(work(), tokens) for work, tokens in zip(works, plain, strict=True))
        assert len(recordings) == 3
        trace = Trace()
        radial(trace=trace)
        assert len(trace.tokens) == int(step.max()) + 1
        zero = radial(rule=lambda each, logits, current, noise: (0 * current, current == current))
        assert not zero.any()


def test_options_that_change_later(recordings):
    """A recording is of the options that it is for, whatever the first batch's became in the meantime."""
    step, slots = layout("radial", "plain")
    model, passes, config = small_model(slots), plan_passes(slots, False), SampleConfig()

    def draw(settings):
        return sample_tokens(model, passes, decode_permutation(step), LABELS, settings, range(4))

    plain = draw(config)
    with recorded(model):
        draw(config)
        config.guidance = 3.0
        assert all(torch.equal(draw(SampleConfig()), plain) for _ in range(2))


def test_turned_off(recordings, monkeypatch):
    monkeypatch.setenv("RADAR_GRAPHS", "0")
    model, draw = drawer("radial", "plain", PLAIN)
    with recorded(model):
        draw(), draw()
    assert not recordings


def test_nothing_is_recorded_on_a_cpu():
    model, draw = drawer("radial", "plain", PLAIN)
    with recorded(model):
        assert torch.equal(draw(), draw())
        assert not cuda_graphs._works


def test_names_and_sizes_are_told_apart(recordings):
    model, one, two = torch.nn.Linear(1, 1), torch.ones(1), torch.ones(2)
    with recorded(model):
        for name, factor, given in (("a", 2, one), ("b", 3, one), ("a", 2, two), ("a", 2, one), ("b", 3, one)):
            assert torch.equal(replay(model, name, lambda x, factor=factor: factor * x, given), factor * given)
        assert len(recordings) == 2


def filler(order, variant, device="cpu"):
    """Return the model, and a function that fills a hole around given tokens."""
    made, slots = restricted(order, variant, "random")
    model, passes = small_model(slots).to(device), plan_passes(slots, False, device)
    permutation = decode_permutation(made.step).to(device)

    def fill(seed=0):
        given = torch.randint(VOCABULARY, (4, made.given), generator=torch.Generator().manual_seed(seed))
        settings = replace(PLAIN, correction=0.0)
        return sample_tokens(
            model, passes, permutation, LABELS.to(device), settings, range(4), given=given.to(device)
        ).cpu()

    return model, fill


@pytest.mark.parametrize(("order", "variant"), [("radial", "plain"), ("radial", "nested"), ("raster", "causal")])
def test_given_tokens_are_inputs_of_a_recording(order, variant, recordings):
    model, fill = filler(order, variant)
    expected = [fill(seed) for seed in range(3)]
    with recorded(model):
        assert all(torch.equal(fill(seed), expected[seed]) for seed in (0, 1, 2, 0)) and len(recordings) == 1


@pytest.mark.gpu
@pytest.mark.parametrize(("order", "variant"), [("radial", "plain"), ("radial", "nested"), ("raster", "causal")])
def test_a_gpu_fills_holes_as_a_cpu_does_and_recorded(order, variant):
    (model, fill), expected = filler(order, variant, "cuda"), filler(order, variant)[1]
    with ready_to_sample(model, PLAIN):
        for seed in (0, 1, 0):
            assert (fill(seed) == expected(seed)).float().mean() > 0.98


@pytest.mark.gpu
@pytest.mark.parametrize(("order", "variant"), arms())
def test_a_gpu_draws_what_a_cpu_draws(order, variant):
    found, expected = (drawer(order, variant, PLAIN, device)[1]() for device in ("cuda", "cpu"))
    assert (found == expected).float().mean() > 0.98


@pytest.mark.gpu
@pytest.mark.parametrize("config", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize(("order", "variant"), typical())
def test_a_recording_draws_the_same(order, variant, config):
    model, draw = drawer(order, variant, config, "cuda")
    least = 0.9 if config.precision == "bf16-mixed" else 1
    cases = [(seed, labels, first) for seed in range(2) for labels in (LABELS, LABELS.flip(0)) for first in (0, 4)]
    expected = [draw(*case) for case in cases]
    with ready_to_sample(model, config):
        for _ in range(3):
            for case, tokens in zip(cases, expected, strict=True):
                assert (draw(*case) == tokens).float().mean() >= least
        works = list(cuda_graphs._works[model].values())
    assert [type(work) for work in works] == [cuda_graphs.Recording]
    assert not cuda_graphs._works


@pytest.mark.gpu
def test_a_recording_of_choices_draws_the_same():
    config = SampleConfig(choice_temperature=4.5)
    model, draw = drawer("random in 5", "bidirectional", config, "cuda")
    expected = draw()
    with ready_to_sample(model, config):
        assert all(torch.equal(draw(), expected) for _ in range(3))
        assert [type(work) for work in cuda_graphs._works[model].values()] == [cuda_graphs.Recording]


@pytest.mark.gpu
@pytest.mark.parametrize("config", [PLAIN, SETTINGS["bfloat16"]], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(("order", "variant"), [("raster", "causal"), ("radial", "plain"), ("radial", "nested")])
def test_compiled_code_draws_the_same_on_a_gpu(order, variant, config):
    model, draw = drawer(order, variant, config, "cuda")
    expected, model.compiled = draw(), True
    with ready_to_sample(model, config):
        for _ in range(3):
            assert (draw() == expected).float().mean() > (0.9 if config.precision == "bf16-mixed" else 0.98)
        assert [type(work) for work in cuda_graphs._works[model].values()] == [cuda_graphs.Recording]


@pytest.mark.gpu
def test_sampling_never_waits_for_the_gpu():
    """What would be an error in a recording: a value that the CPU asks for."""
    for order, variant in arms():
        step, slots = layout(order, variant)
        model, passes = small_model(slots).to("cuda"), plan_passes(slots, True, "cuda")
        permutation, labels = decode_permutation(step).to("cuda"), LABELS.to("cuda")
        sample_tokens(model, passes, permutation, labels, PLAIN, range(4))
        rule = sampler.choose_tokens(PLAIN)
        given, noise = labels.new_empty(4, 0), torch.rand(4, sum(len(each.noise) for each in passes), device="cuda")
        torch.cuda.set_sync_debug_mode("error")
        try:
            sampler._run(model, passes, PLAIN, rule, None, permutation, labels, given, noise)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.parametrize("variant", ["plain", "nested", "relay"])
def test_training_with_flex_attention_learns_what_training_with_a_dense_mask_does(variant):
    """Gradients of a block, under the block-sparse mask of a whole layout."""
    slots = VARIANTS[variant]([1, 8, 16, 24, 32, 47])
    torch.manual_seed(0)
    block = Block(Shape(64, 1, 2), ModelConfig()).cuda()
    x, angles = torch.randn(2, len(slots), 64, device="cuda"), torch.randn(1, 1, len(slots), 16, 2, device="cuda")
    gradients = []
    for mask in (slots.mask().cuda(), slots.to("cuda").block_mask("cuda")):
        block.zero_grad()
        block(False, x, x[:, 0], angles, mask).square().mean().backward()
        gradients.append([p.grad.clone() for p in block.parameters()])
    for dense, sparse in zip(*gradients, strict=True):
        assert torch.allclose(dense, sparse, atol=1e-4 * float(dense.abs().max()) + 1e-7, rtol=1e-2)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("more", [[], ["method=dit"]], ids=["radial", "dit"])
def test_from_training_to_scores_on_a_gpu(more, precision, tmp_path, capsys):
    options = [
        *more,
        f"train.precision={precision}",
        f"sample.precision={precision}",
        "train.max_steps=60",
        "train.device=cuda",
    ]
    options += [
        "evaluate.images=300",
        "sample.batch_size=64",
        f"data.cache={tmp_path}/cache",
        "evaluate.timing_repeats=2",
    ]
    main(["train", "digits", f"run={tmp_path}/run", *options])
    main(["evaluate", str(tmp_path / "run" / "last.ckpt")])
    assert "NVIDIA" in capsys.readouterr().out
