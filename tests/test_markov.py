"""A field that can be enumerated: exact gap, what the sampler draws, and the Gaussian formula agree."""

import itertools
import json

import pytest
import torch
from scipy.stats import chisquare, spearmanr

from ablations.cli import main
from radar.config.options import OrderConfig
from radar.decoding.orders import decode_steps
from radar.sampling.exact_field import draw, exact_gap, ising, marginal, measured_gap
from tests.command_line import fails


def drawn_from(p: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
    """Probabilities (2^N,) of what a grouped sampler with exact conditionals draws, image by image."""
    groups = [torch.nonzero(step == k).flatten().tolist() for k in range(int(step.max()) + 1)]
    found = []
    for image in itertools.product((0, 1), repeat=p.ndim):
        q, past = 1.0, []
        for group in groups:
            before = float(marginal(p, past)[tuple(image[i] for i in past)])
            for cell in group:
                q *= float(marginal(p, [*past, cell])[tuple(image[i] for i in [*past, cell])]) / before
            past = past + group
        found.append(q)
    return torch.tensor(found, dtype=torch.float64)


@pytest.mark.parametrize("order", [OrderConfig("halton", steps=2), OrderConfig("radial"), OrderConfig("raster")])
def test_exact_gap_is_the_kl_divergence_and_the_sampler_draws_so(order):
    p, step = ising(2, 3, 0.9), decode_steps(order, 2, 3)
    q = drawn_from(p, step)
    assert float(q.sum()) == pytest.approx(1)
    assert exact_gap(p, step) == pytest.approx(float((p.flatten() * (p.flatten() / q).log()).sum()), abs=1e-9)
    counts = draw(p, step, 20_000)
    assert chisquare(counts.numpy(), 20_000 * q.numpy()).pvalue > 1e-3
    sampled, half = measured_gap(p, counts)
    assert abs(sampled - exact_gap(p, step)) < 1.7 * half + 1e-3


def test_the_verb(tmp_path):
    main(["markov", "--grid", "2x3", "--images", "20000", "--out", str(tmp_path / "markov.png")])
    rows = json.loads((tmp_path / "markov.json").read_text())
    assert all(abs(row["sampled"] - row["exact"]) < 2 * row["half"] + 2e-3 for row in rows)
    exact, sampled, gaussian = ([row[key] for row in rows] for key in ("exact", "sampled", "gaussian"))
    assert spearmanr(exact, sampled).statistic > 0.9 and spearmanr(exact, gaussian).statistic > 0.9
    assert (tmp_path / "markov.png").exists()


@pytest.mark.parametrize(
    "options", [["--coupling", "60"], ["--coupling", "nan"], ["--images", "0"], ["--grid", "1x1"], ["--out", "m.json"]]
)
def test_fields_that_cannot_be_had(options, capsys):
    assert " ".join(options) in fails(capsys, "markov", *options)
    assert capsys.readouterr().out == ""
