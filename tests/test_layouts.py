"""Orders, slots and masks without the trainer: other transformers are trained and sampled in any order x variant."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

import radar
from radar.attention import VARIANTS
from radar.attention.frozen import plain
from radar.attention.slots import check_leaks
from radar.errors import InputError
from radar.layouts import Layout, layout
from radar.sampling.decoder import Recomputed
from tests.arms import CLASSES, GRID, VOCABULARY, arms, small_model, typical
from tests.arms import layout as arm
from tests.foreign import Llama, PlainTransformer

CELLS = GRID[0] * GRID[1]
FOREIGN = {"pytorch": PlainTransformer, "llama": Llama}
OURS = [(order, variant) for order, variant in typical() if variant not in ("neighbours", "block_causal")]


def foreign(kind: str) -> torch.nn.Module:
    if kind == "llama":
        pytest.importorskip("transformers")
    torch.manual_seed(0)
    model = FOREIGN[kind](VOCABULARY, CLASSES, CELLS)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def log_likelihoods_in_sampling(model, own: Layout, tokens: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Log p (B, N) by cell that the sampler's passes give those tokens, by noise that makes it choose them."""
    from radar.config.sampling import SampleConfig
    from radar.sampling.passes import plan_passes
    from radar.sampling.sampler import sample_tokens

    found, by_rank = torch.zeros(tokens.shape), own.by_rank(tokens)

    def rule(step, logits, current, noise):
        right = by_rank[:, step.targets]
        found[:, own.permutation[step.targets]] = logits.log_softmax(-1).gather(-1, right[..., None])[..., 0]
        return right, torch.ones_like(right, dtype=torch.bool)

    passes = plan_passes(own.slots, revise=False)
    sample_tokens(model, passes, own.permutation, labels, SampleConfig(), range(len(tokens)), rule=rule)
    return found


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize(("order", "variant"), OURS)
def test_a_foreign_transformer_samples_as_it_was_trained(kind, order, variant):
    model, own = foreign(kind), layout(order, variant, GRID)
    tokens, labels = torch.randint(VOCABULARY, (3, CELLS)), torch.tensor([0, 2, CLASSES])
    with torch.no_grad():
        trained = own.nll(model, tokens, labels)
        sampled = -log_likelihoods_in_sampling(model, own, tokens, labels).double().sum(1)
    torch.testing.assert_close(sampled, trained, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize(("order", "variant"), OURS)
def test_no_prediction_of_a_foreign_transformer_sees_what_comes_later(kind, order, variant):
    model, own = foreign(kind), layout(order, variant, GRID)
    tokens, labels = torch.randint(VOCABULARY, (1, CELLS)), torch.tensor([1])
    predictions = own.slots.predictions
    asked_in = own.slots.in_pass[predictions.source]
    new = own.slots.predicts_new[predictions.source]
    with torch.no_grad():
        before = own.losses(model, tokens, labels)[0]
        for k in range(len(own.sizes)):
            later = tokens.clone()
            later[:, own.step >= k] = (later[:, own.step >= k] + 1) % VOCABULARY
            logits = model(own.slots, own.inputs(later), labels, own.permutation, own.mask)
            of_old = torch.nn.functional.cross_entropy(logits[0], own.targets(tokens)[0], reduction="none")
            torch.testing.assert_close(of_old[(asked_in <= k) & new], before[(asked_in <= k) & new])


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("arm", [("raster", "causal"), ("radial", "plain"), ("radial", "nested")], ids="-".join)
def test_a_foreign_transformer_learns_and_draws(kind, arm):
    """Images whose cells are all their label: it learns that, and draws that."""
    model, own = foreign(kind).train(), layout(*arm, GRID)
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, std=0.02) if parameter.ndim > 1 else None
        torch.nn.init.ones_(parameter) if "norm" in name and parameter.ndim == 1 else None
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(60):
        labels = torch.randint(CLASSES, (16,))
        loss = own.losses(model, labels[:, None].expand(-1, CELLS), labels).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    labels = torch.arange(CLASSES).repeat(4)
    drawn = own.sample(model.eval(), labels, seed=1, temperature=0.5)
    assert (drawn == labels[:, None]).float().mean() > 0.97
    alone = own.sample(model, labels[2:3], images=[2], seed=1, temperature=0.5)
    assert torch.equal(alone[0], drawn[2])


@pytest.mark.parametrize(("order", "variant"), OURS)
def test_recomputed_is_cached(order, variant):
    """Our own transformer draws the same with its cache and without."""
    own, model = layout(order, variant, GRID), small_model()
    labels = torch.tensor([0, 1, 2])
    options = {"seed": 3, "guidance": 1.5, "correction": 0.3 if own.slots.revises.any() else 0.0}
    assert torch.equal(own.sample(model, labels, **options), own.sample(Recomputed(model), labels, **options))


