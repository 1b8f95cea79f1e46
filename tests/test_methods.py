"""Published methods: their counts, and the contract of orders and variants over all of them."""

import dataclasses

import pytest
import torch
from scipy.stats import kstest

from radar.attention import NONE, VARIANTS
from radar.config.load import merge_options, to_config
from radar.config.methods import METHODS
from radar.config.options import Config, OrderConfig
from radar.config.sampling import SampleConfig
from radar.data.batches import Batch
from radar.decoding.groups import decode_permutation, step_sizes
from radar.decoding.orders import decode_steps
from radar.errors import InputError
from radar.sampling.draw import image_noise
from radar.sampling.sampler import Choice, Trace, all_noise, sample_tokens
from radar.training.counts import passes_and_slots
from radar.training.generator import GeneratorModule
from tests.arms import CELLS, CLASSES, GRID, VOCABULARY, layout, small_model
from tests.test_attention import leaks
from tests.test_sampling import check_training_equals_sampling

AUTOREGRESSIVE = [name for name in METHODS if name not in ("var", "dit")]  # test_multiscale.py, test_diffusion.py
# Each as published; and some in another order than their own.
SAMPLED = [(method, None) for method in AUTOREGRESSIVE] + [
    ("randar", "halton"),
    ("arpg", "radial:metric=chebyshev"),
    ("lpd", "random:seed=3"),
]


def small(method: str, **sample: object) -> GeneratorModule:
    """A method on a small grid, with few steps where its own are too many, and weights that matter."""
    values = {"model": {"dim": 32, "layers": 3, "heads": 2}, "train": {"batch_size": 4, "max_steps": 8}}
    config = merge_options({"method": method}, values, {"sample": sample})
    for group in ("order", "sample"):
        config[group]["steps"] = config[group]["steps"] and min(config[group]["steps"], 6)
    torch.manual_seed(0)
    module = GeneratorModule(to_config(config), VOCABULARY, CLASSES, GRID).eval()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3 if parameter.ndim > 1 else 1.0)
    return module


@pytest.mark.parametrize(
    ("method", "passes"),
    [
        ("llamagen", (256, 576)), ("rar", (256, 576)), ("randar", (88, 88)), ("par_4x", (67, 147)),
        ("par_16x", (31, 51)), ("nar", (31, 47)), ("arpg", (64, 64)), ("lpd", (20, 30)), ("maskgit", (8, 8)),
        ("halton_maskgit", (12, 12)), ("radar", (13, 18)), ("ear", (16, 16)), ("var", (10, 10)), ("dit", (250, 250)),
    ],
)  # fmt: skip
def test_published_passes(method, passes):
    assert tuple(passes_and_slots(method, grid)[0] for grid in ((16, 16), (24, 24))) == passes


@pytest.mark.parametrize(("method", "order"), SAMPLED)
def test_contract(method, order):
    module = small(method, order=order)
    settings = module.config.sample
    step, slots = module.sampled_step(settings), module.sampled_slots(settings)
    assert not leaks(slots, step) and not leaks(module.slots, module.step)
    for layout_step, layout_slots in ((step, slots), (module.step, module.slots)):
        check_training_equals_sampling(layout_step, layout_slots, module.model.query_layers)


@pytest.mark.parametrize(("method", "order"), SAMPLED)
def test_images_depend_on_their_seed_alone_and_are_written_once(method, order):
    module = small(method, guidance=1.5, order=order)
    settings, passes = module.config.sample, module.passes(module.config.sample)

    def draw(images: list[int], trace: Trace | None = None) -> torch.Tensor:
        labels = torch.tensor(images) % CLASSES
        permutation = module.sampled_permutation(settings, images)
        return sample_tokens(module.model, passes, permutation, labels, settings, images, trace)

    trace = Trace()
    together = draw(list(range(8)), trace)
    assert torch.equal(together, torch.cat([draw([i]) for i in range(8)]))
    written = torch.stack(trace.written)
    assert (written.sum(0) == 1).all(), "every cell is written exactly once"
    assert written.sum(2)[:, 0].tolist() == step_sizes(module.sampled_step(settings))
    if settings.choice_temperature is None:
        steps = module.order.of_images(settings, torch.arange(8))
        assert torch.equal(written.int().argmax(0), steps.expand(8, -1))
        assert settings.order_per_image == (steps.ndim == 2 and len(steps.unique(dim=0)) > 1)
    else:
        assert len(written.int().argmax(0).unique(dim=0)) > 1, "each image finds its own order"


@pytest.mark.parametrize("method", AUTOREGRESSIVE)
def test_a_training_step(method):
    module = small(method).train()
    tokens = torch.randint(VOCABULARY, (4, CELLS))
    loss = module.training_step(Batch(0, tokens, torch.arange(4) % CLASSES, torch.arange(4)), 0)
    loss.backward()
    unused = {name for name, weight in module.named_parameters() if weight.grad is None}
    assert loss.isfinite() and unused <= {"model.query"}, "every weight is trained"
    with torch.no_grad():
        assert module.nll(tokens, torch.zeros(4, dtype=torch.long), module.config.sample).isfinite().all()


