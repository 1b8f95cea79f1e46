"""Given cells: nothing of a hole leaks, nothing given changes, and the rest is decoded as in training."""

import itertools

import pytest
import torch

from radar.attention import VARIANTS, Slots
from radar.config.load import parse_order
from radar.config.options import Config, ModelConfig, OrderConfig
from radar.config.sampling import SampleConfig
from radar.config.training import TrainConfig
from radar.decoding.given import Restricted, cut_again, given_first, known_first
from radar.decoding.groups import decode_permutation
from radar.decoding.orders import decode_steps
from radar.editing.filling import HoleFiller
from radar.errors import InputError
from radar.sampling.passes import plan_passes
from radar.sampling.sampler import Trace, sample_tokens
from radar.training.generator import GeneratorModule, by_rank
from tests.arms import CELLS, CHEAPER, CLASSES, FILES, GRID, VOCABULARY, arms, small_model, steps_of
from tests.test_attention import leaks

LABELS = torch.tensor([0, 2, 1, CLASSES])
HIDDEN = {
    "none": torch.zeros(CELLS, dtype=torch.bool),
    "one": torch.arange(CELLS) == 13,
    "random": torch.rand(CELLS, generator=torch.Generator().manual_seed(2)) < 0.5,
    "all but one": torch.arange(CELLS) != 7,
    "all": torch.ones(CELLS, dtype=torch.bool),
}
HOLES = [
    (*arm, hole)
    for arm in arms()
    for hole in HIDDEN
    if arm[1] not in ("neighbours", "block_causal") or hole in ("none", "all")
]


def restricted(order: str, variant: str, hole: str) -> tuple[Restricted, Slots]:
    made = given_first(torch.atleast_2d(steps_of(order))[0], HIDDEN[hole])
    return made, (VARIANTS | CHEAPER)[variant](made.sizes).given(made.given)


@pytest.mark.parametrize(("order", "variant", "hole"), HOLES)
def test_the_sampler_is_the_trained_model_around_a_hole(order, variant, hole):
    """Every hidden cell is asked for once, sees nothing hidden, and gets the logits of the packed layout."""
    made, slots = restricted(order, variant, hole)
    permutation, passes = decode_permutation(made.step), plan_passes(slots, True, candidates=True)
    assert len(passes) == made.steps == len(steps_of(order).view(-1, CELLS)[0][HIDDEN[hole]].unique())
    if not passes:
        return
    given = int((torch.tensor(made.sizes).cumsum(0) <= made.given).sum())
    assert not leaks(slots, (made.step - given).clamp(min=-1))
    asked = slots.predictions.target[slots.predicts_new[slots.predictions.source]]
    assert asked.sort().values.tolist() == list(range(made.given, CELLS))
    assert (slots.target[slots.revises] >= made.given).all(), "what is given is not revised"
    model = small_model(slots)
    tokens = torch.randint(VOCABULARY, (4, CELLS), generator=torch.Generator().manual_seed(1))
    known = by_rank(tokens, permutation)
    with torch.inference_mode():
        content, hints = known[:, slots.rank.clamp(min=0)], model.hints_of(slots, known)
        packed = model(slots, content, LABELS, permutation, slots.mask(), hints=hints)
    target, _, _, source = slots.predictions
    number = (slots.in_pass - slots.in_pass[slots.predicts_new].min()).clamp(min=0)
    keys = zip(number[source].tolist(), target.tolist(), slots.is_token[source].tolist(), strict=True)
    expected, seen = dict(zip(keys, packed.unbind(1), strict=True)), []

    def forced(each, logits, current, noise):
        target, _, _, source = each.slots.predictions
        for j, (cell, slot) in enumerate(zip(target.tolist(), source.tolist(), strict=True)):
            key = passes.index(each), cell, bool(each.slots.is_token[slot])
            assert (logits[:, j] - expected[key]).abs().max() < 1e-4, key
            seen.append(key)
        return known[:, each.targets], torch.ones_like(current, dtype=torch.bool)

    inputs = model, passes, permutation, LABELS, SampleConfig(), range(4)
    found = sample_tokens(*inputs, rule=forced, given=known[:, : made.given])
    assert torch.equal(found, tokens) and sorted(seen) == sorted(expected)


def module(order: str = "radial", attention: str = "nested", **options: object) -> GeneratorModule:
    config = Config(
        order=parse_order(order),
        attention=attention,
        model=ModelConfig(dim=32, layers=2, heads=2),
        train=TrainConfig(**options),
    )
    made = GeneratorModule(config, VOCABULARY, CLASSES, GRID).eval()
    torch.manual_seed(0)
    for parameter in made.model.parameters():
        torch.nn.init.normal_(parameter, std=0.3 if parameter.ndim > 1 else 1.0)
    return made


