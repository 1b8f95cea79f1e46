"""Costs on paper equal counted ones; a benchmark is what it says."""

import functools
import itertools
import json

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ablations.cli import main
from radar.attention import VARIANTS
from radar.config.options import Config, ModelConfig, OrderConfig
from radar.config.sampling import SampleConfig
from radar.decoding.groups import decode_permutation, step_sizes
from radar.decoding.orders import decode_steps
from radar.errors import InputError
from radar.model import kv_cache as cache
from radar.model.blocks import model_shape
from radar.model.conditioning import CONDITIONING
from radar.model.trunks import TRUNKS
from radar.sampling.cost import Cost, sampling_cost, weight_count
from radar.sampling.passes import plan_passes
from radar.sampling.sampler import sample_tokens
from radar.timing import bench as run
from radar.timing.scaling import check_scaling
from radar.timing.works import Work
from radar.training.generator import GeneratorModule
from tests.arms import VOCABULARY, arms, layout, small_model
from tests.command_line import fails

LABELS = torch.tensor([0, 2, 1])


SOME = [(*arm, 0, "token") for arm in arms() if arm[0] in ("radial", "halton in 5")]
SOME += [("raster", variant, 0, "token") for variant in ("causal", "nested")]
SOME += [("radial", "plain", 2, "token"), ("halton in 5", "plain", 2, "adaln"), ("radial", "nested", 0, "adaln")]
SOME = [(*arm, "llama") for arm in SOME] + [
    ("radial", "nested", 0, "adaln", "vit"),
    ("radial", "plain", 2, "token", "vit"),
]


@pytest.mark.parametrize(("order", "variant", "query_layers", "conditioning", "trunk"), SOME)
@pytest.mark.parametrize("correction", [0.0, 0.5])
def test_operations_on_paper_are_those_that_are_done(
    order, variant, query_layers, conditioning, trunk, correction, monkeypatch
):
    monkeypatch.setattr(cache, "kernels", lambda: None)  # which PyTorch could not count
    step, slots = layout(order, variant)
    model = small_model(slots, query_layers, conditioning, trunk=trunk)
    passes = plan_passes(slots, correction > 0, candidates=correction > 0)
    settings = SampleConfig(correction=correction)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        sample_tokens(model, passes, decode_permutation(step), LABELS, settings, range(3))
    assert counter.get_total_flops() == sampling_cost(model.shape, VOCABULARY, passes, 3).flops


def test_weights_on_paper():
    for query_layers, conditioning, trunk in itertools.product((0, 2), CONDITIONING, TRUNKS):
        model = small_model(query_layers=query_layers, conditioning=conditioning, trunk=trunk)
        names = ("blocks", "query_blocks", "memory", "head", "conditioning")
        used = sum(p.numel() for name, p in model.named_parameters() if p.ndim == 2 and name.startswith(names))
        assert weight_count(model.shape, VOCABULARY) == used


@pytest.mark.parametrize(("order", "variant"), [("raster", "causal"), ("radial", "plain"), ("radial", "relay")])
def test_every_slot_is_encoded_once_and_the_cache_never_grows(order, variant, monkeypatch):
    """The guard against slow sampling that is not a timed test."""
    step, slots = layout(order, variant)
    model, encoded, buffers = small_model(), [], set()
    forward, extend = model.forward, cache.extend

    def counted(part, *args, **more):
        encoded.append(len(part))
        return forward(part, *args, **more)

    def watched(buffer, start, layer, k, v):
        buffers.add(buffer.data_ptr())
        keys, values = extend(buffer, start, layer, k, v)
        assert keys.untyped_storage().data_ptr() == buffer.untyped_storage().data_ptr(), "a view, not a copy"
        return keys, values

    monkeypatch.setattr(model, "forward", counted)
    monkeypatch.setattr(cache, "extend", watched)
    sample_tokens(model, plan_passes(slots, False), decode_permutation(step), LABELS, SampleConfig(), range(3))
    assert len(encoded) == int(step.max()) + 1 and sum(encoded) == len(slots) and len(buffers) == 1


