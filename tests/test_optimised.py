"""The optimised order: exact gains, a smaller gap than every other order's, sizes as asked for."""

import time
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ablations.cli import main
from ablations.study.prepare import estimate_once
from experiments.configs import find_config
from radar.config.load import load_config
from radar.config.options import Config, DataConfig, OrderConfig
from radar.data import load_data
from radar.decoding.decoding_order import DecodingOrder
from radar.decoding.fields import by_embeddings, by_information
from radar.decoding.groups import group_sizes, step_sizes
from radar.decoding.optimised import _gains, greedy, improve, optimise
from radar.decoding.orders import decode_steps
from radar.decoding.total_correlation import costly_pairs, exponential_covariance, independence_gap, kernel_covariance
from radar.errors import InputError
from radar.scoring.data_field import save_field
from tests.arms import COMPUTED
from tests.command_line import fails


def cost(schur: np.ndarray, first: np.ndarray) -> float:
    """Half the log variances of the first cells, and of the others given those."""
    own, across = schur[np.ix_(first, first)], schur[np.ix_(first, ~first)]
    variance = np.diag(schur)[~first] - (across * np.linalg.solve(own, across)).sum(0)
    return float(0.5 * (np.log(np.diag(own)).sum() + np.log(variance).sum()))


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6), st.integers(2, 9), st.data())
def test_gains_are_those_of_trying(seed, cells, data):
    draws = np.random.default_rng(seed)
    factor = draws.normal(size=(cells, cells + 3))
    schur = factor @ factor.T
    first = np.arange(cells) < data.draw(st.integers(1, cells - 1))
    swaps, removals, additions = _gains(schur, first)

    def tried(*changed: int) -> float:
        other = first.copy()
        other[list(changed)] = ~other[list(changed)]
        return cost(schur, first) - cost(schur, other)

    inner, outer = np.flatnonzero(first), np.flatnonzero(~first)
    for i, a in enumerate(inner):
        for j, b in enumerate(outer):
            assert swaps[i, j] == pytest.approx(tried(a, b), abs=1e-7)
    if len(inner) > 1:
        assert removals == pytest.approx([tried(a) for a in inner], abs=1e-7)
    if len(outer) > 1:
        assert additions == pytest.approx([tried(b) for b in outer], abs=1e-7)


def gap(step: torch.Tensor, field: torch.Tensor) -> float:
    return float(independence_gap(step, field).sum())


@pytest.mark.parametrize(("length", "steps"), [(1.5, 13), (4.0, 9), (4.0, 31), (10.0, 13)])
def test_smaller_gap_than_every_other_order(length, steps):
    field = exponential_covariance(16, 16, length)
    gaps = {
        name: gap(decode_steps(OrderConfig(name, steps=steps, schedule="cosine"), 16, 16), field)
        for name in COMPUTED
        if name != "optimised"
    }
    for schedule in ("cosine", None):  # sizes by the schedule, and free
        order = OrderConfig("optimised", steps=steps, schedule=schedule, length=length)
        step = decode_steps(order, 16, 16)
        assert len(step_sizes(step)) == steps
        assert gap(step, field) < 0.75 * min(gaps.values()), (gap(step, field), gaps)
        if steps == 13:
            assert gap(step, field) < 0.5 * gaps["halton"]