TOKENS = torch.randint(VOCABULARY, (4, CELLS), generator=torch.Generator().manual_seed(3))
MIXED = torch.stack([HIDDEN[name] for name in ("random", "none", "all but one", "random")])
ANY = {"permutations": "random"}
ARMS = [
    ("raster", "causal", {}, SampleConfig(guidance=2.0)),
    ("radial", "plain", {}, SampleConfig(steps=3, schedule="cosine")),
    ("radial", "nested", {}, SampleConfig(correction=0.3)),
    ("radial", "relay", {}, SampleConfig(guidance=1.5, guidance_schedule="known_before")),
    ("random", "plain", ANY, SampleConfig(order="inwards", steps=4)),
    ("random", "instructed", ANY, SampleConfig(order_per_image=True, steps=4)),
    ("random:steps=5:schedule=cosine", "bidirectional", {}, SampleConfig(choice_temperature=2.0)),
    (f"file:path={FILES}/four.npy", "bidirectional", {}, SampleConfig(choice_temperature=2.0)),
    ("random:steps=5", "bidirectional", ANY, SampleConfig(choice_temperature=2.0, order_per_image=True)),
    ("radial", "plain", {}, SampleConfig(steps=6)),
    ("random", "plain", ANY, SampleConfig(order="halton:schedule=cosine", steps=5)),
    ("random", "plain", ANY, SampleConfig(order="lpd", steps=5)),
    ("optimised:steps=6", "plain", {}, SampleConfig(steps=5)),
    ("random:steps=6:schedule=cosine", "plain", ANY, SampleConfig(order="inwards")),
    ("inwards", "nested", {}, SampleConfig(guidance=1.5, guidance_schedule="per_token")),
]


@pytest.mark.parametrize(("order", "attention", "train", "settings"), ARMS, ids=map(str, range(len(ARMS))))
def test_filling(order, attention, train, settings):
    made, numbers = module(order, attention, **train), [5, 6, 7, 8]
    filler = HoleFiller(made, settings)
    with torch.no_grad():
        filled = filler.fill(TOKENS, MIXED, LABELS, numbers)
        assert torch.equal(filled[~MIXED], TOKENS[~MIXED]), "what is given stays"
        assert (filled != TOKENS)[MIXED].any()
        other = torch.where(MIXED, (TOKENS + 3) % VOCABULARY, TOKENS)
        assert torch.equal(filler.fill(other, MIXED, LABELS, numbers), filled), "what is hidden has no effect"
        for row in range(4):
            some = slice(row, row + 1)
            alone = filler.fill(TOKENS[some], MIXED[some], LABELS[some], numbers[some])
            assert torch.equal(alone, filled[some]), "nor have the other images"
        whole = torch.ones_like(MIXED)
        permutation = made.sampled_permutation(settings, numbers)
        drawn = sample_tokens(made.model, made.passes(settings), permutation, LABELS, settings, numbers)
        assert torch.equal(filler.fill(TOKENS, whole, LABELS, numbers), drawn), "a hole without a border is a sample"
        likely = filler.nll(TOKENS, whole, LABELS, numbers)
        if settings.choice_temperature is not None:
            assert likely.isnan().all(), "sampling finds the order"
        else:
            assert torch.allclose(likely, made.nll(TOKENS, LABELS, settings, torch.tensor(numbers)))


@pytest.mark.parametrize("variant", ["nested", "full", "nested_memory", "nested, 2 rings", "nested, every 2"])
def test_given_cells_are_revised_only_where_asked(variant):
    """Then each once in every pass, by the copy that the pass itself sees."""
    made = given_first(steps_of("radial"), HIDDEN["random"])
    slots = (VARIANTS | CHEAPER)[variant](made.sizes)
    for each in plan_passes(slots.given(made.given), True):
        assert (each.targets >= made.given).all()
    for each in plan_passes(slots.given(made.given, revise=True), True):
        assert len(each.targets.unique()) == len(each.targets)
        if variant in ("nested", "full", "nested_memory"):
            assert (each.targets < made.given).sum() == made.given


def test_inwards_has_groups_of_its_own_around_a_hole():
    made = module("random:steps=6:schedule=cosine", "plain", permutations="random")
    hidden = ~HIDDEN["none"].view(GRID).clone()
    hidden[0] = hidden[-1] = hidden[:, 0] = hidden[:, -1] = False
    (found,) = made.order.with_given(hidden.flatten()[None], SampleConfig(order="inwards"), torch.tensor([0]))
    assert found.steps == 1 and found.sizes[-1] == int(hidden.sum()), "one ring"


