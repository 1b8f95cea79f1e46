"""Tokens of several scales, and VAR over them: sums, features of lower scales alone, one run from images to a row."""

import itertools
import json

import pytest
import torch
from vector_quantize_pytorch import VectorQuantize

from ablations.cli import main
from radar.config.load import to_config
from radar.config.options import OrderConfig, TokenizerConfig
from radar.config.sampling import SampleConfig
from radar.data.batches import Batch
from radar.decoding.groups import step_sizes
from radar.decoding.orders import decode_steps
from radar.errors import InputError
from radar.kernels import cuda_graphs
from radar.sampling.sampler import ready_to_sample, sample_tokens
from radar.tokenizers import build_tokenizer, normalise
from radar.tokenizers.multiscale import Multiscale, Pyramid
from radar.training.generators import generator_builder
from radar.training.layouts import LAYOUTS
from tests.command_line import fails

SIDES = [1, 2, 3, 4]
IMAGES = torch.randint(256, (6, 3, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def tokenizer(sides=SIDES, downsample=2) -> Multiscale:
    torch.manual_seed(0)
    config = TokenizerConfig(name="multiscale", codebook=16, width=8, downsample=downsample, sides=list(sides))
    made = build_tokenizer(config)
    made.train()(IMAGES)  # the codebook begins with what it sees
    return made.eval()


def test_decoding_all_scales_is_the_sum_that_encoding_found():
    made = tokenizer()
    latents = made.encoder(normalise(IMAGES)).flatten(2).mT
    quantised, tokens, _ = made.quantiser(latents)
    *_, total = made.quantiser.sums(tokens)
    assert tokens.shape == (6, 1 + 4 + 9 + 16) == (6, made.grid((8, 8))[1])
    assert torch.allclose(total.flatten(2).mT, quantised, atol=1e-5)
    assert torch.equal(made.encode(IMAGES), tokens)
    assert torch.equal(
        made.decode_known(tokens, torch.ones_like(tokens, dtype=torch.bool), (1, 30)), made.decode(tokens, (1, 30))
    )


def test_every_scale_brings_the_sum_nearer():
    """Of a pyramid that has learned a little."""
    torch.manual_seed(0)
    made = tokenizer().train()
    optimizer = torch.optim.Adam(made.parameters(), 1e-2)
    for _ in range(40):
        restored, _, loss = made(IMAGES)
        (torch.nn.functional.mse_loss(restored, normalise(IMAGES)) + loss).backward()
        optimizer.step()
        optimizer.zero_grad()
    made.eval()
    latents, sums = made.encoder(normalise(IMAGES)), made.quantiser.sums(made.encode(IMAGES))
    errors = [float((latents - total).detach().square().mean()) for total in sums]
    assert len(errors) == 5 and all(after < before for before, after in itertools.pairwise(errors)), errors


@pytest.mark.parametrize("training", [True, False])
def test_one_scale_is_vq(training):
    torch.manual_seed(0)
    options = {"dim": 8, "codebook_size": 16, "kmeans_init": False, "decay": 0.9, "commitment_weight": 0.25}
    quantiser, x = VectorQuantize(**options), torch.randn(3, 16, 8)
    same = VectorQuantize(**options)
    same.load_state_dict(quantiser.state_dict())
    quantised, tokens, loss = quantiser.train(training)(x)
    found, also, own = Pyramid(same, [4], 8).train(training)(x)
    assert torch.equal(tokens, also) and torch.allclose(found, quantised, atol=1e-6)
    if training:
        assert float(own) == pytest.approx(float(loss), rel=1e-5)
        assert torch.allclose(same._codebook.embed, quantiser._codebook.embed), "the codebook moves alike"


def test_features_are_those_of_lower_scales():
    made = tokenizer()
    tokens = torch.randint(16, (2, 30), generator=torch.Generator().manual_seed(1))
    features, ends = made.quantiser.features(tokens), [0, 1, 5, 14, 30]
    assert not features[:, :1].any(), "nothing is known before the first"
    for k in range(4):
        other = tokens.clone()
        other[:, ends[k] :] = (other[:, ends[k] :] + 1) % 16
        again = made.quantiser.features(other)
        assert torch.equal(again[:, : ends[k + 1]], features[:, : ends[k + 1]]), "of its own and higher scales, nothing"
        assert k == 3 or not torch.equal(again[:, ends[k + 1] :], features[:, ends[k + 1] :])
        assert torch.equal(made.quantiser.features(tokens, ends[k] + 1), features[:, : ends[k + 1]])
    assert torch.equal(made.quantiser.features(tokens[:1]), features[:1]), "to the bit, alone or in company"
    sums = list(made.quantiser.sums(tokens))
    mean = sums[1].flatten(2).mT.view(2, 2, 2, 2, 2, 8).mean((2, 4))  # 4x4 in squares of 2x2
    assert torch.allclose(features[:, 1:5], mean.flatten(1, 2), atol=1e-5)


def test_the_encoder_learns_through_it():
    made = tokenizer().train()
    restored, _, loss = made(IMAGES)
    (restored.square().mean() + loss).backward()
    unused = [name for name, weight in made.named_parameters() if weight.grad is None]
    assert not unused, "encoder, decoder and smoothers"


@pytest.mark.parametrize(
    ("sides", "cells"), [(None, (1, 1 + 4 + 9 + 16 + 25 + 49 + 64)), (None, (1, 680)), ([1, 2, 3, 4], (1, 30))]
)
def test_scales_are_an_order(sides, cells):
    step = decode_steps(OrderConfig(name="scales", sides=sides), *cells)
    sizes = step_sizes(step)
    assert sizes[0] == 1 and sizes[-1] in (16, 64, 256) and torch.equal(step, step.sort().values)


@pytest.mark.parametrize(
    ("order", "cells", "message"),
    [
        (OrderConfig(name="scales"), (8, 8), "order 'scales' is not possible on 8x8 cells"),
        (OrderConfig(name="scales", sides=[1, 4]), (1, 30), r"order.sides=\[1, 4\] is not possible on 1x30 cells"),
    ],
)
def test_bad_scales(order, cells, message):
    with pytest.raises(InputError, match=message):
        decode_steps(order, *cells)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention": "plain"}, "choose block_causal"),
        ({"train": {"permutations": "random"}}, "train.permutations=random is not possible with scales"),
        ({"model": {"query_share": 0.5}}, "model.query_share needs an attention whose tokens"),
        ({"sample": {"steps": 2}}, "in groups of 15 15 is not that of"),
        ({"order": {"name": "raster", "steps": 4}}, "order 'raster' in groups of 8 7 7 8"),
    ],
)
def test_what_does_not_fit_is_refused(options, message):
    config = to_config({"method": "var"} | options)
    with pytest.raises(InputError, match=message):
        generator_builder(config)(config, tokenizer(), 3, (1, 30), planned=True)
    flat = to_config({"attention": "block_causal"})
    with pytest.raises(InputError, match=r"needs tokenizer\.name=multiscale"):
        generator_builder(flat)(flat, build_tokenizer(TokenizerConfig()), 3, (4, 4), planned=True)


