"""Diffusion: the equations, exact sampling where the answer is known, and one run from images to a row."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ablations.cli import main
from radar.config.load import to_config
from radar.config.options import ModelConfig
from radar.config.sampling import SampleConfig
from radar.config.training import DiffusionConfig
from radar.data.token_arrays import TokenSplit
from radar.diffusion.denoiser import Denoiser
from radar.diffusion.process import Chain
from radar.diffusion.solvers import ImageNoise, denoise, guided
from radar.diffusion.spaces import Codes, Vectors
from radar.scoring.samples import draw_samples
from radar.training.checkpoints import load_generator
from radar.training.diffusion import DiffusionModule
from tests.command_line import fails

CONFIG = DiffusionConfig()
CHAIN = Chain.whole(CONFIG)
CODES = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
MEAN, DEVIATION = 0.7, 0.5


def module(**options: object) -> DiffusionModule:
    torch.manual_seed(0)
    config = to_config({"method": "dit", "model": {"dim": 16, "layers": 2, "heads": 2}} | options)
    return DiffusionModule(config, Codes(CODES), 3, (4, 5))


class Exact:
    """What the best network would say of independent numbers from a Gaussian: noise, and the variance of the step."""

    angles, channels, classes = torch.empty(1, 1, 4, 1, 2), 2, 3

    def __init__(self, chain: Chain) -> None:
        self.chain = chain

    def __call__(self, x, time, labels):
        k = torch.searchsorted(self.chain.times, time)
        signal = self.chain.signal[k].float()[:, None, None]
        total = signal * DEVIATION**2 + 1 - signal
        clean = MEAN + DEVIATION**2 * signal.sqrt() / total * (x - signal.sqrt() * MEAN)
        noise = (x - signal.sqrt() * clean) / (1 - signal).sqrt()
        # The step back has the variance given the clean number, and that of the clean number through its weight.
        weight = (self.chain.mean_before(torch.ones_like(x), torch.zeros_like(x), k)).square()
        least, largest = (each[k].float()[:, None, None] for each in self.chain.log_variances)
        variance = least.exp() + weight * DEVIATION**2 * (1 - signal) / total
        return torch.cat([noise, 2 * (variance.log() - least) / (largest - least) - 1], -1)


@pytest.mark.parametrize(("solver", "passes"), [("ancestral", 10), ("ancestral", 250), ("ddim", 50), ("ddim", 250)])
def test_an_exact_network_draws_the_gaussian(solver, passes):
    chain, images = CHAIN.respaced(passes), range(2000)
    settings = SampleConfig(solver=solver, passes=passes)
    *_, (x, _) = denoise(Exact(chain), chain, torch.zeros(2000, dtype=torch.long), settings, images)
    count, off = (
        x.numel(),
        0.02 if solver == "ddim" else 0.005,
    )  # what the steps of an ODE miss; what the last level adds
    assert abs(float(x.mean()) - MEAN) < 4 * DEVIATION / math.sqrt(count) + off
    assert abs(float(x.std()) - DEVIATION) < 4 * DEVIATION / math.sqrt(2 * count) + off
    assert abs(float(((x - MEAN) ** 3).mean())) < 0.02, "and no skew"


def test_the_step_back_is_bayes():
    """Prior at the level before times likelihood of the noisy number, also where levels are left out."""
    for chain in (CHAIN, CHAIN.respaced(25)):
        k, clean, x = torch.tensor([7]), torch.full((1, 1, 1), 0.4), torch.full((1, 1, 1), -0.9)
        prior = Normal(chain.before[7].sqrt() * 0.4, (1 - chain.before[7]).sqrt())
        z = torch.linspace(-6, 6, 200_001, dtype=torch.float64)
        density = (prior.log_prob(z) + Normal((1 - chain.beta[7]).sqrt() * z, chain.beta[7].sqrt()).log_prob(
            torch.tensor(-0.9, dtype=torch.float64))).softmax(0)  # fmt: skip
        mean = float((density * z).sum())
        assert float(chain.mean_before(clean, x, k)) == pytest.approx(mean, abs=1e-5)
        variance = float((density * (z - mean) ** 2).sum())
        assert float(chain.log_variances[0][7]) == pytest.approx(math.log(variance), abs=1e-4)


@pytest.mark.parametrize("levels", [100, 1000, 4000])
def test_the_last_level_is_noise_for_any_number_of_levels(levels):
    chain = Chain.whole(DiffusionConfig(levels=levels))
    assert 0 < float(chain.signal[-1]) < 1e-4
    assert chain.respaced(1).times.tolist() == [levels - 1] and chain.respaced(10).times[[0, -1]].tolist() == [
        0,
        levels - 1,
    ]


def test_noise_in_and_out():
    x, noise, k = torch.randn(5, 4, 2), torch.randn(5, 4, 2), torch.tensor([0, 10, 300, 700, 999])
    assert torch.allclose(CHAIN.clean(CHAIN.noisy(x, noise, k), noise, k), x, atol=1e-3)
    assert float(CHAIN.signal[-1]) == pytest.approx(4.04e-5, rel=0.01), "as published for 1,000 linear levels"


def test_the_bound_is_the_divergence_of_the_steps():
    x, noise, predicted = (torch.randn(3, 4, 2) for _ in range(3))
    share, k = torch.rand(3, 4, 2) * 2 - 1, torch.tensor([0, 1, 500])
    noisy = CHAIN.noisy(x, noise, k)
    found = CHAIN.bound(x, noisy, predicted, share, k)
    own = Normal(
        CHAIN.mean_before(CHAIN.clean(noisy, predicted, k), noisy, k), (0.5 * CHAIN.log_variance(share, k)).exp()
    )
    true = Normal(CHAIN.mean_before(x, noisy, k), (0.5 * CHAIN.log_variance(-torch.ones_like(x), k)).exp())
    expected = kl_divergence(true, own).flatten(1).mean(1)
    expected[0] = -own.log_prob(x)[0].mean()
    assert torch.allclose(found, expected / math.log(2), rtol=1e-3)
    share.requires_grad_()
    predicted.requires_grad_()
    CHAIN.bound(x, noisy, predicted, share, k).sum().backward()
    assert share.grad.abs().sum() > 0 and predicted.grad is None, "the noise learns from the squared error alone"


def test_a_new_network_predicts_zero_and_its_loss_is_one():
    made = module()
    out = made.model(torch.randn(3, 20, 3), torch.tensor([0, 500, 999]), torch.tensor([0, 1, 3]))
    assert out.shape == (3, 20, 6) and not out.any()
    noise = torch.randn(512, 20, 3)
    tokens, level = torch.randint(7, (512, 20)), torch.randint(1000, (512,))
    squared, _ = made.losses(tokens, torch.zeros(512, dtype=torch.long), level, noise)
    assert float(squared.detach().mean()) == pytest.approx(float(noise.square().mean()), rel=1e-6)


def test_codes_are_normalised_over_the_training_images():
    made = module()
    tokens = torch.randint(7, (50, 20), generator=torch.Generator().manual_seed(1))
    made.learn_from({"train": TokenSplit(tokens.numpy(), torch.zeros(50).long().numpy())})
    seen = made.model.space(tokens).flatten(0, 1).double()
    assert torch.allclose(seen.mean(0), torch.zeros(3).double(), atol=1e-6)
    assert torch.allclose(seen.std(0, correction=0), torch.ones(3).double(), atol=1e-6)
    assert torch.equal(made.model.space.back(made.model.space(tokens) + 1e-4), tokens)


def test_vectors_are_normalised_over_the_training_images():
    space, random = Vectors(3), torch.Generator().manual_seed(1)
    vectors = 5 + torch.tensor([0.1, 2.0, 30.0]) * torch.randn(50, 20, 3, generator=random)
    split = TokenSplit(vectors.numpy(), torch.zeros(50).long().numpy())
    space.fit(split)
    seen = space(split.gather(np.arange(50))[0]).flatten(0, 1).double()
    assert torch.allclose(seen.mean(0), torch.zeros(3).double(), atol=1e-5)
    assert torch.allclose(seen.std(0, correction=0), torch.ones(3).double(), atol=1e-5)
    assert torch.allclose(space.back(space(vectors)), vectors, atol=1e-4)


def scrambled() -> DiffusionModule:
    made = module().eval()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return made


@pytest.mark.parametrize("solver", ["ancestral", "ddim"])
def test_image_does_not_depend_on_batch(solver):
    made, settings = scrambled(), SampleConfig(passes=5, solver=solver, guidance=1.5, seed=3)
    labels = torch.arange(6) % 3
    with made.ready_to_draw(settings) as draw:
        whole = draw(labels, range(6))
        assert torch.equal(whole, torch.cat([draw(labels[i : i + 1], [i]) for i in range(6)]))
        assert torch.equal(whole[2:], draw(labels[2:], range(2, 6)))
    assert len({tuple(row) for row in whole.tolist()}) == 6
    assert torch.equal(made.drawn(settings, labels).tokens[-1], whole), "the last pass takes for clean what is drawn"


def test_noise_of_an_image_goes_on():
    one, other = ImageNoise(0, [4]), ImageNoise(0, [3, 4])
    first, second = one(5, 2), one(5, 2)
    assert torch.equal(other(5, 2)[1], first[0]) and torch.equal(other(5, 2)[1], second[0])
    assert not torch.equal(first, second)


def test_guidance_of_some_channels():
    model, x, labels = scrambled().model, torch.randn(2, 20, 3), torch.tensor([0, 2])
    time, none = torch.tensor([500, 500]), torch.full((2,), 3)
    own, free = model(x, time, labels).split(3, -1), model(x, time, none).split(3, -1)
    for channels in (None, 2):
        noise, share = guided(model, x, time, labels, SampleConfig(guidance=1.5, guidance_channels=channels))
        assert torch.allclose(noise[..., :2], (free[0] + 1.5 * (own[0] - free[0]))[..., :2], atol=1e-5)
        last = free[0] + 1.5 * (own[0] - free[0]) if channels is None else own[0]
        assert torch.allclose(noise[..., 2], last[..., 2], atol=1e-5) and torch.allclose(share, own[1], atol=1e-5)


def test_operations_on_paper_are_those_that_are_done(monkeypatch):
    monkeypatch.setattr("radar.kernels.fused.kernels", lambda: None)  # which PyTorch could not count
    made, settings = module(), SampleConfig(passes=3, guidance=1.5)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), made.ready_to_draw(settings) as draw:
        draw(torch.tensor([0]), [0])
    looked_up = 2 * 7 * 20 * 3  # the nearest codes
    assert counter.get_total_flops() == pytest.approx(made.sampling(settings).cost.flops, abs=looked_up)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["order.name=raster"], "draws all cells at once"),
        (["attention=plain"], "draws all cells at once"),
        (["train.permutations=random"], "draws all cells at once"),
        (["model.conditioning=token"], "choose adaln"),
        (["model.query_share=0.5"], "no effect on a diffusion"),
        (["sample.passes=1001"], "sample.passes=1001 is not possible: 1 to diffusion.levels=1000"),
        (["diffusion.beta_end=0.99"], "a share of signal up to 0.01, and more than none, not 0"),
        (["diffusion.beta_end=0.001"], "a share of signal up to 0.01"),
        (["diffusion.beta_start=0.03"], "they must grow"),
        (
            ["sample.solver=ddim", "sample.temperature=0.9"],
            "sample.temperature=0.9 has no effect on sample.solver=ddim",
        ),
        (["sample.rotary=ntk"], "sample.rotary=ntk has no effect"),
        (["revise.rings=1"], "revise.rings=1 has no effect on a diffusion"),
        (["model.class_position=false"], "model.class_position=False has no effect"),
        (["train.optimizer=sgd"], "unknown optimizer 'sgd'"),
        (["method=radar", "diffusion.levels=70"], "have no effect on an autoregressive generator"),
        (["sample.solver=euler"], "unknown solver 'euler'; choose from: ancestral, ddim"),
        (["sample.top_k=5"], "sample.top_k=5 has no effect on a diffusion"),
        (["sample.guidance_channels=2"], "codes have 1 channels"),
        (["sample.grid=[8,12]"], "sample.grid=.* has no effect on a diffusion"),
        (["generator=gan"], "unknown generator 'gan'; choose from: autoregressive, diffusion"),
        (["generator=autoregressive", "sample.passes=9"], "sample.passes=9 has no effect on an autoregressive"),
    ],
)
def test_what_is_not_possible(options, message, tmp_path, capsys):
    import re

    capsys.readouterr()
    line = fails(capsys, "train", "digits", "method=dit", f"run={tmp_path / 'run'}", *options)
    assert re.search(message, line), line
    assert not (tmp_path / "run").exists()


def test_the_network_needs_two_outputs_only_for_a_learned_variance():
    config = ModelConfig(dim=16, layers=1, heads=1, conditioning="adaln")
    one = Denoiser(config, Codes(CODES), 3, (2, 2), 1)
    assert one(torch.randn(1, 4, 3), torch.tensor([3]), torch.tensor([0])).shape[2] == 3
    made = module(diffusion={"learned_variance": False})
    with made.ready_to_draw(SampleConfig(passes=2)) as draw:
        assert draw(torch.tensor([0]), [0]).shape == (1, 20)


@pytest.mark.parametrize(
    ("tokenizer", "latents"), [(["name=fsq", "fsq_levels=[5,5]"], True), (["name=autoencoder", "code=2"], False)]
)
def test_vectors_in_place_of_tokens(tmp_path, capsys, tokenizer, latents):
    """From images to a row: what the encoder gives before it is rounded, and a tokenizer that rounds nothing."""
    options = [f"tokenizer.{option}" for option in [*tokenizer, "levels=null", "width=8", "downsample=2"]]
    own, run, few = tmp_path / "tokenizer", tmp_path / "run", ["train.max_steps=2", "train.batch_size=4"]
    main(["tokenizer", "digits", f"run={own}", *options, *few, f"data.cache={tmp_path}"])
    main(["evaluate", str(own / "last.ckpt")])
    judged = json.loads((own / "evaluation.json").read_text())
    assert judged["psnr"] > 0 and ("perplexity" in judged) == latents
    options += [f"tokenizer.checkpoint={own / 'last.ckpt'}", f"data.cache={tmp_path}", *few, "train.val_images=8"]
    capsys.readouterr()
    line = fails(capsys, "train", "digits", f"run={run}", *options, f"diffusion.latents={latents}")
    assert "needs tokens, and tokenizer" in line and "choose method=dit" in line
    options += ["method=dit", f"diffusion.latents={latents}", "model.dim=16", "model.heads=1", "sample.passes=3"]
    main(["train", "digits", f"run={run}", *options])
    main(["evaluate", str(run / "last.ckpt"), "evaluate.images=40", "evaluate.timing_repeats=1"])
    assert json.loads((run / "evaluation.json").read_text())["fid"] > 0
    generator = load_generator(run / "last.ckpt")
    drawn = draw_samples(generator, replace(generator.config.sample, images=3))
    assert drawn.tokens.shape == (3, 16, 2) and drawn.tokens.dtype == torch.float32
    assert torch.equal(drawn.images, generator.tokenizer.decode(drawn.tokens, (4, 4)))


def test_in_a_study_beside_tokens(tmp_path):
    study = tmp_path / "two.yaml"
    study.write_text("""
