"""Who sees whom: nothing leaks, both masks are one, and the slots are those that the definitions say."""

from dataclasses import replace

import pytest
import torch

from radar.attention import NONE, VARIANTS, Bands, Slots, attend, banded, nested
from radar.attention.bands import cut
from radar.errors import InputError
from tests.arms import CELLS, CHEAPER, arms, layout, typical


def reach(mask: torch.Tensor) -> torch.Tensor:
    """Transitive closure: what a slot can depend on through any number of layers."""
    closed = mask.clone()
    while not torch.equal(grown := closed | (closed.float() @ closed.float() > 0), closed):
        closed = grown
    return closed


def leaks(slots: Slots, step: torch.Tensor) -> bool:
    """Whether a slot that asks for a cell depends on the content of its own or a later step."""
    step_of_rank = torch.atleast_2d(step)[0].sort().values  # the same of every image
    reached = reach(slots.mask())
    for i in torch.nonzero(slots.predicts_new | slots.is_candidate).flatten():
        seen = torch.nonzero(reached[i] & slots.is_token & (slots.rank != NONE)).flatten()
        goals = torch.stack([slots.target[i], slots.second[i]])
        first = min(slots.in_pass[i], step_of_rank[goals[goals != NONE]].min())
        if (step_of_rank[slots.rank[seen]] >= first).any():
            return True
        if slots.blind and (slots.step[reached[i]] > first).any():  # a slot is told what the steps before its own hold
            return True
    return False


@pytest.mark.parametrize(("order", "variant"), arms())
def test_no_leak(order, variant):
    step, slots = layout(order, variant)
    assert not leaks(slots, step)


@pytest.mark.parametrize(
    ("order", "variant"), [arm for arm in arms() if arm[1].startswith("nested") and arm[1] != "nested_memory"]
)
def test_a_step_sees_one_copy_of_every_earlier_group(order, variant):
    _, slots = layout(order, variant)
    mask = slots.mask()
    for i in torch.nonzero(slots.step >= 0).flatten():
        seen = torch.nonzero(mask[i] & slots.is_token & (slots.rank != NONE)).flatten()
        assert len(slots.rank[seen].unique()) == len(seen), "no cell twice"
        assert len(seen) == int((slots.group[~slots.is_token] < slots.step[i]).sum()), "and none is missing"


def test_cheaper_nested_layouts():
    sizes = [1, 4, 8, 16, 20, 32, 32, 36, 46, 36, 20, 4, 1]
    assert torch.equal(nested(sizes, rings=99).mask(), nested(sizes).mask())
    assert torch.equal(nested(sizes, every=1).mask(), nested(sizes).mask())
    assert len(nested(sizes, rings=1)) == len(nested(sizes, every=99)) == 2 * 256 + 1 - sizes[-1], "the slots of plain"
    for option in ("rings", "every"):
        with pytest.raises(InputError, match=f"{option}=0"):
            nested(sizes, **{option: 0})


@pytest.mark.parametrize(
    ("variant", "broken"),
    [
        ("causal", lambda asking, seen: seen.step <= asking.step + 1),
        ("plain", lambda asking, seen: seen.is_token & (seen.step <= asking.step)),
        ("relay", lambda asking, seen: seen.is_token & (seen.step <= asking.step + 1)),
        ("nested", lambda asking, seen: seen.step <= asking.step + 1),
        ("full", lambda asking, seen: seen.step >= asking.step),
        ("nested_memory", lambda asking, seen: seen.is_token | (seen.step == asking.step)),
        ("bidirectional", lambda asking, seen: seen.step <= asking.step + 1),
        ("instructed", lambda asking, seen: seen.rank <= asking.rank),
        ("neighbours", lambda asking, seen: seen.step <= asking.step + 1),
        ("block_causal", lambda asking, seen: seen.step <= asking.step + 1),
    ],
)
def test_a_broken_mask_is_caught(variant, broken):
    step, slots = layout({v: o for o, v in typical()}[variant], variant)
    assert leaks(replace(slots, sees=broken), step)


@pytest.mark.parametrize(("order", "variant"), arms())
def test_slots(order, variant):
    step, slots = layout(order, variant)
    predictions = slots.predictions
    asked = predictions.target[slots.predicts_new[predictions.source]]
    assert asked.sort().values.tolist() == list(range(CELLS)), "every cell is asked for exactly once"
    assert slots.mask().diagonal().all(), "every slot sees itself, so no row is empty"
    assert slots.mask()[:, 0].all(), "the class token is seen by all"
    assert slots.in_pass.unique().tolist() == list(range(int(step.max()) + 1)), "one forward pass per step"
    revised = slots.target[slots.revises]
    assert (torch.atleast_2d(step)[0].sort().values[revised] < slots.step[slots.revises]).all(), (
        "only known cells are revised"
    )


@pytest.mark.parametrize(("order", "variant"), typical() + [("radial", v) for v in CHEAPER])
def test_flex_mask_is_the_dense_mask(order, variant):
    _, slots = layout(order, variant)
    rule = slots.block_mask("cpu").mask_mod
    index = torch.arange(len(slots))
    zero = torch.zeros((), dtype=torch.long)
    assert torch.equal(rule(zero, zero, index[:, None], index[None]), slots.mask())