def test_an_empty_hole_takes_no_pass(monkeypatch):
    made = module()
    monkeypatch.setattr(made.model, "forward", None)
    filler, nothing = HoleFiller(made, SampleConfig()), torch.zeros_like(MIXED)
    assert torch.equal(filler.fill(TOKENS, nothing, LABELS, range(4)), TOKENS)
    assert filler.nll(TOKENS, nothing, LABELS, range(4)).tolist() == [0] * 4


@pytest.mark.parametrize("attention", ["plain", "relay", "nested", "full"])
def test_growing_from_a_given_centre_is_radial_sampling_gone_on(attention):
    """Outpainting outwards from the first rings draws what sampling drew."""
    made, settings, numbers = module("radial", attention), SampleConfig(seed=4), [3, 1, 4, 2]
    with torch.no_grad():
        permutation = made.sampled_permutation(settings, numbers)
        drawn = sample_tokens(made.model, made.passes(settings), permutation, LABELS, settings, numbers)
        for rings in range(1, made.steps):
            trace, hidden = Trace(), (made.step >= rings).expand(4, -1)
            assert torch.equal(HoleFiller(made, settings).fill(drawn, hidden, LABELS, numbers, trace), drawn)
            assert len(trace.tokens) == made.steps - rings


@pytest.mark.parametrize(
    ("order", "attention", "steps"), [("raster", "causal", None), ("radial", "plain", 3), ("radial", "instructed", 3)]
)
def test_fillings_of_a_hole_have_the_probability_one(order, attention, steps):
    """Cell by cell, the sum of exp(-NLL) over all of them; of a model in double precision."""
    made = module(order, attention).double()
    hidden = torch.zeros(CELLS, dtype=torch.bool)
    hidden[[4, 11, 12]] = True
    every = TOKENS[:1].repeat(VOCABULARY**3, 1)
    every[:, hidden] = torch.tensor(list(itertools.product(range(VOCABULARY), repeat=3)))
    labels = torch.ones(len(every), dtype=torch.long)
    with torch.no_grad():
        nll = HoleFiller(made, SampleConfig(steps=steps)).nll(
            every, hidden.expand(len(every), -1), labels, range(len(every))
        )
    assert float((-nll).exp().sum()) == pytest.approx(1, abs=1e-6)


def test_orders_of_a_hole():
    step = decode_steps(OrderConfig(name="radial"), *GRID)
    hidden = HIDDEN["random"]
    kept = given_first(step, hidden)
    assert kept.given == int((~hidden).sum()) and (kept.step[hidden] > kept.step[~hidden].max()).all()
    for part in (hidden, ~hidden):
        assert torch.equal(kept.step[part].unique(return_inverse=True)[1], step[part].unique(return_inverse=True)[1])
    ranking = decode_steps(OrderConfig(name="radial", steps=CELLS), *GRID)
    cut = cut_again(step, hidden, ranking, 3, "constant")
    assert cut.steps == 3 and sum(cut.sizes) == CELLS
    in_sequence = cut.step[hidden][ranking[hidden].argsort()]
    assert torch.equal(in_sequence, in_sequence.sort().values), "in the sequence of the ranking"
    assert cut_again(step, hidden, ranking, 99, "constant").steps == int(hidden.sum()), "no more steps than cells"
    found = known_first(step, hidden)
    after = step.sort().values[found.given :]
    assert found.sizes[-found.steps :] == after.unique(return_counts=True)[1].tolist(), "the steps that are left"


def test_inwards_goes_from_the_border_of_a_hole_to_its_middle():
    given = torch.ones(7, 7, dtype=torch.bool)
    given[1:6, 1:6] = False
    step = decode_steps(OrderConfig(name="inwards"), 7, 7, given.flatten()).view(7, 7)
    assert step[3, 3] == step.max() == 3 and (step[given] == 0).all() and (step[1, 1:6] == 1).all()
    outside = decode_steps(OrderConfig(name="inwards"), 5, 5)
    assert torch.equal(outside.view(5, 5), step[1:6, 1:6] - 1), "without a hole, what is around the grid is known"


def test_holes_that_an_attention_cannot_fill():
    made = module("diagonal", "neighbours")
    with pytest.raises(InputError, match="neighbours"), torch.no_grad():
        HoleFiller(made, SampleConfig()).fill(TOKENS, MIXED, LABELS, range(4))
    prefix = (made.step >= 3).expand(4, -1)
    with torch.no_grad():
        filled = HoleFiller(made, SampleConfig()).fill(TOKENS, prefix, LABELS, range(4))
    assert torch.equal(filled[~prefix], TOKENS[~prefix])
