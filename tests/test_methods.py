"""Published methods: their counts, and the contract of orders and variants over all of them."""

import dataclasses

import pytest
import torch

from experiments.methods import passes_and_slots
from radar.attention import NONE, VARIANTS
from radar.config import Config, OrderConfig, merge_options, to_config
from radar.errors import InputError
from radar.methods import METHODS, ORDER_OPTIONS
from radar.modules import GeneratorModule
from radar.orders import decode_sequence, decode_steps, step_sizes
from radar.sampling import Trace, sample_tokens
from tests.arms import CELLS, CLASSES, GRID, VOCABULARY, layout, small_model
from tests.test_attention import leaks
from tests.test_sampling import check_training_equals_sampling


def small(method: str, **sample: object) -> GeneratorModule:
    """A method on a small grid, with few steps where its own are too many, and weights that matter."""
    values = {"model": {"dim": 32, "layers": 3, "heads": 2}, "train": {"batch_size": 4, "steps": 8}}
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
        ("halton_maskgit", (12, 12)), ("radar", (13, 18)),
    ],
)  # fmt: skip
def test_published_passes(method, passes):
    assert tuple(passes_and_slots(method, grid)[0] for grid in ((16, 16), (24, 24))) == passes


@pytest.mark.parametrize("method", METHODS)
def test_contract(method):
    module = small(method)
    settings = module.config.sample
    step, slots = module.sampled_step(settings), module.sampled_slots(settings)
    assert not leaks(slots, step) and not leaks(module.slots, module.step)
    for layout_step, layout_slots in ((step, slots), (module.step, module.slots)):
        check_training_equals_sampling(layout_step, layout_slots, module.model.query_layers)


@pytest.mark.parametrize("method", METHODS)
def test_images_depend_on_their_seed_alone_and_are_written_once(method):
    module = small(method, guidance=1.5)
    settings, turns = module.config.sample, module.turns(module.config.sample)

    def draw(images: list[int], trace: Trace | None = None) -> torch.Tensor:
        labels = torch.tensor(images) % CLASSES
        return sample_tokens(module.model, turns, module.sequence, labels, settings, images, trace)

    trace = Trace()
    together = draw(list(range(8)), trace)
    assert torch.equal(together, torch.cat([draw([i]) for i in range(8)]))
    written = torch.stack(trace.written)
    assert (written.sum(0) == 1).all(), "every cell is written exactly once"
    assert written.sum(2)[:, 0].tolist() == module.sampled_sizes(settings)
    if settings.choice_temperature is None:
        assert torch.equal(written.int().argmax(0)[0], module.sampled_step(settings))
    else:
        assert len(written.int().argmax(0).unique(dim=0)) > 1, "each image finds its own order"


@pytest.mark.parametrize("method", METHODS)
def test_a_training_step(method):
    module = small(method).train()
    tokens = torch.randint(VOCABULARY, (4, CELLS))
    loss = module.training_step((0, tokens, torch.arange(4) % CLASSES), 0)
    loss.backward()
    unused = {name for name, weight in module.named_parameters() if weight.grad is None}
    assert loss.isfinite() and unused <= {"model.query"}, "every weight is trained"
    with torch.no_grad():
        assert module.nll(tokens, torch.zeros(4, dtype=torch.long), module.config.sample).isfinite().all()


def test_most_confident_first():
    module = small("maskgit", choice_temperature=0.0)
    settings, beliefs = module.config.sample, []

    def rule(turn, logits, current, noise):
        tokens = logits.argmax(-1)
        beliefs.append((turn, logits.log_softmax(-1).amax(-1)))
        return tokens, torch.ones_like(tokens, dtype=torch.bool)

    trace = Trace()
    sample_tokens(module.model, module.turns(settings), module.sequence, torch.tensor([0]), settings, [0], trace, rule)
    for k, (turn, belief) in enumerate(beliefs):
        ranked = belief[0].sort(descending=True).values
        assert int(trace.written[k].sum()) == turn.keeps
        if k == 0:  # every cell is still where the order put it
            cells = module.sequence[belief[0].argsort(descending=True)[: turn.keeps]]
            assert trace.written[0][0].nonzero().flatten().tolist() == cells.sort().values.tolist()
        assert ranked[0] >= ranked[-1]


@pytest.mark.parametrize("grid", [(4, 4), (3, 7), (5, 6), (1, 5)])
def test_neighbours_are_right_and_below(grid):
    step = decode_steps(OrderConfig(name="diagonal"), *grid)
    slots, sequence = VARIANTS["neighbours"](step_sizes(step)), decode_sequence(step)
    rows, columns = sequence // grid[1], sequence % grid[1]
    for targets, dr, dc in ((slots.target, 0, 1), (slots.second, 1, 0)):
        for rank, target in zip(slots.rank.tolist(), targets.tolist(), strict=True):
            if rank == NONE:
                assert target == 0
                continue
            r, c = int(rows[rank]) + dr, int(columns[rank]) + dc
            inside = r < grid[0] and c < grid[1]
            assert (target != NONE) == inside
            assert not inside or sequence[target] == r * grid[1] + c


def test_neighbours_need_diagonals():
    with pytest.raises(InputError, match="'neighbours' needs steps of 1, 2, 3"):
        VARIANTS["neighbours"]([1, 4, 4])


def test_instructed_is_causal_cell_by_cell():
    slots = VARIANTS["instructed"]([1] * 5)
    place = 2 * slots.rank + slots.content.int()  # class token -1, then query 0, content 0, query 1, ...
    assert torch.equal(slots.mask(), place[:, None] >= place)


def test_later_steps_of_randar_see_what_they_would_have_seen_cell_by_cell():
    """The first cell of every group is predicted the same, whatever the groups before it were."""
    step, grouped = layout("random in 5", "instructed")
    single, model, sequence = VARIANTS["instructed"]([1] * CELLS), small_model(), decode_sequence(step)
    tokens = torch.randint(VOCABULARY, (2, CELLS), generator=torch.Generator().manual_seed(2))[:, sequence]
    with torch.inference_mode():
        logits = [
            model(slots, tokens[:, slots.rank.clamp(min=0)], torch.tensor([0, 1]), sequence, slots.mask())
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
    assert {field.name for field in dataclasses.fields(OrderConfig)} == {"name", *ORDER_OPTIONS}
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
        "model.query_share=0.5": "model.query_share needs an attention whose content predicts nothing",
    }.items():
        config = to_config({}, ["method=radar", text])
        with pytest.raises(InputError, match=message):
            GeneratorModule(config, VOCABULARY, CLASSES, GRID)