def test_bench(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(run, "rates_of", functools.cache(run.rates_of))  # before and after each timing, else
    small = ["--grid", "4x4", "--vocabulary", "32", "--classes", "3", "--repeats", "2", "model.preset=tiny"]
    kinds = ["sample", "decode", "train", "load", "metrics"]
    arguments = ["--arms", "raster/causal,halton:steps=4:schedule=cosine/nested:rings=1", "--what", ",".join(kinds)]
    arguments += ["--batch", "1,2"]
    main(["bench", *small, *arguments, "--guidance", "1,2", "--out", str(tmp_path / "a.json")])
    redrawn = ["--what", "train", "--arms", "random/plain", "--batch", "2", "train.permutations=random"]
    main(["bench", *small, *redrawn, "--out", str(tmp_path / "redrawn.json")])
    found = json.loads((tmp_path / "a.json").read_text())
    assert "--guidance 3 has no effect on train" in fails(capsys, "bench", *small, "--what", "train", "--guidance", "3")
    assert [sum(row["what"] == what for row in found["rows"]) for what in kinds] == [8, 8, 4, 2, 2]
    assert found["gflops_per_s"] > 0 and found["copy_gbytes_per_s"] > 0
    assert {row["steps"] for row in found["rows"]} == {16, 4, None}
    assert all(row["over_floor"] > 0 and row["seconds"] > 0 for row in found["rows"])
    once, twice = (next(r for r in found["rows"] if r["guidance"] == scale) for scale in (1, 2))
    assert twice["flops_per_image"] == 2 * once["flops_per_image"], "guidance doubles the work, and only where it is on"
    assert (tmp_path / "a.png").exists()
    plain = [row for row in found["rows"] if row["what"] == "sample" and row["guidance"] == 1]
    (tmp_path / "b.json").write_text(json.dumps(found | {"rows": plain}))
    capsys.readouterr()
    main(["bench", "--compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")])
    assert len(capsys.readouterr().out.splitlines()) == 1 + 4, "those that both have: two arms, two batches"
    other = tmp_path / "other.json"
    other.write_text(json.dumps(found | {"threads": 7}))
    main(["bench", "--compare", str(tmp_path / "a.json"), str(other)])
    assert capsys.readouterr().out.startswith(f"different threads: {found['threads']} and 7\n")
    other.write_text(json.dumps(found | {"rows": []}))
    assert "have no row in common" in fails(capsys, "bench", "--compare", tmp_path / "a.json", other)


def test_scaling_is_predicted_from_the_other_grids():
    """Times that follow the model are predicted; one that does not is named."""
    per_term = {"products": 1e-11, "attention": 3e-11, "bytes": 1e-10, "passes": 1e-3}
    rows = []
    for side in (4, 6, 8):
        for order, variant in (("raster", "causal"), ("radial", "plain"), ("radial", "nested"), ("halton", "plain")):
            passes = plan_passes(
                VARIANTS[variant](step_sizes(decode_steps(OrderConfig(name=order), side, side))), False
            )
            cost = vars(sampling_cost(model_shape(ModelConfig()), 64, passes, 4))
            seconds = sum(rate * cost[term] for term, rate in per_term.items())
            row = {"what": "sample", "arm": f"{order}/{variant}", "grid": f"{side}x{side}", "batch": 4}
            rows.append(row | {"cost": cost, "seconds": 2 * seconds, "images_per_s_max": 4 / seconds})
    assert "12 of 12 within 25%" in check_scaling(rows) and "100.0 GFLOP/s" in check_scaling(rows)
    rows[-1]["images_per_s_max"] /= 2
    assert "11 of 12 within 25%" in check_scaling(rows)
    assert check_scaling(rows[:8]) == "", "two grids predict nothing"


def test_largest_batch(monkeypatch):
    """What grows by 1 MB per image fits 512 times into 80% of 1 GB."""
    monkeypatch.setattr(run, "sample", lambda module, batch: Work(lambda: batch, Cost(0, 0, 2.0, 2)))
    monkeypatch.setattr(run, "peak_bytes", lambda device, call: 5e8 + 1e6 * call())
    monkeypatch.setattr(run, "free_bytes", lambda device: 1e9)
    module = GeneratorModule(Config(), 17, 10, (4, 4))
    assert run.largest_batch(module) == 512
    assert run.largest_batch(module, 3) == 256, "three at once"
    monkeypatch.setattr(run, "free_bytes", lambda device: None)
    with pytest.raises(InputError, match="--batch max is not possible"):
        run.largest_batch(module)


def test_bad_benchmarks(tmp_path, capsys):
    out = ("--out", tmp_path / "x.json")
    assert "'radial' is not of the form order/variant" in fails(capsys, "bench", "--arms", "radial", *out)
    assert "unknown order 'radal'" in fails(capsys, "bench", "--arms", "radal/plain", *out)
    assert "--batch 0 is not possible" in fails(capsys, "bench", "--batch", "0", *out)
    assert "--batch x is not a list of numbers" in fails(capsys, "bench", "--batch", "x", *out)
    assert "'sample.guidance=2' is set by --guidance" in fails(capsys, "bench", "sample.guidance=2", *out)
    assert "'order.name=halton' is set by --arms" in fails(capsys, "bench", "order.name=halton", *out)
    for flag in ("--repeats", "--threads", "--vocabulary", "--classes"):
        assert f"{flag} 0 is not possible" in fails(capsys, "bench", flag, "0", *out)
    assert "--batch max with --what train" in fails(capsys, "bench", "--what", "train", "--batch", "max", *out)
    assert "unknown kind of work 'smaple'" in fails(capsys, "bench", "--what", "smaple", *out)
    assert "'train.lr=1' does not change a benchmark" in fails(capsys, "bench", "train.lr=1", *out)
    assert "is not a result of this radar bench" in fails(capsys, "bench", "--compare", tmp_path / "a", tmp_path / "b")
    compared = ("bench", "--compare", tmp_path / "a", tmp_path / "b")
    assert "--batch has no effect with --compare" in fails(capsys, *compared, "--batch", "4")
    assert "model.dim=8 has no effect with --compare" in fails(capsys, *compared, "model.dim=8")
    assert not (tmp_path / "x.json").exists()