def choose(temperature: float, rule=None) -> tuple[GeneratorModule, Trace, torch.Tensor]:
    """Images of a MaskGIT, and how they came about."""
    module, trace = small("maskgit", choice_temperature=temperature), Trace()
    settings, labels = module.config.sample, torch.zeros(50, dtype=torch.long)
    args = module.passes(settings), module.order.permutation, labels, settings, range(50), trace, rule
    return module, trace, sample_tokens(module.model, *args)


def test_most_confident_first():
    """At temperature 0 every pass writes the cells of its most likely tokens, wherever earlier passes moved them."""
    passes = []

    def rule(each, logits, current, noise):
        passes.append((each, logits.log_softmax(-1).amax(-1)))
        return logits.argmax(-1), torch.ones_like(current, dtype=torch.bool)

    module, trace, _ = choose(0.0, rule)
    cells = module.order.permutation.expand(50, -1).clone()
    for (each, belief), written in zip(passes, trace.written, strict=True):
        ranked = belief.argsort(dim=1, descending=True, stable=True)
        cells[:, each.targets] = cells[:, each.targets].gather(1, ranked)
        best = cells[:, each.targets[: each.num_commit]]
        assert torch.equal(torch.zeros_like(written).scatter_(1, best, True), written)


def test_choice_noise_fades_and_is_its_own():
    """Gumbel noise changes what comes first, less and less; without it the tokens use the same random numbers."""
    (_, calm, _), (_, noisy, _) = choose(0.0), choose(100.0)
    assert not torch.equal(calm.written[0], noisy.written[0])
    module = small("maskgit", choice_temperature=2.0)
    settings, passes = module.config.sample, module.passes(module.config.sample)
    choice = Choice(passes, settings, all_noise(passes, settings, range(200))[1])
    tokens = torch.zeros(200, len(passes[0].targets), dtype=torch.long)
    flat = torch.zeros(*tokens.shape, VOCABULARY)
    first = choice.rank(0, passes[0], flat, tokens)
    assert len(first[:, 0].unique()) > 5, "equal beliefs are ranked by noise"
    last = len(passes) - 1
    assert (choice.rank(last, passes[0], flat, tokens) == torch.arange(tokens.shape[1])).all(), "none at the last pass"
    token_noise = image_noise(settings.seed, range(200), tokens.shape[1])
    correlation = torch.corrcoef(torch.stack([token_noise.flatten(), choice.gumbel[:, : tokens.shape[1]].flatten()]))
    assert abs(float(correlation[0, 1])) < 0.1
    uniform = torch.exp(-torch.exp(-choice.gumbel.double()))
    assert kstest(uniform.flatten().numpy(), "uniform").pvalue > 1e-4, "Gumbel noise"


@pytest.mark.parametrize("one", METHODS)
@pytest.mark.parametrize("other", METHODS)
def test_a_method_over_another_is_the_method(one, other):
    assert to_config(merge_options({"method": one}, {"method": other})) == to_config({"method": other})


def test_steps_of_sampling_keep_the_order():
    for order, variant in (({"name": "halton", "steps": 6, "schedule": "cosine"}, "bidirectional"), ({}, "nested")):
        module = GeneratorModule(to_config({"order": order, "attention": variant}), VOCABULARY, CLASSES, GRID)
        for steps in (None, 4, module.steps):
            found = module.sampled_step(SampleConfig(steps=steps))
            expected = decode_steps(dataclasses.replace(module.config.order, steps=steps or module.steps), *GRID)
            assert torch.equal(found, expected)


def test_another_order_in_sampling():
    module = small("lpd", order="radial:metric=chebyshev", order_per_image=False)
    wanted = OrderConfig(name="radial", metric="chebyshev", steps=module.config.order.steps)
    assert torch.equal(module.sampled_step(module.config.sample), decode_steps(wanted, *GRID))
    assert torch.equal(module.sampled_step(SampleConfig()), module.step), "trained in its own"
    one_order = GeneratorModule(to_config({"attention": "plain"}), VOCABULARY, CLASSES, GRID)
    with pytest.raises(InputError, match=r"sample.order=halton needs a model that was trained on many orders"):
        one_order.sampled_step(SampleConfig(order="halton"))
    own = SampleConfig(order="halton:steps=3:schedule=linear")
    assert torch.equal(
        module.sampled_step(own), decode_steps(OrderConfig(name="halton", steps=3, schedule="linear"), *GRID)
    )