def fields() -> dict[str, torch.Tensor]:
    """Covariances of both data sets, 8x8 cells: of grey levels, and of the mean colours of 4x4 pixels."""
    made = {}
    for name, config in {"digits": DataConfig("digits"), "shapes": DataConfig("shapes", images=1000)}.items():
        split = load_data(config).train
        images, labels = zip(*(split[i] for i in range(1000)), strict=True)
        pixels = torch.stack(images).double()
        codes = torch.nn.functional.avg_pool2d(pixels, pixels.shape[-1] // 8).flatten(2).transpose(1, 2)
        for what, kept in (("class", torch.tensor(labels)), ("nothing", None)):
            made[f"{name} given {what}"] = torch.from_numpy(by_embeddings(codes[..., 0], codes, kept, (8, 8)))
    return made


def test_smaller_gap_on_fields_of_real_images():
    for name, field in fields().items():
        for steps in (7, 9, 13, 31):
            sizes = group_sizes(64, steps, "cosine")
            best = gap(torch.from_numpy(optimise(field.numpy(), sizes)), field)
            for other in COMPUTED:
                step = decode_steps(OrderConfig(other, steps=steps, schedule="cosine"), 8, 8)
                assert best < (0.5 if (steps, other) == (13, "halton") else 1) * gap(step, field), (name, steps, other)


def test_sizes_are_those_of_the_schedule_and_the_same_every_time():
    order = OrderConfig("optimised", steps=7, schedule="linear")
    step = decode_steps(order, 6, 9)
    assert step_sizes(step) == group_sizes(54, 7, "linear")
    sizes = group_sizes(54, 7, "linear")
    assert np.array_equal(optimise(exponential_covariance(6, 9).numpy(), sizes), step.numpy())


def test_local_search_never_loses():
    field = exponential_covariance(8, 8)
    sizes = group_sizes(64, 5, "cosine")
    for free in (False, True):
        groups = greedy(field.numpy(), sizes, 0.0)
        before, after = [group.copy() for group in groups], groups
        improve(field.numpy(), after, free)
        gaps = []
        for made in (before, after):
            step = torch.empty(64, dtype=torch.long)
            for k, group in enumerate(made):
                step[group] = k
            gaps.append(gap(step, field))
        assert gaps[1] < gaps[0]
        assert free or [len(group) for group in after] == sizes


def test_nearness_trades_the_gap_for_the_context():
    field, close, gaps = exponential_covariance(12, 12), [], []
    for nearness in (0.0, 0.1, 1.0):
        step = decode_steps(OrderConfig("optimised", steps=12, schedule="cosine", nearness=nearness), 12, 12)
        grid = torch.nn.functional.pad(step.view(1, 1, 12, 12).double(), (1, 1, 1, 1), value=99)
        earliest = -torch.nn.functional.max_pool2d(-grid, 3, 1).flatten()
        close.append(float((earliest < step)[step > 0].double().mean()))
        gaps.append(gap(step, field))
    assert close[0] < min(close[1:]), "more cells beside known ones"
    assert gaps == sorted(gaps), "at the price of a larger gap"


def test_large_grids_take_seconds():
    began = time.process_time()
    step = decode_steps(OrderConfig("optimised", steps=13, schedule="cosine"), 32, 32)
    assert len(step_sizes(step)) == 13 and time.process_time() - began < 60


def test_a_field_from_a_file(tmp_path):
    field = exponential_covariance(4, 4, 1.0).numpy()
    np.savez(tmp_path / "field.npz", covariance=field)
    order = OrderConfig("optimised", steps=4, schedule="cosine", covariance=str(tmp_path / "field.npz"))
    assert torch.equal(decode_steps(order, 4, 4), torch.from_numpy(optimise(field, group_sizes(16, 4, "cosine"))))
    np.savez(tmp_path / "flat.npz", covariance=np.ones((16, 16)))
    for path, grid, message in (
        ("field.npz", (4, 5), "is of 16 cells, not of a 4x5 grid"),
        ("none.npz", (4, 4), "holds no covariance"),
        ("flat.npz", (4, 4), "holds no covariance"),
    ):
        with pytest.raises(InputError, match=message):
            decode_steps(OrderConfig("optimised", covariance=str(tmp_path / path)), *grid)
    with pytest.raises(InputError, match="length=2 has no effect"):
        decode_steps(OrderConfig("optimised", length=2.0, covariance=str(tmp_path / "field.npz")), 4, 4)
    with pytest.raises(InputError, match="length=-1"):
        decode_steps(OrderConfig("optimised", length=-1.0), 4, 4)


def gaussian_tokens(field: torch.Tensor, images: int, codes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw a field and cut its values into equally likely codes: tokens (M, N), values (M, N, 1)."""
    draws = torch.randn(images, len(field), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    values = draws @ torch.linalg.cholesky(field).T
    ends = values.flatten().quantile(torch.arange(1, codes, dtype=torch.float64) / codes)
    return torch.bucketize(values, ends), values[..., None]


@pytest.mark.parametrize("estimate", [by_embeddings, by_information])
def test_estimates_find_the_field_that_tokens_come_from(estimate):
    field = kernel_covariance("matern32", 4, 5, 2.0)
    tokens, values = gaussian_tokens(field, 20_000, 12)
    labels = torch.arange(len(tokens)) % 2
    for kept in (None, labels):
        found = estimate(tokens, values, kept, (4, 5))
        assert np.abs(found - field.numpy()).max() < 0.06
        assert np.linalg.eigvalsh(found).min() > 0


def test_classes_explain_what_they_share():
    labels = torch.arange(2000) % 2
    codes = labels[:, None, None] * 3.0 + torch.randn(2000, 6, 1, generator=torch.Generator().manual_seed(0))
    pooled, given = (by_embeddings(codes[..., 0], codes, kept, (2, 3)) for kept in (None, labels))
    assert pooled[0, 1] > 0.6 and abs(given[0, 1]) < 0.05


def test_costly_pairs_are_in_one_step_and_add_up_for_groups_of_two():
    field = exponential_covariance(3, 4)
    step = decode_steps(OrderConfig("random", steps=6), 3, 4)
    pairs = costly_pairs(step, field, 6)
    assert all(step[p.first] == step[p.second] == p.step for p in pairs)
    assert sum(p.nats for p in pairs) == pytest.approx(gap(step, field), abs=1e-9)
    assert [p.nats for p in pairs] == sorted((p.nats for p in pairs), reverse=True)


def test_where_nothing_varies_cells_are_independent():
    codes = torch.full((5, 6, 2), 0.5)
    field = by_embeddings(codes[..., 0], codes, torch.arange(5), (2, 3))
    assert (field == np.eye(6)).all()


def sampled(config: Config) -> str:
    return DecodingOrder(config, (8, 8)).sampled_digest(config.sample)


def test_fields_are_known_by_what_they_hold(tmp_path):
    """Estimated once; another one in its place is refused, and names another result of sampling."""
    path = tmp_path / "field.npz"
    options = ["attention=plain", "train.permutations=random", f"sample.order=optimised:covariance={path}"]
    config = load_config(find_config("digits"), [*options, f"data.cache={tmp_path}"])
    estimate_once(config, "embeddings", path)
    before, written = sampled(config), path.stat().st_mtime_ns
    estimate_once(config, "embeddings", path)
    assert path.stat().st_mtime_ns == written
    save_field(torch.eye(64), path, "elsewhere")
    assert sampled(config) != before, "also in the same process"
    with pytest.raises(InputError, match=r"field of another origin \(elsewhere, here embeddings of digits"):
        estimate_once(config, "embeddings", path)


def test_the_gap_verb(tmp_path, capsys):
    """From digits to a saved field, and from there to the order that is made for it."""
    field, picture = tmp_path / "field.npz", tmp_path / "gap.png"
    shared = ["--from-data", "digits", f"data.cache={tmp_path}", "--out", str(picture)]
    main(["gap", *shared, "--steps", "7", "--save", str(field)])
    shown = capsys.readouterr().out
    main(["gap", *shared, "--orders", f"optimised:steps=7:schedule=cosine:covariance={field}"])
    again = capsys.readouterr().out
    values = [next(line for line in text.splitlines() if line.startswith("optimised")) for text in (shown, again)]
    assert values[0].split()[-10:] == values[1].split()[-10:], "the same gaps and pairs"
    assert "given the class" in shown and picture.exists()
    torn = tmp_path / "torn.npz"
    torn.write_bytes(field.read_bytes()[:2000])
    assert "holds no covariance" in fails(capsys, "gap", "--orders", f"optimised:covariance={torn}", "--grid", "8x8")
    main(["gap", "--grid", "8x8", "--out", str(picture), "--steps", "7", "--orders", "halton,radial:steps=5"])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    names = ("halton:steps=7:schedule=cosine", "radial:steps=5")
    assert [row[1] for row in rows if row[0] in names] == ["7", "5"], "--steps for the others"
    for options, message in (
        (["--pooled"], "--pooled has no effect without --from-data"),
        (["order.steps=7"], "order.steps=7 has no effect without --from-data"),
        (["--from-data", "digits", "--grid", "4x4"], "--grid has no effect with --from-data"),
        (["--from-data", "digits", "train.max_steps=5"], "train.max_steps=5 has no effect with --from-data"),
        (["--orders", "halton:steps=7,radial:steps=5", "--steps", "9"], "--steps 9 has no effect"),
        (["--from-data", "digits", "--images", "1"], "cannot be estimated from 1 images"),
        (["--orders", "halton", "--steps", "0"], "steps=0 is not possible"),
        (["--steps", "0"], "steps=0 is not possible"),
        (["--orders", "halton:steps=x"], "order.steps=x is not possible"),
        (["--kernel", "gauss"], "unknown kernel 'gauss'; choose from: exponential"),
        (["--from-data", "digits", "--estimate", "guess"], "unknown estimator 'guess'"),
    ):
        assert message in fails(capsys, "gap", *options)


def test_the_gap_verb_says_what_it_cuts(tmp_path, capsys):
    """Natural rings and seven groups of cosine sizes are two orders: 4.39 and 4.78 nats."""

    def gaps(*options: str) -> dict[str, tuple[float, str]]:
        main(["gap", "--grid", "8x8", "--out", str(tmp_path / "x.png"), *options])
        lines = [line.split() for line in capsys.readouterr().out.splitlines()]
        return {one[0]: (float(one[2]), " ".join(two[1:])) for one, two in pairwise(lines) if two[0] == "sizes:"}

    natural, cut = gaps("--orders", "radial"), gaps("--orders", "radial", "--steps", "7")
    assert natural == {"radial": (pytest.approx(4.39, abs=0.005), "1 4 8 16 18 16 1")}
    assert cut["radial:steps=7:schedule=cosine"][0] == pytest.approx(4.776, abs=0.005)
    listed = gaps("--orders", "radial,spiral_out:sizes=[32,32]")
    assert listed["spiral_out:sizes=[32,32]"][1] == "32 32" and len(listed) == 2
    assert "--steps 7 has no effect" in fails(capsys, "gap", "--orders", "halton:sizes_of=radial", "--steps", "7")
    steps = np.stack([np.random.default_rng(i).permutation(np.arange(64) // 8) for i in range(3)])
    np.save(tmp_path / "each.npy", steps)
    (each,) = gaps("--orders", f"file:path={tmp_path / 'each.npy'}").values()
    alone = [gap(torch.from_numpy(one), exponential_covariance(8, 8)) for one in steps]
    assert each[0] == pytest.approx(sum(alone) / 3, abs=0.001)