name: two
base: digits
seeds: [0]
baseline: raster
config:
  model: {dim: 16, heads: 1, layers: 1}
  train: {max_steps: 4, batch_size: 8, val_every: 2}
  evaluate: {images: 60, timing_repeats: 1}
tune: {trials: 2, images: 50, ranges: {sample.temperature: {low: 0.9, high: 1.1}}}
arms:
  raster: {order: {name: raster}, attention: causal}
  dit: {method: dit, sample: {passes: 3}}
""")
    main(["ablate", str(study), "--out", str(tmp_path / "out"), f"data.cache={tmp_path}"])
    raster, dit = json.loads((tmp_path / "out" / "results.json").read_text())["rows"]
    assert (raster["steps"], dit["steps"]) == (64, 3) and dit["group_sizes"] is None and dit["nll"] is None
    assert raster["curve"] and not dit["curve"] and dit["fid"] > 0


def test_from_images_to_a_row(tmp_path, capsys):
    run = tmp_path / "run"
    small = [
        "model.dim=16",
        "model.heads=1",
        "model.layers=1",
        "train.max_steps=4",
        "train.batch_size=8",
        "train.val_samples=20",
    ]
    main(["train", "digits", "method=dit", f"run={run}", f"data.cache={tmp_path}", *small, "sample.passes=4"])
    main(["evaluate", str(run / "last.ckpt"), "evaluate.images=60", "evaluate.timing_repeats=1", "sample.solver=ddim"])
    row = json.loads((run / "evaluation.json").read_text())
    assert row["steps"] == 4 and row["nll"] is None and row["gap"] is None and row["fid"] > 0
    assert row["order"] == "together" and row["slots"] == 64 and row["sampled_slots"] == 4 * 64
    main(["sample", str(run / "last.ckpt"), "sample.images=10"])
    assert (run / "samples" / "film.gif").exists()
    capsys.readouterr()
    assert "only an autoregressive generator" in fails(capsys, "edit", run / "last.ckpt")
    assert "only an autoregressive generator" in fails(capsys, "evaluate", run / "last.ckpt", "evaluate.edits=[box]")