def test_a_variant_and_an_order_of_ones_own():
    """A function from sizes to slots, and a step for each cell."""
    step = torch.arange(CELLS) % 4
    own = layout(step, plain, GRID)
    assert own.sizes == [5, 5, 5, 5] and torch.equal(own.step, step)
    assert torch.equal(own.mask, VARIANTS["plain"]([5, 5, 5, 5]).mask())


@pytest.mark.parametrize(("order", "variant"), arms())
def test_no_rule_of_ours_leaks(order, variant):
    check_leaks(arm(order, variant)[1])


def test_a_rule_that_leaks_is_refused():
    """Directly, and through a slot that others see."""

    def all_seen(sizes):
        return replace(plain(sizes), sees=lambda asking, seen: (asking.step >= -1) & (seen.step >= -1))

    def through_others(sizes):
        def sees(asking, seen):
            ahead = asking.is_token & seen.is_token & (seen.step == asking.step + 1)
            return plain(sizes).sees(asking, seen) | ahead

        return replace(plain(sizes), sees=sees)

    for rule in (all_seen, through_others):
        with pytest.raises(InputError, match="who sees whom leaks: slot"):
            layout("radial", rule, GRID)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (np.full((1, CELLS), np.nan), "some not finite"),
        (np.zeros((1, CELLS - 1)), rf"not shape \(1, {CELLS - 1}\)"),
        (np.arange(CELLS), rf"not shape \({CELLS},\)"),
        (None, "not NoneType"),
    ],
)
def test_an_order_that_is_no_ranking_is_refused(keys, said, monkeypatch):
    monkeypatch.setitem(radar.orders.ORDERS, "mine", lambda h, w: keys)
    with pytest.raises(InputError, match=f"order 'mine' gives no ranking: .*{said}"):
        radar.orders.steps("mine", GRID)


def test_the_mask_of_flex_attention_is_the_dense_one():
    own = layout("radial", "nested", GRID)
    rows = torch.arange(len(own.slots))
    zero = torch.zeros(1, dtype=torch.long)
    assert torch.equal(own.mask_mod()(zero, zero, rows[:, None], rows[None]), own.mask)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("spiral", "plain", GRID), "unknown order 'spiral'; choose from: raster"),
        (("radial", "sparse", GRID), "unknown attention 'sparse'; choose from: causal"),
        (("radial", "causal", GRID), "attention 'causal' decodes one cell per step"),
        ((torch.arange(7), "plain", GRID), "7 steps for a grid of 4x5 cells"),
        ((torch.arange(CELLS) * 2, "plain", GRID), "all of 0 to K-1 expected"),
        ((torch.arange(CELLS) / 2, "plain", GRID), "whole numbers expected"),
        (("radial", "plain", (-2, -3)), "rows and columns, at least 1 each"),
        (("radial", "plain", 8), "rows and columns, at least 1 each"),
        (("radial", "plain", (8.0, 8)), "rows and columns, at least 1 each"),
        ((None, "plain", GRID), "order None is not possible"),
        (("radial", None, GRID), "attention None is not possible"),
        (("radial", lambda sizes: None, GRID), "gives NoneType: Slots expected"),
    ],
)
def test_bad_input(arguments, line):
    with pytest.raises(InputError, match=line):
        layout(*arguments)


def test_an_option_that_a_layout_does_not_take():
    own = layout("radial", "plain", GRID)
    with pytest.raises(InputError, match=r"sample.steps has no effect on a layout; it takes: seed"):
        own.sample(small_model(), torch.tensor([0]), steps=3)
    with pytest.raises(InputError, match=r"correction=0.5 has no effect: this variant revises nothing"):
        own.sample(small_model(), torch.tensor([0]), correction=0.5)
    with pytest.raises(InputError, match=r"labels \[9\] are not possible: 0..3 expected"):
        own.sample(small_model(), torch.tensor([9]))
    with pytest.raises(InputError, match=r"2 numbers of 1 images"):
        own.sample(small_model(), torch.tensor([0]), images=[1, 2])


def test_import_is_quick_and_complete():
    """What is offered is there; nothing is imported before it is used."""
    assert all(getattr(radar, name) for name in radar.__all__)
    code = "import radar, sys; print(sorted({'torch', 'numpy', 'omegaconf'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
    assert (
        radar.orders.sizes("radial", (8, 8))
        == np.unique(radar.orders.steps("radial", (8, 8)), return_counts=True)[1].tolist()
    )
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        radar.nonsense  # noqa: B018