@pytest.mark.parametrize("grid", [(4, 4), (3, 7), (5, 6), (1, 5)])
def test_neighbours_are_right_and_below(grid):
    step = decode_steps(OrderConfig(name="diagonal"), *grid)
    slots, permutation = VARIANTS["neighbours"](step_sizes(step)), decode_permutation(step)
    rows, columns = permutation // grid[1], permutation % grid[1]
    for targets, dr, dc in ((slots.target, 0, 1), (slots.second, 1, 0)):
        for rank, target in zip(slots.rank.tolist(), targets.tolist(), strict=True):
            if rank == NONE:
                assert target == 0
                continue
            r, c = int(rows[rank]) + dr, int(columns[rank]) + dc
            inside = r < grid[0] and c < grid[1]
            assert (target != NONE) == inside
            assert not inside or permutation[target] == r * grid[1] + c


def test_neighbours_need_diagonals():
    with pytest.raises(InputError, match="'neighbours' needs steps of 1, 2, 3"):
        VARIANTS["neighbours"]([1, 4, 4])


def test_instructed_is_causal_cell_by_cell():
    slots = VARIANTS["instructed"]([1] * 5)
    place = 2 * slots.rank + slots.is_token.int()  # class token -1, then query 0, content 0, query 1, ...
    assert torch.equal(slots.mask(), place[:, None] >= place)


def test_later_steps_of_randar_see_what_they_would_have_seen_cell_by_cell():
    """The first cell of every group is predicted the same, whatever the groups before it were."""
    step, grouped = layout("random in 5", "instructed")
    single, model, permutation = VARIANTS["instructed"]([1] * CELLS), small_model(), decode_permutation(step)
    tokens = torch.randint(VOCABULARY, (2, CELLS), generator=torch.Generator().manual_seed(2))[:, permutation]
    with torch.inference_mode():
        logits = [
            model(slots, tokens[:, slots.rank.clamp(min=0)], torch.tensor([0, 1]), permutation, slots.mask())
            for slots in (single, grouped)
        ]
    first = torch.tensor([0, *step_sizes(step)[:-1]]).cumsum(0)
    a, b = (
        found[:, torch.isin(slots.predictions.target, first)]
        for found, slots in zip(logits, (single, grouped), strict=True)
    )
    assert (a - b).abs().max() < 1e-4
    assert (logits[0] - logits[1]).abs().max() > 1e-2, "the others are predicted together"


def test_a_method_stands_for_its_options_and_yields_to_others():
    config = to_config({"method": "randar", "sample": {"steps": 7}})
    assert (config.order.name, config.attention, config.sample.steps) == ("random", "instructed", 7)
    radial = {"order": {"name": "radial", "metric": "manhattan"}, "attention": "nested"}
    config = to_config(radial, ["method=par_16x", "order.regions=4"])
    assert config.order == OrderConfig(name="regions", regions=4) and config.attention == "relay"
    assert to_config(merge_options(radial, {"method": "lpd"}), []).order == OrderConfig(name="lpd")
    assert to_config({}) == Config()
    with pytest.raises(InputError, match="unknown method 'rander'; choose from: llamagen, rar"):
        to_config({"method": "rander"})


def test_what_does_not_fit_is_refused():
    for text, message in {
        "sample.choice_temperature=1": "needs an attention that predicts all unknown cells",
        "model.query_share=0.5": "model.query_share needs an attention whose tokens predict nothing",
    }.items():
        config = to_config({}, ["method=radar", text])
        with pytest.raises(InputError, match=message):
            GeneratorModule(config, VOCABULARY, CLASSES, GRID)
    nar, arpg, randar = ({"method": name} for name in ("nar", "arpg", "randar"))
    for values, options, grid, message in (
        (nar, ["train.permutations=random"], GRID, "train.permutations=fixed"),
        (nar, ["order.name=halton", "order.steps=10", "order.schedule=linear"], (4, 4), "needs order 'diagonal'"),
        (nar, [], (7, 3), "not higher than wide"),
        (nar, ["order.name=raster"], GRID, "needs order 'diagonal'"),
        (arpg, ["model.query_share=0.1"], GRID, "model.query_share=0.1 of 4 layers is no layer"),
        (arpg, ["model.backend=flex"], GRID, "model.backend=flex does not go with"),
        (nar, ["sample.order=diagonal"], GRID, "sample.order=diagonal needs a model that was trained on many orders"),
        (randar, ["sample.order=spiral", "sample.steps=5"], GRID, "unknown order 'spiral'; choose from"),
        (randar, ["sample.order=radial:length=2", "sample.steps=5", "sample.order_per_image=false"], GRID, "length"),
        (randar, ["sample.order=radial:lenth=2", "sample.steps=5"], GRID, "unknown option 'order.lenth'"),
        (randar, ["sample.order=radial"], GRID, "order_per_image needs an order with a seed .random, halton, lpd."),
        (randar, [], GRID, "^sample.steps=88, sample.schedule=cosine: .*=88 is not possible: a grid of 20 cells"),
    ):
        with pytest.raises(InputError, match=message):
            GeneratorModule(to_config(values, options), VOCABULARY, CLASSES, grid)