def scrambled():
    """VAR with random weights, and its config."""
    config = to_config({"method": "var", "model": {"dim": 32, "layers": 2, "heads": 2}, "order": {"sides": SIDES}})
    module = generator_builder(config)(config, tokenizer(), 3, (1, 30)).eval()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return module, config


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_gpu_draws_scales_recorded(precision):
    """What slots are told is read inside the recording."""
    module, labels = scrambled()[0].cuda(), torch.tensor([0, 1, 2, 0], device="cuda")
    settings = SampleConfig(guidance=1.5, seed=2, precision=precision)
    passes, permutation = module.passes(settings), module.order.permutation.cuda()

    def draw(first):
        return sample_tokens(module.model, passes, permutation, labels, settings, range(first, first + 4))

    expected = [draw(first) for first in (0, 4)]
    with ready_to_sample(module.model, settings):
        for first in (0, 4, 0):
            same = (draw(first) == expected[first // 4]).float().mean()
            assert same >= (0.9 if precision == "bf16-mixed" else 1)
        assert [type(work) for work in cuda_graphs._works[module.model].values()] == [cuda_graphs.Recording]


def test_the_sampler_is_the_trained_model():
    """Teacher-forced NLL is that of the passes one by one, with the cache; images do not depend on their company."""
    module, config = scrambled()
    tokens, labels = torch.randint(16, (5, 30)), torch.tensor([0, 1, 2, 3, 0])
    found = torch.zeros(5, dtype=torch.float64)

    def forced(each, logits, current, noise):
        right = tokens[:, each.targets]
        found.sub_(logits.log_softmax(-1).gather(-1, right[..., None])[..., 0].double().sum(1))
        return right, torch.ones_like(right, dtype=torch.bool)

    passes, settings = module.passes(config.sample), SampleConfig(guidance=1.5, seed=2)
    sample_tokens(module.model, passes, module.order.permutation, labels, config.sample, range(5), rule=forced)
    with torch.no_grad():
        assert torch.allclose(module.nll(tokens, labels), found, rtol=1e-5) and len(passes) == 4
    with module.ready_to_draw(settings) as draw:
        whole = draw(labels, range(5))
        assert torch.equal(whole, torch.cat([draw(labels[i : i + 1], [i]) for i in range(5)]))


def test_the_sampled_layout_estimates_the_packed_loss(monkeypatch):
    """Averaged over all single scales, its loss is that of all in one sequence."""
    config = to_config({"method": "var", "model": {"dim": 16, "layers": 1, "heads": 1, "label_dropout": 0.0}})
    module = generator_builder(config)(config, tokenizer(), 3, (1, 30))
    torch.nn.init.normal_(module.model.head.weight)
    batch = Batch(0, torch.randint(16, (4, 30)), torch.arange(4) % 3, torch.arange(4))
    packed, config.train.layout_steps = float(module.training_step(batch, 0).detach()), 1
    module.layout, losses = LAYOUTS["sampled"], []
    for scale in range(4):
        monkeypatch.setattr(torch, "randperm", lambda count, scale=scale: torch.tensor([scale]))
        losses.append(float(module.training_step(batch, 0).detach()))
    assert sum(losses) / 4 == pytest.approx(packed, rel=1e-5) and len(set(losses)) == 4


def test_sides_must_fit(tmp_path, capsys):
    with pytest.raises(InputError, match="16x16 pixels are 8x8 cells, and the sides are"):
        tokenizer().grid((16, 16))
    wrong = ["tokenizer.name=multiscale", "tokenizer.levels=null", "tokenizer.sides=[2,1]"]
    line = fails(capsys, "tokenizer", "digits", *wrong, f"tokenizer.checkpoint={tmp_path}/last.ckpt")
    assert "two at least, growing" in line
    (tmp_path / "own.yaml").write_text("tokenizer: {name: levels, levels: 17}")
    line = fails(capsys, "train", tmp_path / "own.yaml", "method=var", f"run={tmp_path / 'run'}")
    assert "order 'scales' is not possible on 8x8 cells: those of a tokenizer 'multiscale' expected" in line
    wrong[-1], cache = "tokenizer.sides=[1,2,3]", f"data.cache={tmp_path}"
    line = fails(capsys, "tokenizer", "digits", *wrong, cache, f"tokenizer.checkpoint={tmp_path}/last.ckpt")
    assert "and the sides are" in line
    averages = ["tokenizer.name=multiscale", "tokenizer.levels=null", f"tokenizer.checkpoint={tmp_path}/last.ckpt"]
    assert "averages of whole batches" in fails(capsys, "tokenizer", "digits", *averages, "train.micro_batch=4")


def test_from_images_to_a_row(tmp_path, capsys):
    checkpoint, run = tmp_path / "tokenizer" / "last.ckpt", tmp_path / "run"
    pyramid = [
        "tokenizer.name=multiscale",
        "tokenizer.levels=null",
        "tokenizer.sides=[1,2,4]",
        "tokenizer.downsample=2",
    ]
    pyramid += ["tokenizer.width=8", "tokenizer.codebook=16", f"tokenizer.checkpoint={checkpoint}"]
    pyramid += [f"data.cache={tmp_path}"]
    main(["tokenizer", "digits", *pyramid, "train.max_steps=4", "train.batch_size=16"])
    small = ["model.dim=16", "model.heads=1", "model.layers=1", "train.max_steps=4", "train.batch_size=8"]
    main(["train", "digits", "method=var", f"run={run}", *pyramid, *small, "sample.guidance=1.5"])
    main(["evaluate", str(run / "last.ckpt"), "evaluate.images=60", "evaluate.timing_repeats=1"])
    row = json.loads((run / "evaluation.json").read_text())
    assert row["steps"] == 3 and row["group_sizes"] == [1, 4, 16] and row["nll"] > 0 and row["gap"] is None
    main(["plan", "digits", "method=var", *pyramid, *small])
    main(["sample", str(run / "last.ckpt"), "sample.images=10"])
    assert (run / "samples" / "film.gif").exists()
    capsys.readouterr()
    assert "not those of scales" in fails(capsys, "edit", run / "last.ckpt")
    assert "in groups of 10 11 is not that of" in fails(capsys, "sample", run / "last.ckpt", "sample.steps=2")
    assert "sample.grid=[8, 8] is not possible" in fails(capsys, "sample", run / "last.ckpt", "sample.grid=[8,8]")