def test_definitions_on_a_small_case():
    """Sizes 1, 2: what method.md says who sees whom, written out."""
    plain = VARIANTS["plain"]([1, 2])
    # class, content 0 | query 0 | query 1, query 2
    assert plain.mask().int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 0, 1, 0, 0],
        [1, 1, 0, 1, 1],
        [1, 1, 0, 1, 1],
    ]
    # class | query 0 || known 0, query 1, query 2
    nested, full = (VARIANTS[name]([1, 2]).mask().int().tolist() for name in ("nested", "full"))
    assert nested == [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 0, 1, 0, 0], [1, 0, 1, 1, 1], [1, 0, 1, 1, 1]]
    assert full == [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 0, 1, 1, 1], [1, 0, 1, 1, 1], [1, 0, 1, 1, 1]]
    assert VARIANTS["causal"]([1, 1, 1]).mask().int().tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]


def test_relay_takes_about_one_slot_per_cell():
    """Radial 16x16, 13 steps: the class token, 255 cells that carry and ask, and the 46 by which groups grow."""
    slots = VARIANTS["relay"]([1, 4, 8, 16, 20, 32, 32, 36, 46, 36, 20, 4, 1])
    assert (len(slots), int((~slots.is_token).sum())) == (302, 46)


def test_causal_needs_one_cell_per_step():
    with pytest.raises(InputError, match="attention 'causal' decodes one cell per step"):
        VARIANTS["causal"]([1, 2])


@pytest.mark.parametrize(("order", "variant"), typical())
def test_chosen_steps_keep_all_that_they_see(order, variant):
    """The sampled layout: rows of the chosen steps see exactly what they saw in the whole."""
    _, slots = layout(order, variant)
    chosen = torch.tensor([1, 3])
    part = slots.only(chosen, slots.mask())
    rows = slots.predicts & torch.isin(slots.in_pass, chosen)
    kept = part.predicts & torch.isin(part.in_pass, chosen)
    assert torch.equal(part.target[kept], slots.target[rows]) and torch.equal(part.second[kept], slots.second[rows])
    assert torch.equal(part.mask()[kept].sum(1), slots.mask()[rows].sum(1))
    assert len(slots.only(torch.tensor([0, 1]), slots.mask())) < len(slots)


def attended(mask, inputs):
    """What attention mixes, and the gradients."""
    leaves = [part.clone().requires_grad_() for part in inputs]
    mixed = attend(*leaves, mask)
    mixed.square().sum().backward()
    return [mixed.detach(), *(leaf.grad for leaf in leaves)]


@pytest.mark.parametrize(("order", "variant"), arms())
@pytest.mark.parametrize("rows", [1, 7, 64])
def test_attention_in_bands_equals_that_under_the_whole_mask(order, variant, rows):
    mask = layout(order, variant)[1].mask()
    bands = cut(mask, rows)
    assert int(mask.sum()) <= bands.pairs <= mask.numel() and (rows > 1 or bands.pairs == int(mask.sum()))
    inputs = torch.randn(3, 2, 1, len(mask), 4, dtype=torch.float64)
    for found, wanted in zip(attended(bands, inputs), attended(mask, inputs), strict=True):
        assert torch.allclose(found, wanted, rtol=0, atol=1e-12)


def test_bands_take_inputs_as_they_lie():
    """PyTorch's kernel for CPUs believes that features lie together."""
    mask = nested([1, 4, 8]).mask()
    lying = torch.randn(3, 2, 2, 8, len(mask)).transpose(3, 4), torch.randn(3, 2, 2, len(mask), 16)[..., ::2]
    for inputs in lying:
        leaves = [part.detach().requires_grad_() for part in inputs]
        for mixed in (attend(*leaves, cut(mask, 5)), attend(*(leaf.contiguous() for leaf in leaves), mask)):
            grads = torch.autograd.grad(mixed.square().sum(), leaves)
            expected = attended(mask, [leaf.detach().contiguous() for leaf in leaves])
            for found, wanted in zip([mixed, *grads], expected, strict=True):
                assert torch.allclose(found, wanted, atol=1e-5)
    q, k, v = torch.randn(3, 1, 2, len(mask), 8)
    assert attend(q, k, v[..., :4].contiguous().requires_grad_(), cut(mask, 5)).shape[-1] == 4
    with torch.autocast("cpu", torch.bfloat16):
        assert attend(q.requires_grad_(), k, v, cut(mask, 5)).dtype == attend(q, k, v, mask).dtype == torch.bfloat16
    with pytest.raises(InputError, match="hides every slot from some"):
        cut(torch.zeros(4, 4, dtype=torch.bool), 2)


def test_bands_are_cut_where_much_is_hidden():
    sizes = [1, 4, 8, 16, 20, 32, 32, 36, 46, 36, 20, 4, 1]
    mask = nested(sizes).mask()
    assert isinstance(bands := banded(mask), Bands) and bands.pairs < mask.numel() / 5
    seen = torch.ones(200, 200, dtype=torch.bool)
    assert banded(seen) is seen


@pytest.mark.gpu
def test_flex_attention_equals_sdpa():
    _, slots = layout("radial", "nested")
    q, k, v = torch.randn(3, 2, 2, len(slots), 32, device="cuda")
    dense = attend(q, k, v, slots.mask().cuda())
    assert torch.allclose(attend(q, k, v, slots.block_mask("cuda")), dense, atol=1e-4)
